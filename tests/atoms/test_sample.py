import pickle

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms
from numpy.typing import ArrayLike

from atomslim.atoms import Sample, from_ase, to_batch
from atomslim.errors import StructureError


def slab() -> Sample:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5)
    atoms.set_constraint(FixAtoms([0]))
    targets: dict[str, ArrayLike] = {"energy": [-3.0], "forces": np.ones((3, 3)), "stress": range(6), "band_gap": 0.5}
    return Sample.from_ase(atoms, targets, name="slab", group="copper")


def test_missing_fields_get_their_meaning() -> None:
    sample = Sample.create(np.array([8, 1], dtype=np.float32), [[0, 0, 0], [1, 0, 0]], {})
    assert sample.numbers.dtype == np.int64
    assert sample.positions.dtype == np.float64
    assert not sample.pbc.any()
    assert not sample.cell.any()
    assert not sample.fixed.any()
    assert sample.tags.tolist() == [2, 2]
    assert len(sample) == 2
    assert Sample.create([1], [0, 0, 0], {}, cell=np.eye(3)[None]).pbc.all()


def test_arrays_are_copies() -> None:
    positions = np.zeros((2, 3))
    sample = Sample.create([1, 1], positions, {})
    positions += 1
    assert not sample.positions.any()


def test_to_ase_and_back() -> None:
    sample = slab()
    atoms = sample.to_ase()
    assert atoms.get_potential_energy() == -3.0
    assert atoms.get_stress().tolist() == list(range(6))
    assert atoms.get_forces(apply_constraint=False).tolist() == np.ones((3, 3)).tolist()
    assert atoms.info["band_gap"] == 0.5
    again = Sample.from_ase(atoms, sample.targets, name="slab", group="copper")
    for field in ("numbers", "positions", "cell", "pbc", "tags", "fixed"):
        assert np.array_equal(getattr(again, field), getattr(sample, field))
    assert molecule("H2O") == Sample.from_ase(molecule("H2O"), {}).to_ase()


def test_samples_can_be_pickled_and_not_changed() -> None:
    sample = pickle.loads(pickle.dumps(slab()))  # noqa: S301 -- our own
    assert sample.name == "slab"
    with pytest.raises(AttributeError):
        sample.name = "other"


def test_a_batch_of_samples_is_that_of_ase() -> None:
    structures = [molecule("H2O"), bulk("Cu", cubic=True), fcc111("Pt", (1, 1, 2), vacuum=3)]
    found = to_batch([Sample.from_ase(atoms, {}) for atoms in structures])
    expected = from_ase(structures)
    for field in ("positions", "numbers", "cell", "pbc", "tags", "fixed", "batch"):
        assert torch.equal(getattr(found, field), getattr(expected, field))
        assert getattr(found, field).dtype == getattr(expected, field).dtype
    with pytest.raises(StructureError, match="no structures"):
        to_batch([])


@pytest.mark.parametrize(
    "fields",
    [
        {"positions": np.zeros((3, 2))},
        {"cell": np.zeros(3)},
        {"pbc": [True, False]},
        {"tags": [1]},
        {"fixed": [True, False, True, False]},
        {"targets": {"forces": np.zeros((2, 3))}},
        {"targets": {"energy": [1.0, 2.0]}},
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(fields: dict[str, object]) -> None:
    complete = {"numbers": [1, 1, 8], "positions": np.zeros((3, 3)), "targets": {}, "name": "file, record 5"} | fields
    with pytest.raises(StructureError, match="file, record 5: "):
        Sample.create(**complete)  # type: ignore[arg-type]
