"""A student's dynamics: the known region, the signs that it is left, and what an explosion costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from atomslim.atoms.sample import Sample
from atomslim.data.container import Container
from atomslim.errors import AtomslimError
from atomslim.slimming.explore import Exploring, Start, outcome_of, starts_of
from atomslim.slimming.known import Known, nearest_of


def labelled(count: int = 4, rattle: float = 0.05) -> list[Sample]:
    samples = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(rattle, seed=seed)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        samples.append(Sample.from_ase(atoms, labels, group="given" if seed < 2 else "rattled"))
    return samples


class Faulty(EMT):
    """Right for some steps; then atoms are pulled together, numbers are none, or it raises."""

    def __init__(self, fault: str = "", after: int = 20) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fault, self.after, self.calls = fault, after, 0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        self.calls += 1
        if self.fault and self.calls > self.after:
            getattr(self, f"_{self.fault}")()

    def _wild(self) -> None:
        self.results["forces"] = 50 * self.results["forces"] + 100

    def _deep(self) -> None:
        self.results["energy"] -= 40.0

    def _raises(self) -> None:
        raise AtomslimError("the model's energy is not finite")


def exploring(student: Calculator, **changes: Any) -> Exploring:
    options: dict[str, Any] = {"before": None, "steps": 60, "frames": 3, "seed": 0}
    return Exploring(student, Known.of(labelled()), **(options | changes))  # type: ignore[arg-type]


def test_a_stable_run_gives_frames_on_its_way_and_is_made_once(tmp_path: Path) -> None:
    runs = exploring(EMT())
    start = starts_of(labelled(), [300.0], 1)[0]
    found = runs.run(start, tmp_path)
    assert found.is_stable
    assert found.steps == found.wanted == 60
    frames = list(Container(tmp_path / "run-000.samples"))
    assert [frame.name.rpartition(" ")[2] for frame in frames] == ["20", "40", "60"]
    assert not frames[0].targets
    before = (tmp_path / "run-000.samples").stat().st_mtime_ns
    assert runs.run(start, tmp_path) == found == outcome_of(tmp_path / "run-000.samples")
    assert (tmp_path / "run-000.samples").stat().st_mtime_ns == before


@pytest.mark.parametrize(("fault", "sign"), [("wild", "force"), ("deep", "energy"), ("raises", "failed")])
def test_an_explosion_ends_its_run_and_costs_a_frame(tmp_path: Path, fault: str, sign: str) -> None:
    found = exploring(Faulty(fault)).run(Start(0, "Cu", bulk("Cu", cubic=True), 300.0), tmp_path)
    assert found.left == sign
    assert found.steps < 30
    frames = list(Container(tmp_path / "run-000.samples"))
    assert 1 <= len(frames) <= 2
    assert all(np.isfinite(frame.positions).all() for frame in frames)
    assert min(nearest_of(frames[-1].to_ase()).values()) > 1.0


def test_another_student_that_disagrees_costs_a_frame_and_not_the_run(tmp_path: Path) -> None:
    other = Faulty("wild", after=0)
    found = exploring(EMT(), before=other).run(Start(0, "Cu", bulk("Cu", cubic=True), 300.0), tmp_path)
    assert found.is_stable
    assert found.disagreed
    assert found.steps == 60
    assert len(Container(tmp_path / "run-000.samples")) == 4


def test_relaxations_end_where_forces_vanish(tmp_path: Path) -> None:
    starts = starts_of(labelled(), [300.0], 5)
    assert [start.temperature for start in starts] == [300.0] * 5 + [0.0]
    found = exploring(EMT(), steps=200).run(starts[-1], tmp_path)
    assert found.is_stable
    assert found.steps < 200
    last = list(Container(tmp_path / "run-005.samples"))[-1].to_ase()
    last.calc = EMT()
    assert np.linalg.norm(last.get_forces(), axis=1).max() < 0.03


def test_known_are_distances_forces_and_energies_of_labels() -> None:
    known, atoms = Known.of(labelled()), bulk("Cu", cubic=True)
    still, energy = np.zeros((4, 3)), EMT().get_potential_energy(atoms)
    assert known.leaves(atoms, still, energy, 300.0) is None
    assert known.leaves(atoms, still + known.force, energy, 300.0) == "force"
    assert known.leaves(atoms, still, energy + 40, 300.0) == "energy"
    near = bulk("Cu", cubic=True)
    near.positions[1] = near.positions[0] + [1.2, 0, 0]
    assert known.leaves(near, still, energy, 300.0) == "distance"
    assert known.leaves(atoms, still * np.nan, energy, 300.0) == "not finite"
    hot = bulk("Cu", cubic=True)
    hot.set_momenta(np.full((4, 3), 60.0))
    assert known.leaves(hot, still, energy, 300.0) == "temperature"
