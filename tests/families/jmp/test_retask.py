"""Other settings for the tasks of a trained model."""

import pytest
import torch
from ase.build import molecule

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMPGraphSettings
from atomslim.models import Target, Task, energy_and_forces
from atomslim.models.retask import replace_tasks
from small_models import CONSERVATIVE, DIRECT, jmp

ENERGY = Target(name="energy", kind="energy")
FORCES = Target(name="forces", kind="conservative_forces")


def task(name: str, *targets: Target, cutoff: float = 12.0) -> Task:
    return Task(name=name, targets=targets, graph=JMPGraphSettings(cutoff=cutoff))


def test_a_namesake_is_replaced_and_the_others_stay() -> None:
    model = jmp()
    heads = [model.heads.get_submodule(f"{name}.energy") for name in ("direct", "conservative")]
    replace_tasks(model, [task("conservative", ENERGY, FORCES, cutoff=5.0)])
    assert list(model.tasks) == ["direct", "conservative"]
    assert model.tasks["direct"] == DIRECT
    assert model.tasks["conservative"].graph.cutoff == 5.0
    assert model.heads.get_submodule("direct.energy") is heads[0]
    assert model.heads.get_submodule("conservative.energy") is heads[1]


def test_as_many_tasks_as_there_are_go_by_order() -> None:
    model = jmp()
    first, second = (model.heads.get_submodule(f"{name}.energy") for name in ("direct", "conservative"))
    replace_tasks(
        model, [energy_and_forces("slabs", forces="direct", graph=JMPGraphSettings()), task("molecules", ENERGY)]
    )
    assert list(model.tasks) == list(model.heads) == ["slabs", "molecules"]
    assert (model.heads.get_submodule("slabs.energy"), model.heads.get_submodule("molecules.energy")) == (first, second)
    assert not model.tasks["molecules"].conservative


def test_targets_go_by_name_or_else_by_order() -> None:
    a, b = Target(name="a", kind="scalar"), Target(name="b", kind="scalar")
    model = jmp(task("properties", a, b), direct_forces=False)
    first, second = model.heads.get_submodule("properties.a"), model.heads.get_submodule("properties.b")
    replace_tasks(model, [task("properties", Target(name="gap", kind="scalar"), Target(name="r2", kind="r2"))])
    assert (model.heads.get_submodule("properties.gap"), model.heads.get_submodule("properties.r2")) == (first, second)
    replace_tasks(model, [task("properties", Target(name="r2", kind="scalar"), Target(name="gap", kind="scalar"))])
    assert (model.heads.get_submodule("properties.gap"), model.heads.get_submodule("properties.r2")) == (first, second)


def test_biases_are_the_models_business() -> None:
    model = jmp(task("one", ENERGY, FORCES), direct_forces=False, heads_without_bias=("one.energy",))
    replace_tasks(model, [task("other", ENERGY, FORCES)])
    assert model.heads_without_bias == {"other.energy"}


def test_conservative_forces_can_be_added() -> None:
    model = jmp(task("one", ENERGY), direct_forces=False)
    replace_tasks(model, [task("one", ENERGY, FORCES)])
    predicted = model.predict(from_ase(molecule("H2O")))
    assert torch.isfinite(predicted["forces"]).all()


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ([task("other", ENERGY)], "tasks other: the model has direct, conservative; use these names, or give 2 tasks"),
        ([task("direct", ENERGY)], "task direct: 0 direct forces targets for 1 such heads of direct"),
        ([task("conservative", FORCES, ENERGY, Target(name="gap", kind="scalar"))], "2 energy or scalar targets for 1"),
        (
            [energy_and_forces("x", forces="direct", graph=JMPGraphSettings()), task("x", ENERGY)],
            "two tasks would have one name: x, x",
        ),
    ],
)
def test_tasks_that_do_not_fit_are_refused(tasks: list[Task], line: str) -> None:
    model = jmp()
    with pytest.raises(ConfigError) as caught:
        replace_tasks(model, tasks)
    assert line in str(caught.value)
    assert list(model.tasks.values()) == [DIRECT, CONSERVATIVE]
    assert list(model.heads) == ["direct", "conservative"]
