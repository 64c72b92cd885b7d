"""Students by measured speed: which there are, what a step costs, and which one is chosen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write

from atomslim.benchmarking import turns
from atomslim.benchmarking.steps import of_different_sizes
from atomslim.benchmarking.turns import Gain
from atomslim.cli.main import main
from atomslim.errors import ConfigError
from atomslim.families.jmp.gemnet_oc.scaling import scale_factors, unfitted_scale_factors
from atomslim.labelling.teachers import teacher_of
from atomslim.slimming import students
from atomslim.slimming.candidates import Wanted, wanted
from atomslim.slimming.recipe import NAME, Forces, Recipe, as_trained
from atomslim.slimming.students import Candidate, Candidates, candidates, choose
from atomslim.slimming.target import Target
from odd_calculators import Springs
from small_models import CONSERVATIVE, DIRECT, jmp


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def listed(atoms: Atoms, source: object, forces: Forces = "conservative") -> list[Wanted]:
    return list(wanted([atoms], source, teacher_of(source), forces))  # type: ignore[arg-type]


def candidate(name: str, milliseconds: float, *, fresh: bool = False, smooth: bool = True) -> Candidate:
    gain = Gain(100 / milliseconds, 100 / milliseconds, 0.02, 1.0)
    recipe = Recipe(name, "conservative", fresh=fresh)
    return Candidate(name, "embedded model", recipe, 1000, smooth, milliseconds, 0.01, gain)


def some(*those: Candidate) -> Candidates:
    return Candidates("slow", 100.0, ("Cu (4 atoms)",), 2.0, those)


def test_the_one_that_can_learn_most_of_those_fast_enough_is_chosen() -> None:
    there = some(
        candidate("large", 60),
        candidate("steps", 19, smooth=False),
        candidate("small", 5),
        candidate("middle", 15),
        candidate("random", 18, fresh=True),
    )
    for target in (Target.of(speedup=5), Target.of(ms_per_step=20), Target.of(ns_per_day=8)):
        choice = choose(there, target)
        assert choice.candidate.name == "middle"
        assert "trained weights and an energy without steps" in str(choice)
    table = there.table(choose(there, Target.of(speedup=5)))
    assert [row[-1] for row in table.rows] == ["", "", "reaches it", "reaches it", "chosen", "reaches it"]
    assert choose(there, Target.of(speedup=1)).candidate.name == "large"


def test_random_weights_are_chosen_where_nothing_trained_is_as_fast() -> None:
    choice = choose(some(candidate("large", 60), candidate("random", 5, fresh=True)), Target.of(speedup=10))
    assert choice.candidate.recipe.fresh
    assert "nothing trained is as fast" in choice.why


def test_a_speed_that_nothing_reaches_names_the_nearest() -> None:
    there = some(candidate("large", 60), candidate("small", 5), replace(candidate("no", 1), refused="it is slow"))
    with pytest.raises(ConfigError, match=r"1000 × the speed: no student is as fast; the nearest is small with 20\.0"):
        choose(there, Target.of(speedup=1000))


def test_a_speed_is_given_once_and_above_nothing() -> None:
    for wrong in ({}, {"speedup": 2.0, "ms_per_step": 1.0}, {"ns_per_day": 0.0}, {"speedup": float("inf")}):
        with pytest.raises(ConfigError):
            Target.of(**wrong)


def test_models_that_do_not_know_an_element_are_refused_and_new_ones_are_not() -> None:
    there = {one.name: one for one in listed(bulk("FeO", "rocksalt", a=4.3), EMT())}
    assert "was not trained on Fe" in there["mini"].refused
    assert "was not trained on Fe" in there["mini-smooth"].refused
    assert "no family" in next(iter(there.values())).refused
    fresh = [one for one in there.values() if one.kind == "from scratch"]
    assert len(fresh) > 3
    assert not any(one.refused for one in fresh)


def test_a_model_is_cut_and_so_are_embedded_ones() -> None:
    teacher = jmp(CONSERVATIVE, num_blocks=3)
    there = listed(molecule("H2O"), teacher)
    own = [one.recipe.blocks for one in there if one.kind == "cut of the teacher"]
    assert own == [(1, 2), (1,)]
    names = [one.name for one in there if not one.refused]
    assert {"mini", "mini, 1 of 6 blocks", "mini-smooth"} <= {name.replace("1 of 5", "1 of 6") for name in names}
    assert "has no direct forces" in next(one for one in listed(molecule("H2O"), teacher, "direct")).refused
    cut = there[0].recipe.build([], teacher)
    assert cut.block_ids == (1, 2)
    assert Recipe.read(there[0].recipe.as_dict()) == there[0].recipe


def test_a_new_model_is_fitted_on_the_structures_and_the_same_every_time() -> None:
    one = next(one for one in listed(copper(), EMT()) if one.kind == "from scratch")
    first, second = (one.recipe.build([copper()]) for _ in range(2))
    unfitted = unfitted_scale_factors(first)
    assert len(unfitted) < len(scale_factors(first))
    assert all("quad" in name for name in unfitted)  # of which it has none
    weights = second.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in first.state_dict().items())
    assert as_trained(first, "conservative", {29}).task(NAME).conservative
    with pytest.raises(ConfigError, match="no such size"):
        Recipe("jmp huge", "direct", fresh=True).build([])


def test_students_take_turns_with_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FILL_SECONDS", 0.02)
    monkeypatch.setattr(students, "ROUNDS", 3)
    model = jmp(CONSERVATIVE, DIRECT)

    def few(*_: object) -> Iterator[Wanted]:
        yield Wanted("cut", "cut of the teacher", Recipe("tiny", "conservative", blocks=(1,)), model)
        yield Wanted("long", "cut of the teacher", Recipe("tiny", "conservative", cutoff=5.0), model)
        yield Wanted("odd", "embedded model", Recipe("odd", "conservative"), refused="for a reason")

    monkeypatch.setattr(students, "wanted", few)
    found = candidates([copper(), copper()], EMT())
    cut, long, odd = found.all
    assert cut.gain is not None
    assert 0 < cut.milliseconds < 10_000
    assert cut.parameters < sum(weight.numel() for weight in model.parameters())
    assert "shorter" in long.refused or "cutoff" in long.refused
    assert odd.refused == "for a reason"
    assert found.milliseconds > 0
    assert found.table().rows[-1][-1] == "no: for a reason"


def test_the_command_shows_costs_and_the_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "copper.xyz", copper())
    monkeypatch.setattr(students, "candidates", lambda *_, **__: some(candidate("quick", 5), candidate("large", 60)))
    command = ["students", str(tmp_path / "copper.xyz"), "--teacher", "ase:ase.calculators.emt:EMT"]
    assert main([*command, "--speedup", "10"]) == 0
    output = capsys.readouterr().out
    assert "chosen" in output
    assert "quick: 5.00 ms a step against 100 of the teacher, 20.0 × the speed" in output
    assert main([*command, "--speedup", "10", "--ms-per-step", "3"]) == 1
    assert "give one speed" in capsys.readouterr().err


def test_a_teacher_without_forces_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no step of dynamics to compare with: RuntimeError: SCF did not converge"):
        candidates([Atoms("CO", [(100, 0, 0), (101, 0, 0)])], lambda: Springs("raises"))
    with pytest.raises(ConfigError, match="no structures"):
        candidates([], EMT())


def test_structures_of_different_sizes_are_timed() -> None:
    sizes = [len(atoms) for atoms in of_different_sizes([copper().repeat(n) for n in (1, 1, 2, 1)], 3)]
    assert sizes == [4, 32]
    assert len(of_different_sizes([copper(), copper().repeat(2), copper().repeat(3)], 1)[0]) == 32
