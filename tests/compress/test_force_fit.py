"""Least squares with forces: rows are what they are said to be, and the fit is the least-squares solution."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from atomslim.atoms import AtomsBatch, Sample, from_ase
from atomslim.compress import force_fit
from atomslim.compress.force_fit import HeldOut, Start, fit_forces
from atomslim.compress.force_rows import Rows, Weights, collect, errors, said, wanted
from atomslim.compress.prune import keep_blocks
from atomslim.compress.realign import realign, summed
from atomslim.compress.slopes import features_and_slopes, random_directions
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.evaluation.batches import batches
from atomslim.families.jmp import JMP
from atomslim.models.block_model import BlockModel
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters


def model(**changes: Any) -> JMP:
    return jmp(CONSERVATIVE, num_blocks=2, sum_scale=1.0, **changes)


def crystals(count: int = 2) -> list[Sample]:
    generator = np.random.default_rng(5)
    found = []
    for _ in range(count):
        atoms = Atoms("OHH", positions=generator.normal(size=(3, 3)) * 0.7 + 2, cell=[4.1, 4.4, 4.9], pbc=True)
        found.append(Sample.from_ase(atoms, {}, name="crystal"))
    return found


def rows_of(
    small: BlockModel, full: BlockModel, samples: list[Sample], *, directions: int, size: int = 2
) -> list[Rows]:
    given = ((one.atoms, one.topology, "conservative") for one in batches(full, "conservative", samples, size))
    return collect(small, full, given, Weights(2.0, 0.5), directions=directions)


def moved(batch: AtomsBatch, displacement: Tensor, strain: Tensor) -> AtomsBatch:
    deformation = torch.eye(3, dtype=torch.float64) + strain
    positions = torch.einsum("ni,nij->nj", batch.positions, deformation[batch.batch]) + displacement
    return replace(batch, positions=positions, cell=batch.cell @ deformation)


def test_slopes_are_those_of_finite_differences() -> None:
    full = model()
    batch = next(batches(full, "conservative", [*crystals(1), *waters(1)], 2))
    (along,) = random_directions(batch.atoms, 1, torch.Generator().manual_seed(1), stress=1.0)
    assert along.strain[0].abs().max() > 0
    assert not along.strain[1].any()  # not periodic
    (slopes,) = features_and_slopes(full, batch.atoms, batch.topology, [along])
    step = 1e-5
    with torch.no_grad():
        ahead, behind = (
            full.features(
                moved(batch.atoms, sign * step * along.displacement, sign * step * along.strain), batch.topology
            )
            for sign in (1, -1)
        )
    for slope, one, two in zip(slopes, ahead.node, behind.node, strict=True):
        torch.testing.assert_close(slope, (one - two) / (2 * step), rtol=1e-5, atol=1e-7)


def test_all_directions_have_the_squares_of_all_forces_and_stresses() -> None:
    batch = next(batches(model(), "conservative", crystals(), 2)).atoms
    forces, virial = torch.randn(6, 3).double(), torch.randn(2, 3, 3).double()
    virial = virial + virial.transpose(1, 2)
    along = random_directions(batch, 20, torch.Generator().manual_seed(0), stress=0.3)
    squares = sum(one.weight * one.along(batch, forces, virial).square() for one in along)
    six = torch.stack([virial[:, i, j] * (1 if i == j else 2**0.5) for i in range(3) for j in range(i, 3)], 1)
    expected = forces.reshape(2, -1).square().mean(1) + 0.3 * (six / 3).square().mean(1)
    torch.testing.assert_close(torch.as_tensor(squares), expected)


def test_rows_say_what_the_models_predict() -> None:
    full = model()
    small = keep_blocks(full, [2])
    for rows in rows_of(small, full, [*crystals(), *waters(2)], directions=3):
        for one, numbers in ((full, wanted(rows)), (small, torch.cat(said(small, rows)))):
            found = one.predict(rows.batch, "conservative")
            stress = found["stress"] if "stress" in found else torch.zeros_like(rows.batch.cell)
            virial = (stress * torch.linalg.det(rows.batch.cell).abs()[:, None, None]).nan_to_num()
            slopes = [along.along(rows.batch, found["forces"], virial) for along in rows.directions]
            expected = torch.stack([found["energy"], *slopes])
            torch.testing.assert_close(numbers.detach(), expected, rtol=1e-7, atol=1e-8)


def test_a_step_is_the_least_squares_solution_of_all_rows() -> None:
    full = model()
    small = keep_blocks(full, [1])
    rows = rows_of(small, full, waters(3), directions=9)
    readout = small.readout_maps()["node"]
    here = readout.weight().detach().clone()
    jacobian, residuals = (
        torch.cat(parts) for parts in zip(*(force_fit._linearised(small, one) for one in rows), strict=True)
    )
    ridge = 0.05
    ((_, found),) = force_fit._solutions(small, rows, [ridge], here)
    scale = jacobian.square().sum((0, 1)).expand_as(here).flatten()
    normal = jacobian.flatten(1).T @ jacobian.flatten(1) + ridge * torch.diag(scale)
    expected = torch.linalg.solve(normal, jacobian.flatten(1).T @ residuals)
    torch.testing.assert_close((found - here).flatten(), expected, rtol=1e-6, atol=1e-9)
    change = torch.randn_like(here) * 1e-6
    before = torch.cat(said(small, rows[0])).detach()
    readout.assign(here + change)
    after = torch.cat(said(small, rows[0])).detach()
    roots = rows[0].weights.sqrt()
    linear = torch.einsum("rjk,jk->r", jacobian[: roots.count_nonzero()], change)
    torch.testing.assert_close(((after - before) * roots)[roots > 0], linear, rtol=1e-3, atol=1e-10)


def test_a_cut_comes_nearer_to_energies_and_forces_on_structures_that_were_not_fitted() -> None:
    full = model()
    fitted = keep_blocks(full, [2], realign="least-squares-forces", calibration=waters(16), batch_size=4, directions=5)
    plain = keep_blocks(full, [2], realign="least-squares", calibration=waters(16), batch_size=4)
    sliced = keep_blocks(full, [2])
    unseen = rows_of(sliced, full, waters(8, seed=3), directions=9)
    found = {name: errors(one, unseen) for name, one in (("fit", fitted), ("plain", plain), ("sliced", sliced))}
    assert found["fit"]["objective"] < 0.5 * found["sliced"]["objective"]
    assert found["fit"]["forces"] < found["plain"]["forces"]
    fit = fitted.history[-1]["force fit"]
    assert fit["structures"] == 16
    assert fit["held_out"] == 16
    assert fit["rows"] == 16 * 6
    assert fit["ridges"]
    assert fit["after"]["objective"] < fit["before"]["objective"]
    assert "fit" in fitted.history[-1]


def test_keeping_everything_changes_next_to_nothing() -> None:
    full = model()
    same = keep_blocks(full, 2, realign="least-squares-forces", calibration=waters(8), batch_size=2)
    batch = from_ase([sample.to_ase() for sample in waters(3, seed=9)])
    for name, value in full.predict(batch).items():
        torch.testing.assert_close(same.predict(batch)[name], value, rtol=1e-5, atol=1e-6)


def test_a_fit_that_errs_more_on_structures_it_has_not_seen_is_not_taken() -> None:
    full = model()
    small = keep_blocks(full, 2)
    exact = small.readout_maps()["node"].weight().detach().clone()
    noise = torch.Generator().manual_seed(0)
    rows = [  # no map can know what is added here
        replace(one, derivatives=one.derivatives + 0.1 * torch.randn(one.derivatives.shape, generator=noise).double())
        for one in rows_of(small, full, waters(8), directions=2)
    ]
    with pytest.warns(AtomslimWarning, match="no fit to energies and forces has smaller errors on held-out structures"):
        fit = fit_forces(small, {"worse": Start(0.5 * exact), "exact": Start(exact)}, rows)
    assert fit.began_at == "exact"
    assert fit.ridges == ()
    assert fit.held_out == 8
    assert torch.equal(small.readout_maps()["node"].weight(), exact)


def test_better_is_what_is_better_on_the_whole_and_in_its_parts() -> None:
    before = HeldOut(0.1, 0.2, 0.04)
    assert HeldOut(0.1, 0.1, 0.02).is_better(before)
    assert not HeldOut(0.1, 0.1, 0.05).is_better(before)  # one part far better, the others worse
    assert not HeldOut(0.1, 0.3, 0.02).is_better(before)  # one part far off


def test_plain_least_squares_is_judged_by_structures_that_it_has_not_seen() -> None:
    full = model()
    given = list(batches(full, "conservative", waters(8), 1))
    small = keep_blocks(full, [2])
    sliced = small.readout_maps()["node"].weight().detach().clone()
    found = summed(small, full, [(one.atoms, one.topology) for one in given]).maps_without("node", sliced, 1e-4, [0, 3])
    for part, weight in zip((0, 3), found, strict=True):
        other = keep_blocks(full, [2])
        rest = [(one.atoms, one.topology) for number, one in enumerate(given, start=1) if number % 4 != part]
        realign(other, full, rest, ridge=1e-4)
        torch.testing.assert_close(weight, other.readout_maps()["node"].weight(), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:least-squares-forces. no fit")
def test_the_models_weights_can_be_frozen_and_stay_so() -> None:
    full = model()
    for weight in full.parameters():
        weight.requires_grad_(False)
    small = keep_blocks(full, 1, realign="least-squares-forces", calibration=waters(4), batch_size=2, directions=1)
    sliced = keep_blocks(full, 1)
    for ours, theirs in zip(small.parameters(), sliced.parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad


def test_wrong_use_is_said() -> None:
    full = model()
    direct = jmp(DIRECT, num_blocks=2)
    with pytest.raises(ConfigError, match="task direct has no forces that are derivatives"):
        keep_blocks(direct, 1, realign="least-squares-forces", calibration=waters(4))
    with pytest.raises(ConfigError, match="needs calibration structures"):
        keep_blocks(full, 2, realign="least-squares-forces")
    with pytest.raises(ConfigError, match="0 directions"):
        keep_blocks(full, 2, realign="least-squares-forces", calibration=waters(4), directions=0)
    with pytest.raises(ConfigError, match="weights of forces -1"):
        keep_blocks(full, 2, realign="least-squares-forces", calibration=waters(4), weights=Weights(-1.0))
    with pytest.raises(DataError, match="no calibration structures"):
        collect(full, full, [], Weights())


def test_too_many_rows_are_refused_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(force_fit, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="take fewer structures or directions"):
        keep_blocks(model(), 2, realign="least-squares-forces", calibration=waters(4))
