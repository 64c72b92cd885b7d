"""Writes a CHGNet model as a checkpoint of the package, so that its calculator runs cut and trained models.

What the package cannot hold is merged into what it has, exactly up to rounding:

* Updates that were left out: the package's layers with weights that make them add nothing.
* A readout that maps the last features by A ≠ 1: all atom features are converted to the coordinates A f, see
  `atomslim.families.chgnet.coordinates`.
* The scale of energies: the head's last layer. Their references: the composition model.
"""

import contextlib
import copy
import io
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from atomslim.errors import ConfigError
from atomslim.families.chgnet.checkpoint import COMPOSITION, names
from atomslim.families.chgnet.config import CHGNetConfig
from atomslim.families.chgnet.coordinates import tell_atoms
from atomslim.families.chgnet.model import CHGNet
from atomslim.files import atomic_write
from atomslim.models.tasks import Target
from atomslim.models.tensors import save_archive

WORST_CONDITION = 1e4
"""Largest condition number of the readout's map: beyond it, rounding in float32 would matter."""


def write_chgnet(model: CHGNet, path: str | os.PathLike[str]) -> None:
    """Write a file for ``chgnet.model.CHGNetCalculator.from_file``.

    Raises ConfigError for what the format cannot hold: no blocks, several tasks, targets other than an energy with its
    forces, a mean, a shorter cutoff, or a map of the readout that cannot be inverted; OSError if the file cannot be
    written.
    """
    _require_room(model)
    config, energy = model.config, _energy(model)
    tensors = _package_tensors(model, energy)
    content = {"model": {"model_args": _arguments(config), "state_dict": tensors}}
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        save_archive(content, stream)


def _require_room(model: CHGNet) -> None:
    why = next(_obstacles(model), None)
    if why is not None:
        raise ConfigError(f"the package's format cannot hold {why}: save the model as .safetensors")


def _obstacles(model: CHGNet) -> Iterator[str]:
    if model.num_blocks == 0:
        yield "a model without blocks"
    if len(model.tasks) != 1:
        yield f"{len(model.tasks)} tasks (give the model one with atomslim.train.start.with_tasks)"
        return
    task = model.task()
    if not task.conservative or len(task.targets) != 2:
        yield "other targets than an energy with conservative forces"
        return
    energy = _energy(model)
    if energy.mean:
        yield f"a mean energy of structures ({energy.mean:g} eV)"
    if energy.reduction != "sum":
        yield "an energy that is a mean over atoms"
    if task.graph.cutoff < model.config.atom_graph_cutoff:
        yield f"a cutoff of {task.graph.cutoff:g} Å with functions made for {model.config.atom_graph_cutoff:g} Å"
    if _is_identity(model):
        return
    if float(torch.linalg.cond(model.readout.first.weight.detach().double())) > WORST_CONDITION:
        yield "a readout that cannot be inverted"
    if model.config.conv_norm is not None:
        yield "a re-aligned readout after normalised updates"


def _energy(model: CHGNet) -> Target:
    energy = model.task().of_kind("energy")
    if energy is None:
        raise ConfigError("the package's format holds energies: this model has none")
    return energy


def _arguments(config: CHGNetConfig) -> dict[str, Any]:
    """Return the package's model arguments; it fills the composition model from the tensors."""
    return config.arguments() | {"composition_model": "MPtrj", "is_intensive": True}


def _package_tensors(model: CHGNet, energy: Target) -> dict[str, Tensor]:
    """Return the tensors by the package's names."""
    package, model = _package(model.config), copy.deepcopy(model).cpu()
    with torch.no_grad():
        _let_add_nothing(package, model.config)
        _remove_map(model)
        _scale_head(model, energy)
        state = dict(package.state_dict())
        ours = model.state_dict()
        for theirs, prefix in names(model.config, model.task().name, energy.name).items():
            found = [name for name in ours if name.startswith(prefix)]
            state |= {theirs + name.removeprefix(prefix): ours[name] for name in found}
        elements = range(1, state[COMPOSITION].shape[1] + 1)
        values = [energy.references.get(number, 0.0) for number in elements]
        state[COMPOSITION] = torch.tensor([values], dtype=model.readout.first.weight.dtype)
    return state


def _package(config: CHGNetConfig) -> Any:
    from chgnet.model import CHGNet as Package  # noqa: PLC0415 - an optional package

    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        return Package(**_arguments(config))


def _let_add_nothing(package: Any, config: CHGNetConfig) -> None:
    """Zero the last layers of updates that the package has but the model lacks."""
    for block, (bonds, angles) in enumerate(zip(config.bond_updates[:-1], config.angle_updates[:-1], strict=True)):
        if not bonds and any(config.bond_updates):
            _multiply(package.bond_conv_layers[block].mlp_out, 0.0)
        if not angles and any(config.angle_updates):
            network = package.angle_layers[block].twoBody_bond
            _multiply(network.mlp_core if network.norm is None else network.bn1, 0.0)


def _multiply(module: nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.mul_(factor)


def _scale_head(model: CHGNet, energy: Target) -> None:
    """Make the head give eV."""
    head: Any = model.heads.get_submodule(f"{model.task().name}.{energy.name}")
    _multiply([layer for layer in head.mlp.modules() if isinstance(layer, nn.Linear)][-1], energy.std)


def _is_identity(model: CHGNet) -> bool:
    weight = model.readout.first.weight
    return bool((weight == torch.eye(len(weight)).to(weight)).all())


def _remove_map(model: CHGNet) -> None:
    """Convert atom features to the coordinates that the readout maps them to, in place."""
    if _is_identity(model):
        return
    there = model.readout.first.weight.double()
    tell_atoms(model.embedding, list(model.blocks), there.T)
    moments: Any = model.moments.weight
    moments.copy_((moments.double() @ torch.linalg.inv(there)).to(moments))
    nn.init.eye_(model.readout.first.weight)
