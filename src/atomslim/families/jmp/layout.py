"""JMP's checkpoint format: which tensors there are, in which order, and what they are called here.

The order is that of JMP's modules. It matters because the averaged weights come as a tuple without names.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from atomslim.errors import ConfigError
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.models.tasks import Target, Task

Role = Literal["parameter", "alias", "scale", "offset", "temps", "counter"]
"""What a tensor is.

parameter: a trained weight; alias: the same weight under its second name; scale: a fitted factor; offset, temps: a copy
of the radial basis' centres, or of half its inverse squared width; counter: steps taken with a task, not read.
"""

_BASIS_COPIES = (
    "radial_basis",
    "cbf_basis_qint.radial_basis",
    "sbf_basis_qint.radial_basis",
    "radial_basis_aeaint",
    "cbf_basis_aeint.radial_basis",
    "cbf_basis_eaint.radial_basis",
    "radial_basis_aint",
    "cbf_basis_tint.radial_basis",
)
# JMP's name → ours, in JMP's order
_BASES = {
    "mlp_rbf_qint.linear": "radial.quadruplet",
    "mlp_cbf_qint": "angular.quadruplet_circular",
    "mlp_sbf_qint": "angular.quadruplet_spherical",
    "mlp_rbf_aeint.linear": "radial.atom_to_edge",
    "mlp_cbf_aeint": "angular.atom_to_edge",
    "mlp_rbf_eaint.linear": "radial.edge_to_atom",
    "mlp_cbf_eaint": "angular.edge_to_atom",
    "mlp_rbf_aint": "radial.atom_to_atom",
    "mlp_rbf_tint.linear": "radial.edge_to_edge",
    "mlp_cbf_tint": "angular.edge_to_edge",
    "mlp_rbf_h.linear": "radial.atom_update",
    "mlp_rbf_out.linear": "radial.output",
    "edge_emb.dense.linear": "edge_embedding",
}
_UP = {"down_projection": "down", "up_projection_ca": "up", "up_projection_ac": "up_reverse"}
_TRIPLETS = {
    "dense_ba": "input",
    "mlp_rbf": "radial",
    "scale_rbf": "scale_radial",
    "mlp_cbf.bilinear": "bilinear",
    "scale_cbf_sum": "scale_sum",
    **_UP,
}
_QUADRUPLETS = {
    "dense_db": "input",
    "mlp_rbf": "radial",
    "scale_rbf": "scale_radial",
    "mlp_cbf": "circular",
    "scale_cbf": "scale_circular",
    "mlp_sbf.bilinear": "bilinear",
    "scale_sbf_sum": "scale_sum",
    **_UP,
}
_PAIRS = {
    "bilinear": "bilinear",
    "scale_rbf_sum": "scale_sum",
    "down_projection": "down",
    "up_projection": "up",
}
_PASSES = {
    "trip_interaction": ("edge_to_edge", _TRIPLETS),
    "quad_interaction": ("quadruplet", _QUADRUPLETS),
    "atom_edge_interaction": ("atom_to_edge", _TRIPLETS),
    "edge_atom_interaction": ("edge_to_atom", {name: ours for name, ours in _TRIPLETS.items() if ours != "up_reverse"}),
    "atom_interaction": ("atom_to_atom", _PAIRS),
}
_HEAD_LAYERS = (0, 2, 4, 6, 8)
_HEAD = re.compile(
    r"(?P<prefix>output\.out_(?P<many>energy|forces)\.(?P<index>\d+)"
    r"|out_(?P<one>energy|forces)"
    r"|graph_outputs\._module_dict\.ft_mlp_(?P<scalar>[^.]+)\.out_mlp)\.(?P<layer>\d+)\.(?:weight|bias)"
)
_COUNTER = re.compile(r"task_steps\._module_dict\._typed_moduledict_(?P<task>[^.]+)\.sum_value")
HeadKind = Literal["energy", "forces", "scalar"]
_KINDS: dict[str, HeadKind] = {
    "energy": "energy",
    "direct_forces": "forces",
    "scalar": "scalar",
    "r2": "scalar",
    "binary": "scalar",
}


@dataclass(frozen=True)
class Name:
    """One tensor: what JMP calls it, what it is called here (empty if there is no such tensor), and what it is."""

    jmp: str
    ours: str
    role: Role = "parameter"


@dataclass(frozen=True)
class Head:
    """One head: JMP's prefix of its tensors, the task's index, the target, and whether it has biases."""

    prefix: str
    kind: HeadKind
    task: int
    target: str
    bias: bool


@dataclass(frozen=True)
class Layout:
    """What a checkpoint holds besides the backbone.

    Pre-training files have a numbered energy and force head for each task, and counters with the tasks' names.
    """

    pretraining: bool
    heads: tuple[Head, ...]
    counted: tuple[str, ...] = ()

    @classmethod
    def of_names(cls, names: Iterable[str]) -> "Layout":
        """Find heads and counters among the names of a checkpoint's tensors."""
        names = list(names)
        found = [match for match in map(_HEAD.fullmatch, names) if match]
        heads = list({match["prefix"]: _head_named(match, names) for match in found}.values())
        pretraining = any(name.startswith(("embedding.atom_embedding.", "output.")) for name in names)
        if pretraining:
            heads = _completed(heads)
        counted = tuple(match["task"] for match in map(_COUNTER.fullmatch, names) if match)
        return cls(pretraining, tuple(sorted(heads, key=_order)), counted)

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task], bare: Collection[str] = ()) -> "Layout":
        """Choose the kind of checkpoint that holds these tasks; raises ConfigError if neither does.

        ``bare`` are heads, as task.target, without biases.
        """
        pretraining = not bare and all(
            sorted(target.kind for target in task.targets) == ["direct_forces", "energy"] for task in tasks
        )
        heads = [
            _head_of(target, index, pretraining=pretraining, bias=f"{task.name}.{target.name}" not in bare)
            for index, task in enumerate(tasks)
            for target in task.targets
            if target.kind != "conservative_forces"
        ]
        unclear = len({head.prefix for head in heads}) != len(heads) or (len(tasks) > 1 and not pretraining)
        if not heads or unclear:
            raise ConfigError(
                "JMP's format holds several tasks that each have energy and direct forces, or one with at most one "
                "energy: save the model as .safetensors"
            )
        counted = tuple(task.name for task in tasks) if pretraining else ()
        return cls(pretraining, tuple(sorted(heads, key=_order)), counted)

    def names(self, config: GemNetOCConfig, tasks: Sequence[str]) -> list[Name]:
        """Return all tensors of a model of this size, whose tasks have these names here, in JMP's order."""
        embedding = "embedding.atom_embedding" if self.pretraining else "embedding"
        names = [Name(f"{embedding}.weight", "embedding.weight"), *_bases()]
        for block in range(config.num_blocks):
            names += _block(f"backbone.int_blocks.{block}.", f"backbone.blocks.{block}.", config)
        for block in range(config.num_blocks + 1):
            names += _output(f"backbone.out_blocks.{block}.", f"backbone.outputs.{block}.", config)
        names += _readout("backbone.out_mlp_E.out_mlp.", "readout.node.", config)
        if config.direct_forces:
            names += _readout("backbone.out_mlp_F.out_mlp.", "readout.edge.", config)
        for head in self.heads:
            names += _head_names(head, f"heads.{tasks[head.task]}.{head.target}.layers.")
        counters = (f"task_steps._module_dict._typed_moduledict_{task}.sum_value" for task in self.counted)
        return [*names, *(Name(counter, "", "counter") for counter in counters)]


def _order(head: Head) -> tuple[int, int]:
    return ["energy", "forces", "scalar"].index(head.kind), head.task


def _head_named(match: re.Match[str], names: Iterable[str]) -> Head:
    """Return the head that a tensor's name belongs to."""
    prefix, kind = match["prefix"], match["many"] or match["one"] or "scalar"
    biases = sum(name.startswith(prefix + ".") and name.endswith(".bias") for name in names)
    target = match["scalar"] or kind
    return Head(prefix, cast("HeadKind", kind), int(match["index"] or 0), target, bias=biases >= len(_HEAD_LAYERS) // 2)


def _completed(heads: Sequence[Head]) -> list[Head]:
    """Return the heads of all tasks, for every kind of head that some have."""
    kinds = dict.fromkeys(head.kind for head in heads if head.kind != "scalar")
    count = max((sum(head.kind == kind for head in heads) for kind in kinds), default=0)
    known = {head.prefix: head for head in heads}
    prefixes = {f"output.out_{kind}.{task}": (kind, task) for kind in kinds for task in range(count)}
    return [known.get(prefix, Head(prefix, kind, task, kind, bias=True)) for prefix, (kind, task) in prefixes.items()]


def _head_of(target: Target, task: int, *, pretraining: bool, bias: bool) -> Head:
    """Return the head that computes a target."""
    kind = _KINDS[target.kind]
    one = f"graph_outputs._module_dict.ft_mlp_{target.name}.out_mlp" if kind == "scalar" else f"out_{kind}"
    prefix = f"output.{one}.{task}" if pretraining else one
    return Head(prefix, kind, task, target.name, bias)


def _bases() -> Iterator[Name]:
    for copy in _BASIS_COPIES:
        yield Name(f"backbone.bases.{copy}.rbf.offset", "backbone.bases.offset", "offset")
        yield Name(f"backbone.bases.{copy}.rbf.temps", "", "temps")
    for jmp, ours in _BASES.items():
        yield Name(f"backbone.bases.{jmp}.weight", f"backbone.bases.{ours}.weight")


def _block(jmp: str, ours: str, config: GemNetOCConfig) -> Iterator[Name]:
    yield _linear(jmp + "dense_ca", ours + "skip")
    for message_pass, (our_pass, parts) in _PASSES.items():
        for part, our_part in parts.items():
            kind = _scale if part.startswith("scale") else _linear
            yield kind(f"{jmp}{message_pass}.{part}", f"{ours}{our_pass}.{our_part}")
    yield from _residuals(jmp + "layers_before_skip.", ours + "before_skip.", config.num_before_skip)
    yield from _residuals(jmp + "layers_after_skip.", ours + "after_skip.", config.num_after_skip)
    yield from _residuals(jmp + "atom_emb_layers.", ours + "atom_layers.", config.num_atom_emb_layers)
    yield from _atom_update(jmp + "atom_update.", ours + "atom_update.", config)
    yield _linear(jmp + "concat_layer.dense", ours + "concat")
    yield from _residuals(jmp + "residual_m.", ours + "concat_layers.", config.num_concat)


def _output(jmp: str, ours: str, config: GemNetOCConfig) -> Iterator[Name]:
    yield from _atom_update(jmp, ours + "atom_update.", config)
    for name in _update_layers(jmp + "seq_energy_pre.", ours + "atom_update.", config):
        yield Name(name.jmp, name.ours, "alias")
    yield from _residuals(jmp + "seq_energy2.", ours + "atom_layers.", config.num_output_afteratom)
    if config.direct_forces:
        yield _scale(jmp + "scale_rbf_F", ours + "edge_scale")
        yield from _residuals(jmp + "seq_forces.", ours + "edge_layers.", config.num_atom)
        yield _linear(jmp + "dense_rbf_F", ours + "edge_radial")


def _atom_update(jmp: str, ours: str, config: GemNetOCConfig) -> Iterator[Name]:
    yield _linear(jmp + "dense_rbf", ours + "radial")
    yield _scale(jmp + "scale_sum", ours + "scale")
    yield from _update_layers(jmp + "layers.", ours, config)


def _update_layers(jmp: str, ours: str, config: GemNetOCConfig) -> Iterator[Name]:
    narrows = config.narrows
    if narrows:
        yield _linear(jmp + "0", ours + "dense")
    yield from _residuals(jmp, ours + "layers.", config.num_atom, first=int(narrows))


def _readout(jmp: str, ours: str, config: GemNetOCConfig) -> Iterator[Name]:
    yield _linear(jmp + "0", ours + "first")
    yield from _residuals(jmp, ours + "layers.", config.num_global_out_layers, first=1)


def _head_names(head: Head, ours: str) -> Iterator[Name]:
    for number, layer in enumerate(_HEAD_LAYERS):
        yield Name(f"{head.prefix}.{layer}.weight", f"{ours}{number}.weight")
        if head.bias and layer != _HEAD_LAYERS[-1]:
            yield Name(f"{head.prefix}.{layer}.bias", f"{ours}{number}.bias")


def _residuals(jmp: str, ours: str, count: int, first: int = 0) -> Iterator[Name]:
    for layer in range(count):
        yield _linear(f"{jmp}{first + layer}.dense_mlp.0", f"{ours}{layer}.first")
        yield _linear(f"{jmp}{first + layer}.dense_mlp.1", f"{ours}{layer}.second")


def _linear(jmp: str, ours: str) -> Name:
    return Name(f"{jmp}.linear.weight", f"{ours}.weight")


def _scale(jmp: str, ours: str) -> Name:
    return Name(f"{jmp}.scale_factor", f"{ours}.factor", "scale")
