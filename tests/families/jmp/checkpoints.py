"""Checkpoints as JMP writes them, for tests that read and write them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from torch import Tensor

from atomslim.atoms import from_ase
from atomslim.errors import CheckpointError
from atomslim.families.jmp import JMP, GemNetOCConfig, JMPGraphSettings
from atomslim.families.jmp.checkpoint import read_jmp
from atomslim.families.jmp.layout import Layout
from atomslim.models import Target, Task, energy_and_forces
from atomslim.models.model_file import export
from reference import keys_from_config
from small_models import config

State = dict[str, Tensor]

NAMES = ("oc20", "oc22", "ani1x", "transition1x")

FOUR_TASKS = tuple(energy_and_forces(name, forces="direct", graph=JMPGraphSettings()) for name in NAMES)

COUNTER = "task_steps._module_dict._typed_moduledict_{}.sum_value"


class Hyperparameters(dict[str, Any]):
    """A class that whoever reads the file does not have."""


def state_dict(cfg: GemNetOCConfig, tasks: int = 4) -> State:
    """Return the state dict of a pre-training checkpoint, from a list of keys that the package does not share."""
    torch.manual_seed(7)
    state: State = {}
    for key, shape in keys_from_config(cfg.model_dump(), tasks):
        first = state.get(key.replace(".seq_energy_pre.", ".layers."))
        state[key] = torch.randn(shape) / 4 if first is None else first
    for key in [key for key in state if key.endswith(".offset")]:
        state[key] = torch.linspace(0, 1, cfg.num_radial)
        state[key.replace(".offset", ".temps")] = torch.full((cfg.num_radial,), 0.5 * (cfg.num_radial - 1) ** 2)
    return state | {COUNTER.format(name): torch.zeros(()) for name in NAMES[:tasks]}


def checkpoint(model: JMP, tmp_path: Path) -> dict[str, Any]:
    """Return what a model is exported as, without our own entry."""
    export(model, tmp_path / "exported.pt")
    content: dict[str, Any] = torch.load(tmp_path / "exported.pt", weights_only=True)
    del content["atomslim"]
    return content


def outputs(model: JMP) -> dict[str, Tensor]:
    batch = from_ase(molecule("CH3OH"))
    predictions = model(batch, normalised=True)
    return {f"{name} {key}": value.detach() for name, task in predictions.items() for key, value in task.items()}


def assert_same_outputs(found: JMP, expected: JMP) -> None:
    ours, theirs = outputs(found), outputs(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def refused(source: Mapping[str, Any], **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_jmp(source, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


@cache
def one_task() -> State:
    return state_dict(config(num_blocks=3), tasks=1)


def content_order(model: JMP) -> list[str]:
    names = Layout.of_tasks(list(model.tasks.values())).names(model.config, list(model.tasks))
    return [name.jmp for name in names if name.role != "counter"]


SCALARS = Task(
    graph=JMPGraphSettings(),
    name="finetuned",
    targets=(
        Target(name="y", kind="scalar", unit="unknown"),
        Target(name="alpha", kind="scalar", unit="unknown"),
    ),
)
