"""The search for neighbours by nvalchemi-toolkit-ops: the pairs of the usual one, and what is said without it."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from atomslim.atoms import AtomsBatch, Pairs, concatenate, device_search, find_pairs, from_ase
from atomslim.errors import ConfigError, StructureError

installed = pytest.mark.skipif(find_spec("nvalchemiops") is None, reason="needs nvalchemi-toolkit-ops")


def joined(structures: list[Atoms]) -> AtomsBatch:
    return concatenate([from_ase(atoms) for atoms in structures])


def structures() -> list[Atoms]:
    """Molecules, one in a wide gap from another, thin and skewed cells, a chain, a slab, atoms outside of the cell."""
    apart = molecule("H2O") + molecule("CO")
    apart.positions[3:] += 2e4
    skewed = bulk("Cu")
    skewed.set_cell(skewed.cell.array @ [[1.03, 0.6, 0.0], [0.0, 0.98, 0.05], [0.5, 0.0, 1.01]])
    chain = Atoms("CH", [(0.0, 0.0, 0.0), (0.4, 9.0, 0.5)], cell=[(1.6, 0, 0), (0, 0, 0), (0, 0, 0)], pbc=[1, 0, 0])
    slab = fcc111("Pt", (2, 1, 3), vacuum=6.0)
    slab.positions -= [3.0, 20.0, 40.0]
    found = [molecule("C6H6"), Atoms("He"), apart, skewed, bulk("NaCl", "rocksalt", a=5.6, cubic=True), chain, slab]
    for number, atoms in enumerate(found):
        atoms.rattle(0.02, seed=number)
    return [*found, bulk("Fe", cubic=True)]  # at rest: neighbours that tie, some at the cutoff


def same(found: Pairs, expected: Pairs) -> None:
    for name in ("source", "target", "offset"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.distance, expected.distance, rtol=0, atol=1e-12)


@installed
def test_finds_the_pairs_of_the_usual_search(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, cutoffs = joined(structures()), [6.0, 6.0, 5.0, 6.5, 6.0, 7.0, 6.0, 2 * 2.87]
    monkeypatch.setenv(device_search.VARIABLE, "vesin")
    expected = find_pairs(batch, cutoffs)
    monkeypatch.setenv(device_search.VARIABLE, "nvalchemi")
    same(find_pairs(batch, cutoffs), expected)
    crowd = Atoms("H60", np.random.default_rng(0).uniform(0, 2.5, (60, 3)))  # more neighbours than a guess has room for
    monkeypatch.setattr(device_search, "expected_pairs", lambda *_: 60.0)
    found = find_pairs(from_ase(crowd), 6.0)
    monkeypatch.setenv(device_search.VARIABLE, "vesin")
    same(found, find_pairs(from_ase(crowd), 6.0))


@installed
def test_refuses_what_the_usual_search_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device_search.VARIABLE, "nvalchemi")
    with pytest.raises(StructureError, match=r"structure 1: atoms 0 and 2 are 0\.0000 Å apart"):
        find_pairs(joined([molecule("H2O"), Atoms("H3", [(0, 0, 0), (2, 0, 0), (0, 0, 0)])]), 5.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@installed
def test_is_taken_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = joined(structures())
    monkeypatch.delenv(device_search.VARIABLE, raising=False)
    assert device_search.wanted(torch.device("cuda"))
    same(find_pairs(batch.to("cuda"), 6.0), find_pairs(batch, 6.0))


def test_what_is_asked_for_and_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device_search.VARIABLE, raising=False)
    monkeypatch.setattr(device_search, "find_spec", lambda _: None)
    batch = from_ase(molecule("H2O"))
    assert len(find_pairs(batch, 5.0)) == 6
    assert not device_search.wanted(torch.device("cuda"))
    monkeypatch.setenv(device_search.VARIABLE, "nvalchemi")
    with pytest.raises(ConfigError, match=r"ATOMSLIM_SEARCH=nvalchemi: nvalchemi-toolkit-ops is not installed: pip"):
        find_pairs(batch, 5.0)
    monkeypatch.setenv(device_search.VARIABLE, "cuda")
    with pytest.raises(ConfigError, match=r"ATOMSLIM_SEARCH=cuda: choose one of auto, vesin, nvalchemi"):
        find_pairs(batch, 5.0)
