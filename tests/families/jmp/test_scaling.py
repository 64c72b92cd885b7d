import math
from contextlib import suppress
from functools import partial

import pytest
import torch
from ase.build import molecule

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.families.jmp import JMP
from atomslim.families.jmp.gemnet_oc import Topology
from atomslim.families.jmp.gemnet_oc.block import AtomUpdate
from atomslim.families.jmp.gemnet_oc.layers import standardised_orthogonal_
from atomslim.families.jmp.gemnet_oc.scaling import fit_scale_factors, scale_factors, unfitted_scale_factors
from atomslim.families.jmp.gemnet_oc.segments import Segments
from small_models import DIRECT, config, jmp


class Reached(Exception):  # noqa: N818 - ends a pass that has seen what it is for
    pass


def structures() -> AtomsBatch:
    atoms = [molecule(name) for name in ("CH3CH2NH2", "C6H6", "CH3CHO", "CH3CH2OH")]
    for seed, one in enumerate(atoms):
        one.rattle(0.05, seed=seed)
    return from_ase(atoms)


def variance(x: torch.Tensor) -> float:
    return x.var(dim=0, unbiased=False).mean().item()


def observed(model: JMP, batch: AtomsBatch, topology: Topology, only: str | None = None) -> dict[str, list[float]]:
    """Return variances of the input and output of every step, in order; ``only``: of this one, then stop."""
    seen: dict[str, list[float]] = {}

    def observe(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
        seen[name] = [variance(before), variance(after)]
        if name == only:
            raise Reached

    for name, module in scale_factors(model).items():
        module.observer = partial(observe, name)
    with suppress(Reached), torch.no_grad():
        model.features(batch, topology)
    for module in scale_factors(model).values():
        module.observer = None
    return seen


def fit_slowly(model: JMP, batch: AtomsBatch, topology: Topology) -> None:
    """Set the factors as they are defined: sqrt(var_in/var_out), a pass for each, all earlier ones in force."""
    factors = scale_factors(model)
    for module in factors.values():
        module.factor.zero_()
    for name in observed(model, batch, topology):
        before, after = observed(model, batch, topology, only=name)[name]
        factors[name].factor.fill_((before / after) ** 0.5)


def test_one_pass_gives_the_factors_of_a_pass_for_each() -> None:
    fitted, slow = jmp(DIRECT, sum_scale=0.0), jmp(DIRECT, sum_scale=0.0)
    batch = structures()
    topology = fitted.topology(batch)
    assert fit_scale_factors(fitted, batch, topology) == []
    fit_slowly(slow, batch, topology)
    expected = scale_factors(slow)
    for name, module in scale_factors(fitted).items():
        assert module.factor.item() == pytest.approx(expected[name].factor.item(), rel=1e-10), name
        assert module.observer is None


def test_every_step_keeps_its_variance_once_fitted() -> None:
    model = jmp(DIRECT, sum_scale=0.0)
    batch = structures()
    topology = model.topology(batch)
    fit_scale_factors(model, batch, topology)
    for name, (before, after) in observed(model, batch, topology).items():
        assert after / before == pytest.approx(1, rel=1e-9), name


def test_a_step_that_no_structure_reaches_stays_unfitted_and_is_named() -> None:
    model = jmp(DIRECT, sum_scale=0.0)
    batch = from_ase([molecule("H2"), molecule("O2")])
    left = fit_scale_factors(model, batch, model.topology(batch))
    assert left == unfitted_scale_factors(model)
    assert "backbone.blocks.0.quadruplet.scale_sum" in left
    assert "backbone.blocks.0.quadruplet.scale_radial" not in left


@pytest.mark.parametrize(("shape", "summed"), [((40, 30), (1,)), ((12, 5, 9), (0, 1))])
def test_initial_weights_have_rows_of_zero_mean_and_variance_one_over_fan_in(
    shape: tuple[int, ...], summed: tuple[int, ...]
) -> None:
    weight = torch.empty(shape, dtype=torch.float64)
    standardised_orthogonal_(weight, summed)
    fan_in = math.prod(shape[axis] for axis in summed)
    variance, mean = torch.var_mean(weight, dim=summed, unbiased=False)
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-15)
    assert torch.allclose(variance * fan_in, torch.ones_like(variance), rtol=1e-3)


def test_dropout_and_edge_dropout_act_in_training_only_and_keep_the_mean() -> None:
    model = jmp(DIRECT, dropout=0.2, edge_dropout=0.3)
    same = jmp(DIRECT)
    batch = from_ase(molecule("CH3CH2OH"))
    topology = model.topology(batch)
    assert torch.equal(model.features(batch, topology).node[2], same.features(batch, topology).node[2])
    model.train()
    assert not torch.equal(model.features(batch, topology).node[2], same.features(batch, topology).node[2])

    update = AtomUpdate(config(edge_dropout=0.3, emb_size_edge=14, num_atom=0)).double()
    index = torch.zeros(400, dtype=torch.int64)
    m = torch.rand(400, 14, dtype=torch.float64)
    radial, one_atom = torch.rand(400, 5, dtype=torch.float64), Segments.of(index, 1)
    expected = update.eval()(m, radial, one_atom)
    drawn = torch.stack([update.train()(m, radial, one_atom) for _ in range(400)])
    error = drawn.std(dim=0) / 400**0.5
    assert bool(((drawn.mean(dim=0) - expected).abs() < 5 * error).all())
    assert bool((drawn.std(dim=0) > 0).all())
