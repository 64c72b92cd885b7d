"""A validation as a whole: verdicts, files, going on, and what is said where something cannot be done."""

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from atomslim.cli.main import main
from atomslim.errors import AtomslimError, ConfigError
from atomslim.inference.named_calculators import calculator_of
from atomslim.validation.folder import measurement_path
from atomslim.validation.run import validate
from pair_potential import NoStress, PairPotential

COPPER = {"copper": bulk("Cu", a=3.78)}
FEW = ("forces", "symmetry", "equation of state")


def test_a_model_against_itself_passes(tmp_path: Path) -> None:
    found = validate(
        PairPotential(), COPPER, against=PairPotential(), checks=FEW, output=tmp_path / "v", progress=False
    )
    assert found.passed
    assert "all 3 checks" in found.sentence()
    content = json.loads((tmp_path / "v" / "validation.json").read_text())
    assert {verdict["check"] for verdict in content["verdicts"]} == set(FEW)
    assert "copper" in (tmp_path / "v" / "validation.html").read_text()


def test_another_potential_fails_where_it_differs(tmp_path: Path) -> None:
    found = validate(
        EMT(), COPPER, against=PairPotential(), checks=("forces", "cell"), output=tmp_path / "v", progress=False
    )
    assert {verdict.check for verdict in found.failed} == {"cell"}
    assert any(line.startswith("cell: FAILED") for line in found.lines())


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = validate(PairPotential(), COPPER, checks=FEW, output=tmp_path / "v", progress=False)
    monkeypatch.setattr(PairPotential, "calculate", None)
    second = validate(PairPotential(), COPPER, checks=FEW, output=tmp_path / "v", progress=False)
    assert second.verdicts == first.verdicts
    with pytest.raises(ConfigError, match="another model"):
        validate(EMT(), COPPER, checks=FEW, output=tmp_path / "v", progress=False)


def test_a_folder_with_broken_files_goes_on_or_says_so(tmp_path: Path) -> None:
    validate(PairPotential(), COPPER, checks="forces", output=tmp_path / "v", progress=False)
    (measured,) = (tmp_path / "v" / "measurements").iterdir()
    measured.write_text('{"numbers": {')
    found = validate(PairPotential(), COPPER, checks="forces", output=tmp_path / "v", progress=False)
    assert found.passed
    (tmp_path / "v" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read"):
        validate(PairPotential(), COPPER, checks="forces", output=tmp_path / "v", progress=False)


def test_names_that_look_alike_and_other_settings_have_measurements_of_their_own(tmp_path: Path) -> None:
    two = {"a b": bulk("Cu", a=3.7), "a_b": bulk("Cu", a=3.9)}
    validate(PairPotential(), two, checks="forces", output=tmp_path / "v", progress=False)
    assert len(list((tmp_path / "v" / "measurements").iterdir())) == 2
    assert measurement_path(tmp_path, "model", "a", "forces", {"step": 1}) != measurement_path(
        tmp_path, "model", "a", "forces", {"step": 2}
    )


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds something else"):
        validate(PairPotential(), COPPER, checks=FEW, output=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_cannot_be_done_is_said_and_the_rest_goes_on() -> None:
    class Broken(PairPotential):
        def calculate(self, *args: object, **kwargs: object) -> None:
            super().calculate(*args, **kwargs)  # type: ignore[arg-type]
            if self.atoms is not None and len(self.atoms) > 8:
                raise RuntimeError("out of memory")

    found = validate(Broken(), COPPER, checks=("forces", "extensivity"), progress=False)
    assert [check for check, _, _ in found.not_done] == ["extensivity"]
    assert "out of memory" in found.not_done[0][2]
    assert [verdict.check for verdict in found.verdicts] == ["forces"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ase:", "give module and class"),
        ("ase:ase.calculators.emt", "give module and class"),
        ("ase:no.such.module:X", "is the package installed"),
        ("ase:ase.calculators.emt:Nothing", "is the package installed"),
        ("ase:ase.calculators.emt:EMT?wrong=1&", "write arguments"),
        ("ase:ase.build:molecule?name=H2O", "not an ASE calculator"),
    ],
)
def test_names_of_calculators_that_lead_nowhere(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        calculator_of(name)


def test_a_calculator_by_name() -> None:
    assert isinstance(calculator_of("ase:ase.calculators.emt:EMT"), EMT)
    with_option = calculator_of("ase:ase.calculators.emt:EMT?asap_cutoff=true")
    assert with_option.parameters["asap_cutoff"] is True


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    molecule("H2O").write(tmp_path / "water.xyz")
    command = ["validate", "ase:ase.calculators.emt:EMT", str(tmp_path / "water.xyz"), "-o", str(tmp_path / "v")]
    main([*command, "--checks", "forces", "--checks", "symmetry"])
    assert "forces: passed" in capsys.readouterr().out
    assert main([*command[:-1], str(tmp_path / "w"), "--checks", "no such"]) == 1
    assert "there are quick, full, labels" in capsys.readouterr().err


def test_a_reference_that_fails_leaves_the_model_judged_by_itself() -> None:
    found = validate(PairPotential(), COPPER, against=NoStress(), checks=("cell", "forces"), progress=False)
    assert found.passed
    assert found.incomplete == ("cell",)
    assert "not compared, for the reference has none: the calculator gives no stress" in found.not_done[0][2]
    assert {verdict.number for verdict in found.verdicts} >= {"a", "volume", "error"}
    assert "Not done everywhere: cell." in found.sentence()


@pytest.mark.parametrize(
    ("structures", "problem"),
    [
        ({"none": Atoms()}, "none: .*no atoms"),
        ({"flat": Atoms("Cu", cell=[3, 3, 0], pbc=True)}, "flat: .*volume"),
        ({"broken": Atoms("Cu", [[0, 0, float("nan")]])}, "broken: .*finite"),
        ({}, "there are none"),
    ],
)
def test_structures_that_no_model_can_take_are_refused_before_anything_is_measured(
    structures: dict[str, Atoms], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(AtomslimError, match=problem):
        validate(PairPotential(), structures, checks=FEW, output=tmp_path / "v", progress=False)
    assert not (tmp_path / "v").exists()


def test_charges_and_elements_outside_of_training_are_said_once() -> None:
    charged = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]], info={"charge": 1})
    found = validate(PairPotential(), {"ion": charged, "other": charged}, checks="forces", progress=False)
    assert found.notes == ("ion: charge 1: all checks are made without charges and spins",)
    gold = {"gold": Atoms("Au2", [[0, 0, 0], [0, 0, 2.6]])}
    (note,) = validate("mini", gold, task="molecules", checks="forces", progress=False).notes
    assert note.startswith("gold: task molecules of the model was not trained on Au")
    assert "strict" not in note


def test_strict_wants_what_fits_to_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Torsions do not fit water; stress fits copper."""
    molecule("H2O").write(tmp_path / "water.xyz")
    bulk("Cu").write(tmp_path / "copper.xyz")
    command = ["validate", "ase:pair_potential:NoStress", "--strict", "--checks", "forces"]
    main([*command, str(tmp_path / "water.xyz"), "--checks", "torsions", "-o", str(tmp_path / "w")])
    with pytest.raises(SystemExit, match="1"):
        main([*command, str(tmp_path / "copper.xyz"), "--checks", "stress", "-o", str(tmp_path / "c")])
    assert "stress: not done for" in capsys.readouterr().out


def test_the_equation_of_state_finds_a_minimum_far_from_the_given_cell() -> None:
    near, far = (
        validate(NoStress(), {"copper": bulk("Cu", a=a)}, checks="equation of state", progress=False).verdicts
        for a in (3.78, 4.2)
    )
    assert [one.value for one in far] == [pytest.approx(one.value, rel=0.03) for one in near]
