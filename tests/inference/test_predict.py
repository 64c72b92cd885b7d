from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from torch import Tensor

from atomslim.atoms import AtomsBatch, find_pairs
from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError, StructureError
from atomslim.inference import predict
from atomslim.inference.predict import PredictionSummary, predict_file
from atomslim.models.tasks import Task
from samples import DIRECT


@dataclass
class Graphs:
    capped_fraction: Tensor

    def left_out(self) -> Tensor:
        return self.capped_fraction


class SumModel(torch.nn.Module):
    """Energy: the atomic numbers' sum; forces: the positions; stress: 1…9; gap: the number of atoms."""

    atom_outputs: Mapping[str, str] = MappingProxyType({"magmoms": "μB"})

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, Tensor] = {}
        self.capped = 0.0
        self.sizes: list[int] = []
        self.history: list[dict[str, object]] = []

    def task(self, name: str | None) -> Task:
        if name not in (None, "sum"):
            raise ConfigError(f"unknown task {name!r}: the model has 'sum'")
        return DIRECT.model_copy(update={"name": "sum"})

    def topology(self, batch: AtomsBatch, task: str | None = None) -> Graphs:
        self.task(task)
        find_pairs(batch, 3.0)
        return Graphs(self.capped * (batch.natoms > 3))

    def predict(self, batch: AtomsBatch, task: str | None, topology: Graphs) -> dict[str, Tensor]:
        assert not self.training
        assert task in (None, "sum")
        assert len(topology.capped_fraction) == batch.num_structures
        self.sizes.append(batch.num_atoms)
        energy = torch.zeros(batch.num_structures, dtype=torch.float64, requires_grad=True)
        stress = torch.arange(1.0, 10.0).view(1, 3, 3)
        return {
            "energy": energy.index_add(0, batch.batch, batch.numbers.double()),
            "forces": batch.positions,
            "stress": (stress + stress.mT) / 2 * torch.where(batch.pbc.any(1), 1.0, torch.nan)[:, None, None],
            "gap": batch.natoms.float(),
            "magmoms": batch.numbers / 2,
        } | self.outputs


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SumModel:
    made = SumModel().eval()
    monkeypatch.setattr(predict, "load", lambda _path, **_options: made)
    return made


def run(tmp_path: Path, structures: list[Atoms], **options: object) -> tuple[PredictionSummary, list[Atoms]]:
    write(tmp_path / "in.traj", structures)
    summary = predict_file("model", tmp_path / "in.traj", tmp_path / "out.extxyz", **options)  # type: ignore[arg-type]
    return summary, read(tmp_path / "out.extxyz", ":")  # type: ignore[return-value]


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
    return atoms


@pytest.mark.usefixtures("model")
def test_results_are_read_back_by_ase(tmp_path: Path) -> None:
    structures = [molecule("H2O"), bulk("Cu", cubic=True), slab()]
    summary, predicted = run(tmp_path, structures)
    for atoms, result in zip(structures, predicted, strict=True):
        assert str(result.symbols) == str(atoms.symbols)
        np.testing.assert_allclose(result.positions, atoms.positions, atol=1e-8)
        np.testing.assert_allclose(result.cell, atoms.cell)
        assert result.pbc.tolist() == atoms.pbc.tolist()
        assert result.get_tags().tolist() == atoms.get_tags().tolist()
        assert result.get_potential_energy() == atoms.numbers.sum()
        np.testing.assert_allclose(result.get_forces(apply_constraint=False), atoms.positions, atol=1e-8)
        assert result.info["gap"] == len(atoms)
        assert result.get_magnetic_moments().tolist() == (atoms.numbers / 2).tolist()
    assert predicted[2].constraints[0].index.tolist() == slab().constraints[0].index.tolist()
    assert (summary.structures, summary.atoms, summary.capped) == (3, 19, 0)
    assert str(summary).startswith("3 structures, 19 atoms in ")


@pytest.mark.usefixtures("model")
def test_stress_has_ases_order_and_needs_a_volume(tmp_path: Path) -> None:
    _, (crystal, water) = run(tmp_path, [bulk("Cu"), molecule("H2O")])
    np.testing.assert_allclose(crystal.get_stress(), [1, 5, 9, 7, 5, 3])
    assert "stress" not in water.calc.results


@pytest.mark.usefixtures("model")
def test_predictions_replace_results_that_came_with_the_structures(tmp_path: Path) -> None:
    water = molecule("H2O")
    water.info |= {"gap": -1.0, "energy": -2.0, "name": "water", "record": {"from": [1, 2]}}
    water.calc = SinglePointCalculator(water, energy=-3.0, forces=np.ones((3, 3)), dipole=np.ones(3))
    _, (result,) = run(tmp_path, [water])
    assert result.calc.results.keys() == {"energy", "forces", "magmoms"}
    assert result.get_potential_energy() == 10.0
    assert result.info == {"gap": 3.0, "name": "water", "record": {"from": [1, 2]}}


def test_batches_have_at_most_so_many_atoms(model: SumModel, tmp_path: Path) -> None:
    structures = [molecule("H2O"), molecule("H2O"), molecule("CH3CH2OH"), molecule("H2O"), molecule("CO2")]
    _, predicted = run(tmp_path, structures, batch_size=6)
    assert model.sizes == [6, 9, 6]
    assert [atoms.get_potential_energy() for atoms in predicted] == [10, 10, 26, 10, 22]


@pytest.mark.usefixtures("model")
def test_a_bad_structure_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    nowhere = molecule("H2O")
    nowhere.positions[1, 2] = np.nan
    overlapping = Atoms("HH", [[0, 0, 0], [0, 0, 0.001]])
    flat = Atoms("Cu", cell=[1, 0, 0], pbc=True)
    ghost = Atoms("X")
    (tmp_path / "out.extxyz").write_text("from before")
    for bad, what in [
        (nowhere, "atom 1: position"),
        (overlapping, "atoms 0 and 1"),
        (flat, "no volume"),
        (ghost, "not an element"),
        (Atoms(), "no atoms"),
    ]:
        with pytest.raises(StructureError) as caught:
            run(tmp_path, [molecule("H2O"), molecule("CO2"), bad, molecule("H2O")])
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'in.traj'}: record 2 (counting from 0): ")
        assert what in message
        assert "\n" not in message
        assert "structure 0" not in message
        assert (tmp_path / "out.extxyz").read_text() == "from before"
        assert {path.name for path in tmp_path.iterdir()} == {"in.traj", "out.extxyz"}


def test_a_result_that_is_not_finite_is_an_error(model: SumModel, tmp_path: Path) -> None:
    model.outputs = {"energy": torch.tensor([1.0, float("nan")])}
    with pytest.raises(AtomslimError, match=r"record 1 .*energy is not finite"):
        run(tmp_path, [molecule("H2O"), molecule("CO2")])


def test_capped_neighbours_are_counted_and_strict_refuses_them(model: SumModel, tmp_path: Path) -> None:
    model.capped = 0.25
    summary, _ = run(tmp_path, [molecule("H2O"), molecule("CH4")])
    assert summary.capped == 1
    assert "--strict" in str(summary)
    with pytest.raises(StructureError, match=r"record 1 .*25\.0% of the pairs"):
        run(tmp_path, [molecule("H2O"), molecule("CH4")], strict=True)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_too_little_memory_has_a_remedy(
    error: Exception, model: SumModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(model, "predict", fail)
    with (
        pytest.warns(AtomslimWarning, match="out of memory with 6 atoms at once: continuing with at most 3"),
        pytest.raises(AtomslimError, match=r"record 0 .*out of memory with 3 atoms: use a device with more"),
    ):
        run(tmp_path, [molecule("H2O"), molecule("CO2")])


def test_batches_are_lowered_when_memory_runs_out(
    model: SumModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.predict

    def limited(batch: AtomsBatch, task: str | None, topology: Graphs) -> dict[str, Tensor]:
        if batch.num_atoms > 6:
            raise MemoryError
        return whole(batch, task, topology)

    monkeypatch.setattr(model, "predict", limited)
    with pytest.warns(AtomslimWarning) as said:
        _, predicted = run(tmp_path, [molecule("H2O") if n % 2 else molecule("CO2") for n in range(12)], batch_size=12)
    assert len(said) == 1
    assert [atoms.get_potential_energy() for atoms in predicted] == [22, 10] * 6
    assert model.sizes == [6] * 6


@pytest.mark.usefixtures("model")
def test_several_files_go_into_one(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [molecule("H2O"), molecule("CO2")])
    write(tmp_path / "b.traj", molecule("CH4"))
    summary = predict_file("model", [tmp_path / "a.xyz", tmp_path / "b.traj"], tmp_path / "out.xyz")
    assert summary.structures == 3
    assert [str(atoms.symbols) for atoms in read(tmp_path / "out.xyz", ":")] == ["OH2", "CO2", "CH4"]


def test_a_bug_is_not_taken_for_too_little_memory(
    model: SumModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(model, "predict", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(tmp_path, [molecule("H2O")])


@pytest.mark.usefixtures("model")
def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.xyz"
    write(source, molecule("H2O"))
    for output, options, what in [
        ("in.xyz", {}, "would replace the structures"),
        ("out.traj", {}, "extended XYZ"),
        ("out.xyz", {"batch_size": 0}, "batch size 0"),
        ("out.xyz", {"task": "product"}, "unknown task 'product'"),
    ]:
        with pytest.raises(ConfigError, match=what):
            predict_file("model", source, tmp_path / output, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="among the structures"):
        predict_file("model", tmp_path, tmp_path / "out.xyz")
    with pytest.raises(ConfigError, match="no structures: name one"):
        predict_file("model", [], tmp_path / "out.xyz")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.usefixtures("model")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        run(tmp_path, [molecule("H2O")], device="cuda")
