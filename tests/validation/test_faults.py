"""Faults that models have in practice: each fails the checks that are for it, and no other."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from vesin import ase_neighbor_list as neighbor_list

from atomslim.validation.checks import checks, judge
from atomslim.validation.structures import kind_of
from pair_potential import PairPotential

CONSISTENCY = ("forces", "stress", "symmetry", "extensivity", "locality", "smoothness", "dimers")
ALLOY = bulk("Cu", cubic=True, a=4.0)
ALLOY.symbols = "Cu3Au"
CLUSTER = Atoms("Cu4", [[0, 0, 0], [3, 0, 0], [1, 2.4, 0], [1.2, 0.8, 2.2]])
STRUCTURES = {"alloy": ALLOY, "cluster": CLUSTER}

Results = dict[str, Any]


class Faulty(PairPotential):
    """A pair potential whose results are spoiled."""

    def __init__(self, spoil: Callable[[Results, Atoms], None], *, periodic: bool = True) -> None:
        super().__init__()
        self.spoil, self.periodic = spoil, periodic

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Any = all_changes
    ) -> None:
        assert atoms is not None
        seen = atoms.copy()
        seen.pbc = seen.pbc & self.periodic
        super().calculate(seen, properties, system_changes)
        self.spoil(self.results, seen)
        self.atoms = atoms.copy()


def one_element(results: Results, atoms: Atoms) -> None:
    results["forces"][atoms.symbols == "Au"] *= 1.03


def net(results: Results, _atoms: Atoms) -> None:
    results["forces"][:, 0] += 0.01


def by_volume(results: Results, atoms: Atoms) -> None:
    if "stress" in results:
        results["stress"] *= atoms.get_volume()


def other_order(results: Results, _atoms: Atoms) -> None:
    """xx, yy, zz, xy, xz, yz."""
    if "stress" in results:
        results["stress"] = results["stress"][[0, 1, 2, 5, 4, 3]]


def backwards(results: Results, _atoms: Atoms) -> None:
    """zz, yy, xx."""
    if "stress" in results:
        results["stress"] = results["stress"][[2, 1, 0, 3, 4, 5]]


def offset(results: Results, _atoms: Atoms) -> None:
    results["energy"] += 1.0


def by_size(results: Results, atoms: Atoms) -> None:
    results["energy"] += 1e-3 * atoms.get_volume() ** 2 if atoms.cell.rank == 3 else 0.0
    if "stress" in results:
        results["stress"][:3] += 2e-3 * atoms.get_volume()


def by_position(results: Results, atoms: Atoms) -> None:
    results["energy"] += 0.03 * np.sin(atoms.positions[:, 0]).sum()
    results["forces"][:, 0] -= 0.03 * np.cos(atoms.positions[:, 0])


def in_float32(results: Results, _atoms: Atoms) -> None:
    results |= {name: np.asarray(value, dtype=np.float32) for name, value in results.items()}
    results["energy"] = float(results["energy"])


def none_close(results: Results, atoms: Atoms) -> None:
    if len(neighbor_list("ij", atoms, 1.7)[0]):
        results["energy"] = np.nan


def fails_close(_results: Results, atoms: Atoms) -> None:
    if len(neighbor_list("ij", atoms, 1.7)[0]):
        raise KeyError("too close")


def noise() -> Callable[[Results, Atoms], None]:
    random = np.random.default_rng(0)

    def spoil(results: Results, _atoms: Atoms) -> None:
        results["forces"] += random.normal(0, 1e-3, results["forces"].shape)

    return spoil


def failed(calculator: PairPotential) -> set[str]:
    found = set()
    for name in CONSISTENCY:
        check = checks()[name]
        for structure, atoms in STRUCTURES.items():
            if kind_of(atoms) in check.kinds:
                measured = check.function()(calculator, atoms, check.settings_of("quick"))
                found |= {one.check for one in judge(check, structure, measured, None) if one.passed is False}
    return found


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (in_float32, set()),
        (one_element, {"forces"}),
        (net, {"forces", "symmetry"}),  # which does not turn with the structure
        (by_volume, {"stress"}),
        (other_order, {"stress"}),
        (backwards, {"stress"}),
        (offset, {"extensivity"}),
        (by_size, {"extensivity"}),
        (by_position, {"symmetry", "extensivity", "stress"}),  # of a field that the cell does not know
        (noise(), {"symmetry"}),
        (none_close, {"dimers"}),
        (fails_close, {"dimers"}),
    ],
)
def test_a_fault_fails_the_checks_that_are_for_it(spoil: Callable[[Results, Atoms], None], expected: set[str]) -> None:
    assert failed(Faulty(spoil)) == expected


def test_a_model_that_ignores_periodicity_fails_where_cells_are_repeated_or_wrapped() -> None:
    assert failed(Faulty(lambda _results, _atoms: None, periodic=False)) >= {"symmetry", "extensivity"}
