"""The channels of SevenNet models, and models with fewer of them.

| width | streams |
|---|---|
| l0, l1, … | channels of each irrep of this degree of the embedding and each block but the last: its own, since |
| | blocks do not add to their input; separately, as many of the linear map before each convolution |
| lmax | the highest degree of atoms and edges; all channels of higher degrees are removed |

A width is the largest number of channels; irreps that have fewer keep theirs. The last block's scalars are kept, since
the package's format derives the readout's width from them. A gate is removed with its channel.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from e3nn.o3 import Irrep, Irreps
from torch import Tensor, nn

from atomslim.errors import ConfigError
from atomslim.families.sevennet.family import FAMILY
from atomslim.families.sevennet.irreps import SCALAR, channels
from atomslim.models.channels import Axis, ChannelLayout, Kept, filled

if TYPE_CHECKING:
    from atomslim.families.sevennet.model import SevenNet

HIGHEST = "lmax"
"""The width that is a degree."""


def widths(model: "SevenNet") -> dict[str, int]:
    """Return the largest number of channels of each degree in any state but the last, and the highest degree."""
    found: dict[str, int] = {}
    for entry in chain.from_iterable(Irreps(text) for text in model.config.irreps[:-1]):
        found[_width(entry.ir)] = max(entry.mul, found.get(_width(entry.ir), 0))
    degree = max(Irreps(text).lmax for text in model.config.irreps)
    return dict(sorted(found.items())) | ({HIGHEST: degree} if degree else {})


def cut_degrees(model: "SevenNet", sizes: Mapping[str, int]) -> tuple["SevenNet", dict[str, int]]:
    """Return the model without the degrees above a width ``lmax``, and the remaining widths.

    Raises ConfigError for a width of a removed degree.
    """
    highest = sizes.get(HIGHEST, model.config.lmax_edge)
    gone = [name for name in sizes if name != HIGHEST and int(name[1:]) > highest]
    if gone:
        raise ConfigError(f"width {gone[0]}: is of a degree above {HIGHEST} {highest}: leave one of them out")
    if highest < widths(model).get(HIGHEST, 0):
        model = model.without_units([f"l {highest + 1}"])
    return model, {name: size for name, size in sizes.items() if name != HIGHEST}


def layout(model: "SevenNet") -> ChannelLayout:
    """Say where the channels are: of parameters by their names, of layers as matrices (outputs, inputs)."""
    return _Layout(model).result()


def narrowed(model: "SevenNet", kept: Kept) -> "SevenNet":
    """Return a copy with these channels only, kept numbers unchanged."""
    states = [Irreps(text) for text in model.config.irreps]
    irreps = [
        Irreps([(len(kept.get(_state(block, entry.ir), range(entry.mul))), entry.ir) for entry in state])
        for block, state in zip((0, *model.block_ids), states, strict=True)
    ]
    config = model.config.model_copy(update={"irreps": tuple(map(str, irreps))})
    new = cast("SevenNet", FAMILY.build(config, list(model.tasks.values())))
    return filled(new, model, layout(model), kept)


def taken_in(module: nn.Module, layer: str, state: Mapping[Irrep, Tensor]) -> Tensor:
    """Return the channels of a layer's irrep, (atoms, components, channels); no atoms if the state lacks it."""
    kind = layer.rpartition(".weights.")[2]
    weight = module.get_parameter(f"weights.{kind}")
    found = state.get(Irrep(kind))
    return weight.new_zeros(0, 1, weight.shape[-2]) if found is None else found


def as_matrix(weight: Tensor) -> Tensor:
    """Return weights (inputs, outputs) or (elements, inputs, outputs) as (outputs, inputs), elements side by side."""
    return weight.T if weight.dim() == 2 else weight.transpose(1, 2).flatten(0, 1)


def from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """Return what `as_matrix` was given."""
    return matrix.T if like.dim() == 2 else matrix.unflatten(0, (len(like), -1)).transpose(1, 2)


def feature_streams(model: "SevenNet") -> dict[str, str]:
    """Name the streams of the scalars of the embedding and of each block but the last: ``node 3``."""
    return {f"node {block}": _state(block, SCALAR) for block in (0, *model.block_ids)[:-1]}


class _Layout:
    """Builds the axes of all tensors of one model."""

    def __init__(self, model: "SevenNet") -> None:
        self.model = model
        self.states = [channels(Irreps(text)) for text in model.config.irreps]
        self.sizes: dict[str, int] = {}
        self.widths: dict[str, str] = {}
        self.axes: dict[str, tuple[Axis, ...]] = {}

    def result(self) -> ChannelLayout:
        """Return the layout."""
        self._note("embedding.weight", len(self.model.config.species), (self._part(0, SCALAR),))
        self._offsets("embedding", (self._part(0, SCALAR),))
        stages = {f"block {block}": tuple(self._block(index)) for index, block in enumerate(self.model.block_ids)}
        return ChannelLayout(self.sizes, self.widths, self.axes, stages)

    def _part(self, index: int, kind: Irrep) -> tuple[str | int, ...]:
        """Return the channels of an irrep of a state; those of the last state are not a stream."""
        size = self.states[index][kind]
        return (size,) if index == len(self.states) - 1 else self._stream(_state(self._number(index), kind), kind, size)

    def _number(self, index: int) -> int:
        """Return the number of the block that gives a state; 0 is the embedding."""
        return (0, *self.model.block_ids)[index]

    def _stream(self, name: str, kind: Irrep, size: int) -> tuple[str | int, ...]:
        self.sizes[name], self.widths[name] = size, _width(kind)
        return (name,)

    def _block(self, index: int) -> Iterator[str]:
        block: Any = self.model.blocks[index]
        hidden = {
            kind: self._stream(f"first {self._number(index + 1)} {kind}", kind, size)
            for kind, size in self.states[index].items()
        }
        given = {kind: (self._part(index, kind),) for kind in self.states[index]}
        paths = block.convolution.paths
        messages = {
            path.message: tuple(hidden[other.source] for other in paths if other.message == path.message)
            for path in paths
        }
        inner, name = self._inner(index + 1), f"blocks.{index}"
        yield from self._linear(f"{name}.connection", given, inner)
        yield from self._linear(f"{name}.first", given, {kind: (part,) for kind, part in hidden.items()})
        yield from self._linear(f"{name}.second", messages, inner)
        last = f"{name}.convolution.last"
        self._note(last, self.model.get_parameter(last).shape[0], tuple(hidden[path.source] for path in paths))

    def _inner(self, index: int) -> dict[Irrep, Axis]:
        """Return a gate's inputs: even scalars, then a gate for each channel of a higher degree; the others."""
        parts: dict[Irrep, Axis] = {kind: (self._part(index, kind),) for kind in self.states[index]}
        gates = tuple(self._part(index, kind) for kind in self.states[index] if kind.l > 0)
        return {**parts, SCALAR: (*parts[SCALAR], *gates)}

    def _linear(self, module: str, given: Mapping[Irrep, Axis], made: Mapping[Irrep, Axis]) -> Iterator[str]:
        layers = cast("nn.ParameterDict", self.model.get_submodule(f"{module}.weights"))
        for kind, weight in ((Irrep(name), weight) for name, weight in layers.items()):
            layer, rows, columns = f"{module}.weights.{kind}", given[kind], made[kind]
            elements = len(weight) if weight.dim() == 3 else None
            self.axes[layer] = (rows, columns) if elements is None else (((elements,),), rows, columns)
            self.axes[f"{layer}.weight"] = (columns if elements is None else columns * elements, rows)
            yield layer
        self._offsets(module, made[SCALAR])

    def _offsets(self, module: str, columns: Axis) -> None:
        """Add the axis of biases of even scalars, or of one for each level of theory."""
        owner: Any = self.model.get_submodule(module)
        if getattr(owner, "bias", None) is not None:
            self.axes[f"{module}.bias"] = (columns,)
        if getattr(owner, "modality", None) is not None:
            self._note(f"{module}.modality", len(owner.modality), columns)

    def _note(self, name: str, rows: int, columns: Axis) -> None:
        self.axes[name] = (((rows,),), columns)


def _state(block: int, kind: Irrep) -> str:
    return f"state {block} {kind}"


def _width(kind: Irrep) -> str:
    return f"l{kind.l}"
