"""Writing a model as a checkpoint of the package `sevenn`, for its calculator, LAMMPS and TorchSim interfaces."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import e3nn
import torch
from e3nn.o3 import Irreps
from sevenn import __version__
from sevenn.model_build import build_E3_equivariant_model
from torch import Tensor

from atomslim.errors import ConfigError
from atomslim.families.sevennet.checkpoint import path_key
from atomslim.families.sevennet.config import Modality, SevenNetConfig
from atomslim.families.sevennet.irreps import all_paths, read_paths
from atomslim.families.sevennet.layout import slots
from atomslim.families.sevennet.model import SevenNet
from atomslim.families.sevennet.options import options_of
from atomslim.files import atomic_write
from atomslim.models.metadata import OWN_ENTRY, Metadata
from atomslim.models.tasks import Target, Task
from atomslim.models.tensors import save_archive


def write_sevennet(model: SevenNet, path: Path) -> None:
    """Write a model in the package's format, in float32.

    With a task for each level of theory of the model, these are the file's; otherwise the model has one task, whose
    level becomes part of the biases. What the format cannot hold (numbers of the kept blocks, history) goes into
    a separate entry, which the package ignores.

    Raises ConfigError for a model that the format cannot hold, OSError if the file cannot be written.
    """
    if not model.num_blocks:
        raise ConfigError("SevenNet's format has no models without blocks: save the model as .safetensors")
    entry = _entry(model)
    if not _has_all_levels(model):
        model = with_one_level(model)
    energies = {task.name: _energy_of(task) for task in model.tasks.values()}
    denominators = [float(block.get_buffer("convolution.denominator")) for block in model.blocks]
    options = {**options_of(model.config), **_scales(model, energies), "conv_denominator": denominators}
    options["version"] = __version__
    content = {
        "config": options,
        "model_state_dict": _filled(model, options),
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "epoch": 0,
        OWN_ENTRY: entry,
    }
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        save_archive(content, stream)


def _entry(model: SevenNet) -> str:
    """Return the metadata of the model, its tasks in the order in which they are read."""
    own = Metadata.of(model)
    by_name = {task.name: task for task in own.tasks}
    return own.model_copy(update={"tasks": tuple(by_name[name] for name in _in_order(model))}).model_dump_json()


def with_one_level(model: SevenNet) -> SevenNet:
    """Return a copy for the model's only task, with its level of theory merged into the biases.

    Raises ConfigError for a model of several tasks.
    """
    if len(model.tasks) != 1:
        raise ConfigError(
            f"SevenNet's format holds one task for each level of theory, and the model has {', '.join(model.tasks)}: "
            "give it fewer first, or save it as .safetensors"
        )
    (task,) = model.tasks.values()
    if not model.config.modality.names:
        return model
    level = model.config.modality.names.index(model.config.task_modalities[task.name])
    linear = model.config.act_readout is None
    changes = {"biases": True, "readout_biases": linear, "modality": Modality(), "task_modalities": {}}
    with torch.device("meta"):
        new = SevenNet(model.config.model_copy(update=changes), [task])
    given = model.state_dict()
    new.load_state_dict({name: _folded(name, given, level, new) for name in new.state_dict()}, assign=True)
    new.block_ids, new.history = model.block_ids, model.history
    return new.eval()


def _folded(name: str, given: Mapping[str, Tensor], level: int, new: SevenNet) -> Tensor:
    """Return a tensor of the model with one level: biases include the level's contribution."""
    stem, _, last = name.rpartition(".")
    levels = given.get(f"{stem}.modality") if last == "bias" else None
    found = given.get(name)
    if levels is not None:
        return levels[level] if found is None else found + levels[level]
    some = given["readout.weight"]
    return found.clone() if found is not None else some.new_zeros(new.state_dict()[name].shape)


def _in_order(model: SevenNet) -> list[str]:
    """Return the tasks in the order of their levels of theory; all of them if there is only one level."""
    names, levels = model.config.modality.names, model.config.task_modalities
    return sorted(model.tasks, key=lambda task: names.index(levels[task]) if task in levels else len(names))


def _has_all_levels(model: SevenNet) -> bool:
    """Say whether there is one task for each of several levels, all with the same last layers."""
    names, tasks = model.config.modality.names, _in_order(model)
    if len(names) < 2 or [model.config.task_modalities.get(task) for task in tasks] != list(names):
        return False
    first, *others = (_head(model, task) for task in tasks)
    kept = {name for name in first if name not in {"offset", "scale"}}
    alike = all(torch.equal(first[name], other[name]) for other in others for name in kept)
    return alike and (model.config.modality.readout or all(_same(first, other, "offset") for other in others))


def _same(first: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str) -> bool:
    return name not in first or torch.equal(first[name], other[name])


def _head(model: SevenNet, task: str) -> dict[str, Tensor]:
    """Return the tensors of the head of a task's energy; raises ConfigError for a task without."""
    energy = _energy_of(model.tasks[task])
    return dict(model.heads.get_submodule(f"{task}.{energy.name}").state_dict())


def _energy_of(task: Task) -> Target:
    """Return the task's energy; raises ConfigError for what the format cannot hold."""
    energy = task.of_kind("energy")
    others = [target.name for target in task.targets if target.kind not in {"energy", "conservative_forces"}]
    if energy is None or energy.unit != "eV" or others:
        raise ConfigError(f"task {task.name}: SevenNet's format holds energies in eV and their derivatives only")
    if energy.mean or energy.reduction != "sum":
        raise ConfigError(
            f"task {task.name}: SevenNet's format cannot hold a mean of {energy.mean:g} eV or averages over "
            "atoms: tune with targets.energy.references=true and targets.energy.mean=0, or save it as .safetensors"
        )
    return energy


def _scales(model: SevenNet, energies: Mapping[str, Target]) -> dict[str, Any]:
    """Return the options with shifts and scales by level of theory and element."""
    species, tasks = model.config.species, _in_order(model)
    shifts = [[float(energies[task].references.get(number, 0.0)) for number in species] for task in tasks]
    scales = [[energies[task].std] * len(species) for task in tasks]
    if model.config.element_scales:
        factors = [_head(model, task)["scale"].tolist() for task in tasks]
        scales = [[a * b for a, b in zip(*pair, strict=True)] for pair in zip(scales, factors, strict=True)]
    if model.config.modality.names:
        return {"shift": shifts, "scale": scales, "use_modal_wise_shift": True, "use_modal_wise_scale": True}
    return {"shift": shifts[0], "scale": scales[0]}


def _filled(model: SevenNet, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of the package's own model of these options, with our weights.

    Raises ConfigError if the package's model has weights that ours does not.
    """
    with _without_scripts():
        theirs = build_E3_equivariant_model(dict(options))
    state = theirs.state_dict()
    ours = {name: values.detach().cpu().float() for name, values in model.state_dict().items()}
    written = dict(_written(model.config, ours)) | dict(_readout(model, ours))
    scales = {f"rescale_atomic_energy.{kind}": torch.tensor(options[kind]) for kind in ("shift", "scale")}
    written |= scales
    unknown = [name for name, weight in theirs.named_parameters() if name not in written and weight.numel()]
    misfits = [name for name, values in written.items() if name in state and values.numel() != state[name].numel()]
    if unknown or misfits or not written.keys() <= state.keys() | {"edge_embedding.basis_function.coeffs"}:
        raise ConfigError(
            f"sevenn {__version__} stores its weights in a layout unknown to atomslim: {(unknown + misfits)[:3]}"
        )
    return {name: written.get(name, values).reshape(values.shape).clone() for name, values in state.items()}


def _written(config: SevenNetConfig, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Give all weights except those of the readout."""
    yield "edge_embedding.basis_function.coeffs", ours["radial.frequencies"]
    for slot in slots(config):
        yield slot.theirs, slot.written(ours)
    for index in range(config.num_blocks):
        fan_in = (config.num_radial, *config.radial_hidden)[-1]
        weight = ours[f"blocks.{index}.convolution.last"] * fan_in**0.5
        read = read_paths(config, index)
        columns = dict(zip(map(path_key, read), weight.split([path.channels for path in read], dim=1), strict=True))
        every = [columns.get(path_key(p), weight.new_zeros(fan_in, p.channels)) for p in all_paths(config, index)]
        yield f"{index}_convolution.weight_nn.layer{len(config.radial_hidden)}.weight", torch.cat(every, dim=1)


def _readout(model: SevenNet, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Give the weights from the last block's scalars to the atom's energy."""
    config = model.config
    heads = [_head(model, task) for task in _in_order(model)]
    first = ours["readout.weight"].T
    layers = [heads[0][f"layers.{number}"].cpu().float() for number in range(len(config.readout_hidden))]
    if config.act_readout is not None:
        for number, weight in enumerate([first, *layers]):
            yield f"readout_FCN.fcn.layer{number}.weight", weight * weight.shape[0] ** 0.5
        return
    levels = len(config.modality.names) if config.modality.readout else 0
    hidden = _hidden_width(config)
    bias = heads[0]["offset"] if config.readout_biases and not levels else first.new_zeros(first.shape[1])
    rows = torch.cat([first, *([torch.stack([head["offset"] for head in heads]).cpu().float()] if levels else [])])
    yield "reduce_input_to_hidden.linear.weight", _padded(rows, hidden) * len(rows) ** 0.5
    yield "reduce_hidden_to_energy.linear.weight", _padded(layers[0].T, hidden).T * hidden**0.5
    if config.readout_biases:
        yield "reduce_input_to_hidden.linear.bias", _padded(bias.cpu().float(), hidden)
        yield "reduce_hidden_to_energy.linear.bias", heads[0]["bias"].cpu().float()


def _hidden_width(config: SevenNetConfig) -> int:
    """Return the width that the package gives to the readout between its layers: half of the last block's.

    Raises ConfigError if that is less than the model's.
    """
    width = Irreps(config.irreps[-1]).dim // 2
    if width < config.readout_hidden[0]:
        raise ConfigError(
            f"SevenNet's format has {width} numbers between the readout's layers where the last block gives "
            f"{config.irreps[-1]}, and the model has {config.readout_hidden[0]}: save it as .safetensors"
        )
    return width


def _padded(values: Tensor, width: int) -> Tensor:
    """Add columns of zeros up to a width."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


@contextmanager
def _without_scripts() -> Iterator[None]:
    """Keep e3nn from compiling layers that are never run."""
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**before)
