"""Batches of atoms: conversion from and to ASE, slicing and joining, and the structures that are refused."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111, molecule
from ase.constraints import FixAtoms

from atomslim.atoms import AtomsBatch, concatenate, from_ase, to_ase, validate
from atomslim.errors import StructureError


@pytest.fixture
def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    atoms.set_tags([0] * 4 + [1] * 3 + [2])
    atoms.set_constraint(FixAtoms(indices=[0, 2]))
    return atoms


def test_fields_come_from_ase(slab: Atoms) -> None:
    batch = from_ase([molecule("H2O"), slab])
    assert batch.numbers.tolist() == [8, 1, 1] + [29] * 8
    assert batch.batch.tolist() == [0] * 3 + [1] * 8
    assert batch.natoms.tolist() == [3, 8]
    assert (batch.num_structures, batch.num_atoms) == (2, 11)
    assert batch.pbc.tolist() == [[False] * 3, [True, True, False]]
    assert batch.tags.tolist() == [2, 2, 2] + [0] * 4 + [1] * 3 + [2]
    assert torch.nonzero(batch.fixed).flatten().tolist() == [3, 5]
    np.testing.assert_array_equal(batch.positions[3:].numpy(), slab.positions)
    np.testing.assert_array_equal(batch.cell[1].numpy(), slab.cell.array)
    assert not batch.cell[0].any()
    assert batch.device.type == "cpu"


def test_positions_are_float64_unless_told_otherwise(slab: Atoms) -> None:
    assert from_ase(slab).positions.dtype == from_ase(slab).cell.dtype == torch.float64
    assert from_ase(slab, dtype=torch.float32).cell.dtype == torch.float32


def test_conversion_copies(slab: Atoms) -> None:
    batch = from_ase(slab)
    slab.positions += 1.0
    slab.numbers[0] = 1
    assert not np.array_equal(batch.positions.numpy(), slab.positions)
    assert batch.numbers[0] == 29


def test_round_trip_through_ase(slab: Atoms) -> None:
    water = molecule("H2O")
    back_water, back_slab = to_ase(from_ase([water, slab]))
    for before, after in ((water, back_water), (slab, back_slab)):
        np.testing.assert_array_equal(after.positions, before.positions)
        np.testing.assert_array_equal(after.numbers, before.numbers)
        np.testing.assert_array_equal(after.cell.array, before.cell.array)
        np.testing.assert_array_equal(after.pbc, before.pbc)
    assert back_slab.get_tags().tolist() == slab.get_tags().tolist()
    assert back_slab.constraints[0].index.tolist() == [0, 2]
    assert not back_water.constraints


def test_positions_that_require_gradients_convert_to_ase() -> None:
    batch = from_ase(molecule("H2O"))
    batch.positions.requires_grad_(True)
    assert len(to_ase(batch)[0]) == 3


def test_dtype_conversion_touches_positions_and_cell_only(slab: Atoms) -> None:
    batch = from_ase(slab).to("cpu", torch.float32)
    assert batch.positions.dtype == batch.cell.dtype == torch.float32
    assert batch.numbers.dtype == batch.tags.dtype == batch.batch.dtype == torch.int64
    assert batch.fixed.dtype == batch.pbc.dtype == torch.bool


def test_gradients_flow_through_conversion_and_slicing(slab: Atoms) -> None:
    batch = from_ase([molecule("H2O"), slab])
    batch.positions.requires_grad_(True)
    part = batch.to(dtype=torch.float32).structure(1)
    (gradient,) = torch.autograd.grad(part.positions.sum(), batch.positions)
    assert gradient[:, 0].tolist() == [0.0] * 3 + [1.0] * 8


def assert_same(one: AtomsBatch, other: AtomsBatch) -> None:
    for name in AtomsBatch.__dataclass_fields__:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_structures_joined_are_the_batch(slab: Atoms) -> None:
    batch = from_ase([molecule("H2O"), slab, molecule("CH4")])
    assert_same(concatenate([batch.structure(index) for index in range(3)]), batch)
    assert_same(batch.structure(1), from_ase(slab))
    assert_same(batch.structure(-1), from_ase(molecule("CH4")))
    assert_same(concatenate([batch.structure(0), from_ase([slab, molecule("CH4")])]), batch)


@pytest.mark.parametrize("index", [2, -3])
def test_absent_structure_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        from_ase([molecule("H2O"), molecule("CH4")]).structure(index)


def test_no_structures_are_refused() -> None:
    with pytest.raises(StructureError, match="no structures"):
        from_ase([])


def cubic(length: float = 4.0) -> Atoms:
    return Atoms("Cu2", [[0, 0, 0], [2, 2, 2]], cell=[length] * 3, pbc=True)


def refused(bad: Atoms, *words: str) -> None:
    """Check that a batch whose second structure is `bad` is refused, in one line that says where and why."""
    with pytest.raises(StructureError) as error:
        validate(from_ase([cubic(), bad]))
    message = str(error.value)
    assert "structure 1" in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_must_be_finite(value: float) -> None:
    atoms = cubic()
    atoms.positions[1, 2] = value
    refused(atoms, "atom 1", "position", "not finite")


def test_cells_must_be_finite() -> None:
    atoms = cubic()
    atoms.cell[1, 2] = np.nan
    refused(atoms, "cell", "not finite")


@pytest.mark.parametrize("number", [-1, 0, 119])
def test_elements_must_exist(number: int) -> None:
    atoms = cubic()
    atoms.numbers[1] = number
    refused(atoms, "atom 1", str(number), "not an element")


def test_heaviest_element_is_accepted() -> None:
    validate(from_ase(Atoms("Og")))


def test_structures_must_have_atoms() -> None:
    refused(Atoms(), "no atoms")
    with pytest.raises(StructureError, match="structure 0 has no atoms"):
        validate(from_ase(Atoms()))


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), True),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 0]], True),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], True),
        ([[4, 0, 0], [8, 0, 0], [0, 0, 4]], [True, True, False]),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 4]], [True, False, False]),
        (np.eye(3) * 1e-3, True),
    ],
    ids=["zero", "one zero", "coplanar", "collinear", "zero line", "shorter than an atom"],
)
def test_periodic_cells_must_have_a_volume(cell: object, pbc: object) -> None:
    refused(Atoms("Cu", cell=cell, pbc=pbc), "no volume")


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), False),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 0]], [True, True, False]),
        ([[4, 0, 0], [4, 0, 0], [0, 0, 4]], [True, False, True]),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 4]], [False, False, True]),
        ([[0.5, 0, 0], [40, 1, 0], [0, 0, 900]], True),
    ],
    ids=["molecule", "slab", "slab with a parallel vacuum vector", "wire", "thin and skewed"],
)
def test_cells_with_a_volume_along_their_periodic_directions_are_accepted(cell: object, pbc: object) -> None:
    validate(from_ase(Atoms("Cu", cell=cell, pbc=pbc)))


def test_cells_of_absurd_length_are_refused_where_periodic() -> None:
    refused(Atoms("Cu", cell=[4, 4, 2e5], pbc=True), "longer than 100000 Å")
    validate(from_ase(Atoms("Cu", cell=[4, 4, 2e5], pbc=[True, True, False])))
