from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write

from atomslim.data.in_memory import opened
from atomslim.errors import ConfigError
from atomslim.evaluation.reference_gap import differences
from atomslim.study.references import with_references
from atomslim.train.options import TaskOptions
from samples import DIRECT
from small_models import jmp


@pytest.fixture
def mix(tmp_path: Path) -> TaskOptions:
    """Molecules whose energies are −2 eV for each H, −9 for C and −15 for O."""
    frames = [molecule(name) for name in ("H2O", "H2O", "CH4", "CO2", "C2H6", "CH3OH")]
    for atoms, rest in zip(frames, (0.3, -0.3, 0, 0, 0, 0), strict=True):
        atoms.info["energy"] = sum({1: -2.0, 6: -9.0, 8: -15.0}[number] for number in atoms.numbers) + rest
    write(tmp_path / "frames.xyz", frames)
    targets = {"energy": {"kind": "energy", "references": True}}
    return TaskOptions.model_validate({"name": "direct", "data": f"xyz:{tmp_path / 'frames.xyz'}", "targets": targets})


def test_references_are_fitted_where_the_model_has_none(mix: TaskOptions) -> None:
    model = with_references(jmp(DIRECT), [mix])
    energy = model.task("direct").of_kind("energy")
    assert energy is not None
    found = differences(model, "direct", list(opened(mix.data)), 4)
    assert max(map(abs, found.fit().values())) < 0.05  # nothing is left that elements explain
    assert energy.std == jmp(DIRECT).task("direct").targets[0].std
    assert with_references(model, [mix]).task("direct").of_kind("energy") == energy


def test_another_spread_than_the_models_is_refused(mix: TaskOptions) -> None:
    energy = mix.targets["energy"].model_copy(update={"std": 3.0})
    with pytest.raises(ConfigError, match="std 3 of energy is not the model's"):
        with_references(jmp(DIRECT), [mix.model_copy(update={"targets": {"energy": energy}})])


def test_a_mix_that_asks_for_nothing_leaves_the_model_alone(mix: TaskOptions) -> None:
    model = jmp(DIRECT)
    before = model.tasks
    assert with_references(model, [mix.model_copy(update={"targets": {}})]).tasks is before
