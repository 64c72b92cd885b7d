"""The channels of JMP models, and models with fewer of them.

| width | streams |
|---|---|
| atom (d_a) | h with the features read from it; the node readout; hidden channels of layers between atom features |
| edge (d_e) | m with the features read from it; the edge readout; hidden channels of layers between edge features |
| triplet_in, triplet_out | messages before and after each triplet sum |
| quadruplet_in, quadruplet_out | the same of quadruplets |
| pair_in, pair_out | the same of the sum over all neighbours of an atom |
| radial, circular, spherical | each projection of the radial basis |

Where edge and atom features are equally wide, JMP adds sums of the ones to the others: their channels are the same.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.errors import ConfigError
from atomslim.families.jmp.gemnet_oc.geometry import edge_vectors
from atomslim.families.jmp.gemnet_oc.graphs import Topology
from atomslim.models.channels import Axis, ChannelLayout, Kept, filled

if TYPE_CHECKING:
    from atomslim.families.jmp.model import JMP

SIZES: Mapping[str, str] = MappingProxyType(
    {
        "atom": "emb_size_atom",
        "edge": "emb_size_edge",
        "triplet_in": "emb_size_trip_in",
        "triplet_out": "emb_size_trip_out",
        "quadruplet_in": "emb_size_quad_in",
        "quadruplet_out": "emb_size_quad_out",
        "pair_in": "emb_size_aint_in",
        "pair_out": "emb_size_aint_out",
        "radial": "emb_size_rbf",
        "circular": "emb_size_cbf",
        "spherical": "emb_size_sbf",
    }
)
"""Width → its name in the configuration."""

_PASSES = {
    "edge_to_edge": ("edge", "triplet", "edge_to_edge", "edge"),
    "quadruplet": ("edge", "quadruplet", "quadruplet", "edge"),
    "atom_to_edge": ("atom", "triplet", "atom_to_edge", "edge"),
    "edge_to_atom": ("edge", "triplet", "edge_to_atom", "atom"),
}
"""Pass of a block → its input, the width of its messages, its basis and its output."""


def widths(model: "JMP") -> dict[str, int]:
    """Return the sizes of all widths."""
    return {width: getattr(model.config, field) for width, field in SIZES.items()}


def layout(model: "JMP") -> ChannelLayout:
    """Say where the channels are."""
    return _Layout(model).result()


def narrowed(model: "JMP", kept: Kept) -> "JMP":
    """Return a copy with these channels only, kept numbers unchanged.

    Raises ConfigError for streams of one width that are to keep different numbers.
    """
    from atomslim.families.jmp.family import FAMILY  # noqa: PLC0415 - the family's module imports this one

    channels = layout(model)
    sizes: dict[str, set[int]] = {}
    for stream, size in channels.sizes.items():
        sizes.setdefault(channels.widths[stream], set()).add(len(kept.get(stream, range(size))))
    unequal = [width for width, found in sizes.items() if len(found) > 1]
    if unequal:
        raise ConfigError(f"width {unequal[0]}: its streams keep different numbers of channels")
    changes: dict[str, Any] = {SIZES[width]: found.pop() for width, found in sizes.items()}
    if not model.config.narrows:
        changes[SIZES["edge"]] = changes[SIZES["atom"]]
    changes["always_narrows"] = model.config.narrows and changes[SIZES["edge"]] == changes[SIZES["atom"]]
    config = FAMILY.configuration(model).model_copy(update=changes)
    new = cast("JMP", FAMILY.build(config, list(model.tasks.values())))
    return filled(new, model, channels, kept)


def basis_rows(model: "JMP", batch: AtomsBatch, topology: Topology) -> dict[str, Float[Tensor, "rows functions"]]:
    """Return the values of every projection of the radial basis, by stream: one row per edge (and degree)."""
    bases = model.backbone.bases
    distances = {
        name: torch.linalg.vector_norm(edge_vectors(batch, getattr(topology, name)), dim=-1)
        for name in ("main", "atom", "atom_edge", "quad")
    }
    rbf = {name: bases.rbf(distance) for name, distance in distances.items()}
    others = {"radial atom_to_edge": "atom_edge", "radial atom_to_atom": "atom"}
    others |= {"circular edge_to_atom": "atom_edge", "circular quadruplet_circular": "quad"}
    found = {}
    for name in bases.radial:
        weight = cast("nn.Linear", bases.radial[name]).weight
        found[f"radial {name}"] = rbf[others.get(f"radial {name}", "main")] @ weight.T
    for name in bases.angular:
        stream = _angular_stream(name)
        weights = cast("Any", bases.angular[name]).by_function(1.0)
        values = torch.einsum("er,rks->esk", rbf[others.get(stream, "main")], weights)
        found[stream] = values.flatten(0, 1)
    return found


def _angular_stream(name: str) -> str:
    return f"{'spherical' if name == 'quadruplet_spherical' else 'circular'} {name}"


class _Layout:
    """Builds the axes of all tensors of one model."""

    def __init__(self, model: "JMP") -> None:
        self.model, self.config = model, model.config
        self.edge = "edge" if self.config.narrows else "atom"
        self.streams: dict[str, str] = {}
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.basis_readers: dict[str, str] = {}

    def result(self) -> ChannelLayout:
        """Return the layout."""
        stages = {"embedding": list(self._embedding())}
        for index, block in enumerate(self.model.block_ids):
            layers = [*self._block(f"backbone.blocks.{index}"), *self._output(f"backbone.outputs.{index + 1}")]
            stages[f"block {block}"] = layers
        stages |= {"readout": list(self._readout()), "heads": list(self._heads())}
        sizes = widths(self.model)
        return ChannelLayout(
            {stream: sizes[width] for stream, width in self.streams.items()},
            self.streams,
            self.axes,
            {part: tuple(layers) for part, layers in stages.items()},
            self.basis_readers,
        )

    def stream(self, name: str, width: str) -> str:
        """Note a stream and return its name."""
        self.streams[name] = width
        return name

    def main(self, kind: str) -> str:
        """Return the stream of atom or of edge features."""
        return self.stream("atom", "atom") if kind == "atom" else self.stream(self.edge, self.edge)

    def linear(self, layer: str, columns: Axis, row: str | int) -> str:
        """Note a linear layer's weight and, if it has one, bias; return its name."""
        self.axes[f"{layer}.weight"] = (((row,),), columns)
        if getattr(self.model.get_submodule(layer), "bias", None) is not None:
            self.axes[f"{layer}.bias"] = (((row,),),)
        return layer

    def residuals(self, name: str, stream: str, width: str) -> Iterator[str]:
        """Note residual layers: their hidden channels are each layer's own."""
        for index, _ in enumerate(cast("nn.Sequential", self.model.get_submodule(name))):
            layer = f"{name}.{index}"
            hidden = self.stream(layer, width)
            yield self.linear(f"{layer}.first", ((stream,),), hidden)
            yield self.linear(f"{layer}.second", ((hidden,),), stream)

    def _embedding(self) -> Iterator[str]:
        config, bases = self.config, "backbone.bases"
        atom, edge = self.main("atom"), self.main("edge")
        self.axes["embedding.weight"] = (((config.num_elements,),), ((atom,),))
        for name in self.model.backbone.bases.radial:
            self.linear(f"{bases}.radial.{name}", ((config.num_radial,),), self.stream(f"radial {name}", "radial"))
        for name, weight in self.model.backbone.bases.angular.items():
            stream = _angular_stream(name)
            functions = cast("Any", weight).weight.shape[1]
            self.stream(stream, stream.partition(" ")[0])
            self.axes[f"{bases}.angular.{name}.weight"] = ((((config.num_radial,),)), ((stream, functions),))
        yield self.linear(f"{bases}.edge_embedding", ((atom,), (atom,), (config.num_radial,)), edge)
        yield from self._output("backbone.outputs.0")

    def _block(self, block: str) -> Iterator[str]:
        atom, edge = self.main("atom"), self.main("edge")
        yield self.linear(f"{block}.skip", ((edge,),), edge)
        for name, what in _PASSES.items():
            yield from self._pass(f"{block}.{name}", *what)
        yield from self._pairs(f"{block}.atom_to_atom", atom)
        yield from self.residuals(f"{block}.before_skip", edge, self.edge)
        yield from self.residuals(f"{block}.after_skip", edge, self.edge)
        yield from self.residuals(f"{block}.atom_layers", atom, "atom")
        yield from self._atom_update(f"{block}.atom_update", "radial atom_update")
        yield self.linear(f"{block}.concat", ((atom,), (atom,), (edge,)), edge)
        yield from self.residuals(f"{block}.concat_layers", edge, self.edge)

    def _pass(self, name: str, given: str, messages: str, basis: str, made: str) -> Iterator[str]:
        width = "atom" if given == "atom" else self.edge
        hidden = self.stream(f"{name} hidden", width)
        narrow = self.stream(f"{name} in", f"{messages}_in")
        summed = self.stream(f"{name} out", f"{messages}_out")
        angular = _angular_stream("quadruplet_spherical" if messages == "quadruplet" else basis)
        yield self.linear(f"{name}.input", ((self.main(given),),), hidden)
        yield self.linear(f"{name}.radial", ((f"radial {basis}",),), hidden)
        yield self.linear(f"{name}.down", ((hidden,),), narrow)
        if messages == "quadruplet":
            circular = _angular_stream("quadruplet_circular")
            self.basis_readers[self.linear(f"{name}.circular", ((circular,),), narrow)] = circular
        yield self.linear(f"{name}.bilinear", ((angular, narrow),), summed)
        for up in ("up", "up_reverse") if made == "edge" else ("up",):
            yield self.linear(f"{name}.{up}", ((summed,),), self.main(made))

    def _pairs(self, name: str, atom: str) -> Iterator[str]:
        narrow, summed = self.stream(f"{name} in", "pair_in"), self.stream(f"{name} out", "pair_out")
        yield self.linear(f"{name}.down", ((atom,),), narrow)
        yield self.linear(f"{name}.bilinear", (("radial atom_to_atom", narrow),), summed)
        yield self.linear(f"{name}.up", ((summed,),), atom)

    def _atom_update(self, name: str, radial: str) -> Iterator[str]:
        atom, edge = self.main("atom"), self.main("edge")
        self.basis_readers[self.linear(f"{name}.radial", ((radial,),), edge)] = radial
        if self.config.narrows:
            yield self.linear(f"{name}.dense", ((edge,),), atom)
        yield from self.residuals(f"{name}.layers", atom, "atom")

    def _output(self, name: str) -> Iterator[str]:
        yield from self._atom_update(f"{name}.atom_update", "radial output")
        yield from self.residuals(f"{name}.atom_layers", self.main("atom"), "atom")
        if self.config.direct_forces:
            edge = self.main("edge")
            yield from self.residuals(f"{name}.edge_layers", edge, self.edge)
            yield self.linear(f"{name}.edge_radial", (("radial output",),), edge)

    def _readout(self) -> Iterator[str]:
        for branch in self.model.readout:
            width = "atom" if branch == "node" else self.edge
            stream = self.stream(f"{branch} readout", width)
            features = self.main("atom" if branch == "node" else "edge")
            columns: Axis = ((features,),) * (self.config.num_blocks + 1)
            yield self.linear(f"readout.{branch}.first", columns, stream)
            yield from self.residuals(f"readout.{branch}.layers", stream, width)

    def _heads(self) -> Iterator[str]:
        for task in self.model.tasks.values():
            for target in task.targets:
                if target.kind == "conservative_forces":
                    continue
                direct = target.kind == "direct_forces"
                head = f"heads.{task.name}.{target.name}"
                yield from self._head(head, "edge readout" if direct else "node readout")

    def _head(self, head: str, stream: str) -> Iterator[str]:
        layers = cast("Any", self.model.get_submodule(head)).layers
        for index, _ in enumerate(layers):
            last = index == len(layers) - 1
            row: str | int = 1 if last else self.stream(f"{head}.{index}", self.streams[stream])
            yield self.linear(f"{head}.layers.{index}", ((stream,),), row)
            stream = str(row)
