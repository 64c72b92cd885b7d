"""Reads and writes the checkpoints of JMP (arXiv 2310.16802), pre-trained and fine-tuned."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from atomslim.arguments import first_problem
from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.jmp.family import JMPConfig
from atomslim.families.jmp.gemnet_oc.bases import gaussian_centres
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.families.jmp.layout import Head, Layout, Name
from atomslim.families.jmp.model import JMP
from atomslim.families.jmp.sizes import read_sizes
from atomslim.files import atomic_write
from atomslim.models.metadata import OWN_ENTRY, Metadata, checksum, restore, versions
from atomslim.models.tasks import Target, TargetKind, Task, energy_and_forces
from atomslim.models.tensors import is_finite, listed, misfit, require_fit, save_archive
from atomslim.unpickle.torch_file import StoredTensor, read_pt

Weights = Literal["ema", "raw"]
"""ema: exponential averages over training, where a file has them; raw: the weights of the last step."""

Alias = Literal["ema", "original"]
"""Which value a weight gets that a file has under two names, of which the averages know the first only.

ema: its average, like every other weight; original: its raw value, as the original program does.
"""

BASIS_CENTRES = "backbone.bases.offset"
"""What is called `offset` there, in one copy for each basis."""

PRETRAINING_TASKS = (
    energy_and_forces(
        "oc20",
        forces="direct",
        graph=JMPGraphSettings.from_neighbours(12.0),
        energy_std=24.901469505465872,
        force_std=0.5111534595489502,
    ),
    energy_and_forces(
        "oc22",
        forces="direct",
        graph=JMPGraphSettings.from_neighbours(12.0),
        energy_std=25.229595396538468,
        force_std=0.25678861141204834,
    ),
    energy_and_forces(
        "ani1x",
        forces="direct",
        graph=JMPGraphSettings.from_neighbours(8.0),
        energy_std=2.8700712783472118,
        force_std=2.131422996520996,
    ),
    energy_and_forces(
        "transition1x",
        forces="direct",
        graph=JMPGraphSettings.from_neighbours(8.0),
        energy_std=1.787466168382901,
        force_std=0.3591422140598297,
    ),
)
"""The tasks of a pre-training checkpoint, in the order of its heads.

Energies are relative to a linear fit per element to each data set, which was subtracted in training and which no
checkpoint holds.
"""

_RELATIVE = "energies are relative to JMP's linear per-element references, which its checkpoints do not hold"
_ASSUMED = (
    "the file holds no normalisation, reduction and graph settings: mean 0, std 1, a sum over atoms, cutoff 12 Å and "
    "30 neighbours are assumed; give the right ones as tasks"
)

_OURS = re.compile(r"(?:backbone|output|graph_outputs|task_steps|out_energy|out_forces)\.")
"""Prefixes of JMP's tensor names, pre-trained or fine-tuned."""

AnyTensor: TypeAlias = Tensor | StoredTensor


def read_jmp(
    source: str | os.PathLike[str] | Mapping[str, Any], *, weights: Weights = "ema", alias: Alias = "ema"
) -> JMP:
    """Return the model of a JMP checkpoint, pre-trained or fine-tuned, of any size, in eval mode.

    The file is what `torch.save` made of a training checkpoint or of a bare state dict; nothing in it is executed.
    ``weights`` chooses between averaged and last weights (without averages in the file, the last are taken) and
    ``alias`` how the doubly named ones are averaged. Half precision is widened to float32.

    A pre-training file gives the tasks of `PRETRAINING_TASKS`, whose energies are relative to linear references that
    the file does not hold. A fine-tuning file gives the one task ``finetuned`` with mean 0 and std 1, cutoff 12 Å and
    30 neighbours, because it does not say what it was normalised with.

    Raises CheckpointError for an unreadable file, and for missing, unknown, misshapen or non-finite tensors;
    ConfigError for unknown ``weights`` or ``alias``.
    """
    for value, choices in ((weights, get_args(Weights)), (alias, get_args(Alias))):
        if value not in choices:
            raise ConfigError(f"unknown choice {value!r}: give one of {', '.join(choices)}")
    if isinstance(source, Mapping):
        return _model(source, "JMP checkpoint", weights, alias)
    model = _model(read_pt(source), str(source), weights, alias)
    model.history[-1]["sha256"] = checksum(source)
    return model


def _model(content: Any, where: str, weights: Weights, alias: Alias) -> JMP:
    """Return the model that a checkpoint's content describes; ``where`` names it in messages."""
    file = _open(content, where, weights)
    layout = Layout.of_names(file.tensors)
    tasks = _tasks(layout, file.where)
    with torch.device("meta"):
        model = JMP(_config(file, layout, tasks), tasks)
    names = [name for name in layout.names(model.config, [task.name for task in tasks]) if name.role != "counter"]
    _require_fit(file, names, model)
    _require_one_basis(file, names)
    model.load_state_dict(_load(file.where, _choose(file, names, alias)), assign=True)
    model.history = [_entry(file, layout, alias)]
    if file.own is not None:
        restore(model, file.own, file.where)
    return model.eval()


def write_jmp(model: JMP, path: str | os.PathLike[str]) -> None:
    """Write a model as a JMP checkpoint, which the original program reads with ``num_blocks`` set to the model's.

    Raw and averaged weights are both the model's. What the format cannot hold (normalisation, graphs, numbers of
    the kept blocks, history) goes into a separate entry, which other programs ignore.

    Raises ConfigError for a model that the format cannot hold, OSError if the file cannot be written.
    """
    if model.config.basis_cutoff != 12.0:
        raise ConfigError("JMP's format cannot hold a basis cutoff other than 12 Å: save the model as .safetensors")
    if model.config.repulsion:
        raise ConfigError("JMP's format cannot hold a repulsion of nuclei: save the model as .safetensors")
    if model.config.narrows and model.config.emb_size_edge == model.config.emb_size_atom:
        raise ConfigError(
            "JMP's format cannot hold a layer between edge and atom features of one width: cut them to two "
            "widths, or save the model as .safetensors"
        )
    names = Layout.of_tasks(list(model.tasks.values()), model.heads_without_bias).names(model.config, list(model.tasks))
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = {name.jmp: _written(name, state) for name in names}
    averages = tuple(tensors[name.jmp] for name in names if name.role == "parameter")
    content = {
        "state_dict": tensors,
        "optimizer_states": [{"ema": averages}],
        OWN_ENTRY: Metadata.of(model).model_dump_json(),
    }
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        save_archive(content, stream)


def _written(name: Name, state: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor that a file has under JMP's name."""
    centres = state[BASIS_CENTRES]
    if name.role == "temps":
        return centres.new_full(centres.shape, 0.5 * (len(centres) - 1) ** 2)
    return state[name.ours] if name.ours else centres.new_zeros(())


def is_jmp(path: str | os.PathLike[str]) -> bool:
    """Say whether a file has a state dict with tensors of JMP's names; raises CheckpointError if it cannot be read."""
    content = read_pt(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    return isinstance(state, Mapping) and any(isinstance(name, str) and _OURS.match(name) for name in state)


# -- what a file holds


@dataclass(frozen=True)
class _File:
    """A checkpoint's content: its name for messages, its tensors, averages if wanted, and our own entry if any."""

    where: str
    tensors: dict[str, AnyTensor]
    averages: Sequence[AnyTensor] | None
    own: Metadata | None


def _open(content: Any, where: str, weights: Weights) -> _File:
    """Find tensors and averages; raises CheckpointError if there is no state dict."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, AnyTensor) for value in state.values()):
        raise CheckpointError(f"{where}: holds no state_dict with tensors; is it the checkpoint of a model?")
    others = [name for name, value in state.items() if not _is_counter(name) and not isinstance(value, AnyTensor)]
    others += [name for name in state if not isinstance(name, str)]
    if others:
        raise CheckpointError(f"{where}: {listed('no tensors', others)}; expected the state dict of a JMP model")
    own = None if OWN_ENTRY not in content else Metadata.parse(content[OWN_ENTRY], where)
    return _File(where, dict(state), _averages(content, where) if weights == "ema" else None, own)


def _averages(content: Mapping[str, Any], where: str) -> Sequence[AnyTensor] | None:
    states = content.get("optimizer_states")
    first = states[0] if isinstance(states, list | tuple) and states else None
    averages = first.get("ema") if isinstance(first, Mapping) else None
    if averages is None:
        return None
    if not isinstance(averages, list | tuple) or not all(isinstance(value, AnyTensor) for value in averages):
        raise CheckpointError(f"{where}: its averaged weights are not a list of tensors (the raw weights can be read)")
    return averages


def _is_counter(name: object) -> bool:
    return isinstance(name, str) and name.startswith("task_steps.")


def _sizes(file: _File) -> GemNetOCConfig:
    try:
        return read_sizes({name: tensor.shape for name, tensor in file.tensors.items()})
    except ValueError as error:
        raise CheckpointError(f"{file.where}: no JMP model: {first_problem(error)}") from error


def _config(file: _File, layout: Layout, tasks: Sequence[Task]) -> JMPConfig:
    """Return the sizes, and which heads have no biases."""
    bare = [f"{tasks[head.task].name}.{head.target}" for head in layout.heads if not head.bias]
    return JMPConfig(**_sizes(file).model_dump(), heads_without_bias=tuple(bare))


# -- tasks


def _tasks(layout: Layout, where: str) -> list[Task]:
    """Return the tasks that a checkpoint's heads belong to."""
    if not layout.heads:
        raise CheckpointError(f"{where}: no JMP model: it has no heads (out_energy, out_forces or ft_mlp_*)")
    count = 1 + max(head.task for head in layout.heads)
    names = _task_names(layout, count) if layout.pretraining else ["finetuned"]
    try:
        return [
            _task(name, [head for head in layout.heads if head.task == index])
            for index, name in enumerate(names[:count])
        ]
    except ValueError as error:
        raise CheckpointError(f"{where}: no JMP model: {first_problem(error)}") from error


def _task_names(layout: Layout, count: int) -> list[str]:
    standard = [task.name for task in PRETRAINING_TASKS]
    if count == len(standard) and set(layout.counted) <= set(standard):
        return standard
    return list(layout.counted) if len(layout.counted) == count else [f"task{index}" for index in range(count)]


def _task(name: str, heads: Sequence[Head]) -> Task:
    known = next((task for task in PRETRAINING_TASKS if task.name == name), None)
    targets = [_target(head, known) for head in heads]
    kinds = {target.kind for target in targets}
    if "energy" in kinds and "direct_forces" not in kinds:
        targets.append(Target(name="forces", kind="conservative_forces", unit="eV/Å"))
    return Task(name=name, targets=tuple(targets), graph=known.graph if known else JMPGraphSettings())


def _target(head: Head, known: Task | None) -> Target:
    kind, unit = _KINDS[head.kind]
    trained = known.of_kind(kind) if known else None
    return Target(name=head.target, kind=kind, unit=unit, std=trained.std if trained else 1.0)


_KINDS: dict[str, tuple[TargetKind, str]] = {
    "energy": ("energy", "eV"),
    "forces": ("direct_forces", "eV/Å"),
    "scalar": ("scalar", "unknown"),
}


# -- tensors


def _require_fit(file: _File, names: Sequence[Name], model: JMP) -> None:
    """Raise CheckpointError unless the file's tensors and averages are those of the model."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    expected = {name.jmp: shapes[name.ours or BASIS_CENTRES] for name in names}
    averaged = [(name.jmp, expected[name.jmp]) for name in names if name.role == "parameter"]
    present = {name: tensor for name, tensor in file.tensors.items() if not _is_counter(name)}
    require_fit(file.where, expected, present, _misfitting_averages(file.averages, averaged))


def _misfitting_averages(averages: Sequence[AnyTensor] | None, expected: Sequence[tuple[str, torch.Size]]) -> str:
    if averages is None:
        return ""
    if len(averages) != len(expected):
        return f"{len(averages)} averaged weights for {len(expected)} parameters (the raw weights can be read)"
    both = [(name, tensor, shape) for tensor, (name, shape) in zip(averages, expected, strict=True)]
    wrong = [misfit(name, tensor, shape) for name, tensor, shape in both]
    others = [name for name, tensor, _ in both if not tensor.dtype.is_floating_point]
    return listed("averages of another shape", wrong) or listed("averages that are not floating-point numbers", others)


def _require_one_basis(file: _File, names: Sequence[Name]) -> None:
    """Raise CheckpointError unless all copies of the radial basis agree, with its width and with one another."""
    offsets = {name.jmp: _read(file.tensors[name.jmp]) for name in names if name.role == "offset"}
    first = next(iter(offsets.values()))
    inverse_width = first.new_full(first.shape, 0.5 * (len(first) - 1) ** 2)
    temps = {name.jmp: _read(file.tensors[name.jmp]) for name in names if name.role == "temps"}
    wrong = [name for name, offset in offsets.items() if not torch.equal(offset, first)]
    wrong += [name for name, value in temps.items() if not torch.allclose(value.to(inverse_width), inverse_width)]
    if wrong:
        raise CheckpointError(f"{file.where}: {listed('another radial basis than elsewhere', wrong)}")


def _choose(file: _File, names: Sequence[Name], alias: Alias) -> dict[str, tuple[str, AnyTensor]]:
    """Choose for each of our tensors one of the file's, which comes with JMP's name for messages."""
    chosen = {name.ours: (name.jmp, file.tensors[name.jmp]) for name in names if name.role not in {"alias", "temps"}}
    if file.averages is not None:
        parameters = [name for name in names if name.role == "parameter"]
        chosen |= {
            name.ours: (f"average of {name.jmp}", tensor)
            for name, tensor in zip(parameters, file.averages, strict=True)
        }
    if alias == "original":
        chosen |= {name.ours: (name.jmp, file.tensors[name.jmp]) for name in names if name.role == "alias"}
    return chosen


def _load(where: str, chosen: Mapping[str, tuple[str, AnyTensor]]) -> dict[str, Tensor]:
    """Read the chosen tensors in one dtype, float32 or wider; raises CheckpointError if some are not finite."""
    dtype = reduce(torch.promote_types, (tensor.dtype for _, tensor in chosen.values()), torch.float32)
    loaded = {ours: _read(tensor).to(dtype) for ours, (_, tensor) in chosen.items()}
    if chosen[BASIS_CENTRES][1].dtype.itemsize < torch.float32.itemsize:  # rounding has moved the Gaussians
        loaded[BASIS_CENTRES] = gaussian_centres(len(loaded[BASIS_CENTRES])).to(dtype)
    broken = [chosen[ours][0] for ours, tensor in loaded.items() if not is_finite(tensor)]
    if broken:
        raise CheckpointError(f"{where}: {listed('NaN or infinite numbers', broken)}; copy or download it again")
    return loaded


def _read(tensor: AnyTensor) -> Tensor:
    """Return a copy of the tensor in memory."""
    whole = tensor.read() if isinstance(tensor, StoredTensor) else tensor.detach().cpu()
    return whole.clone()  # mapped memory is aligned otherwise, and some processors' products round differently there


# -- what is not in the tensors


def _entry(file: _File, layout: Layout, alias: Alias) -> dict[str, Any]:
    return {
        "operation": "read",
        "format": f"JMP {'pre-training' if layout.pretraining else 'fine-tuning'} checkpoint",
        "file": Path(file.where).name,
        "sha256": None,
        "weights": "raw" if file.averages is None else "ema",
        "alias": alias,
        "graphs": "its own" if file.own else "assumed",
        "notes": [] if file.own else [_RELATIVE if layout.pretraining else _ASSUMED],
        "versions": versions(),
    }
