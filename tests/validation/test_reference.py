"""Labelled data as the reference: what is compared, what cannot be, and how data are told from models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from atomslim.atoms import Sample
from atomslim.cli.main import main
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.validation.measurement import rattled
from atomslim.validation.reference import is_model
from atomslim.validation.run import validate
from pair_potential import PairPotential


def labelled(count: int = 4) -> list[Sample]:
    """Strained and rattled cells of copper with the pair potential's labels."""
    samples = []
    for seed in range(count):
        atoms = rattled(bulk("Cu", cubic=True, a=3.65 + 0.02 * seed), 0.05, seed)
        atoms.calc = PairPotential()
        targets = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        samples.append(Sample.from_ase(atoms, targets, name=f"cell {seed}"))
    return samples


def judged(calculator: PairPotential, samples: list[Sample]) -> dict[str, float]:
    found = validate(calculator, against=samples, checks="labels", progress=False)
    return {verdict.number: verdict.value for verdict in found.verdicts}


def test_a_model_agrees_with_its_own_labels() -> None:
    found = validate(PairPotential(), against=labelled(), checks=("labels", "symmetry"), progress=False)
    numbers = {verdict.number: verdict.value for verdict in found.verdicts if verdict.check == "labels"}
    assert numbers["forces, cosine"] == pytest.approx(1)
    assert max(numbers[name] for name in ("energy", "forces", "stress")) < 1e-9
    assert found.passed
    assert found.notes == ()
    tried = {verdict.structure for verdict in found.verdicts if verdict.check == "symmetry"}
    assert tried == {"cell 0", "cell 2", "cell 3"}


def test_what_labels_do_not_say_is_named() -> None:
    copper = {"copper": bulk("Cu", a=3.78)}
    found = validate(PairPotential(), copper, against=labelled(), checks=("labels", "cell"), progress=False)
    (note,) = found.notes
    assert note.startswith("not compared with samples, which has energies, forces and stress only: cell;")


def test_errors_of_labels_are_what_was_added() -> None:
    wrong: list[Sample] = []
    for sample in labelled():
        sign = 1 if len(wrong) % 2 else -1
        targets = sample.targets | {
            "energy": sample.targets["energy"] + sign * 0.004 * len(sample),
            "forces": sample.targets["forces"] + np.array([0.3, 0, 0]),
            "stress": sample.targets["stress"] + np.eye(3) * 0.02,
        }
        wrong.append(replace(sample, targets=targets))
    numbers = judged(PairPotential(), wrong)
    assert numbers["energy"] == pytest.approx(4, rel=1e-6)
    assert numbers["forces"] == pytest.approx(0.1, rel=1e-6)
    assert numbers["stress"] == pytest.approx(0.02 / 3 * 160.21766, rel=1e-6)
    assert {v.number for v in validate(PairPotential(), against=wrong, checks="labels", progress=False).failed} <= {
        "forces",
        "forces, cosine",
        "stress",
    }


def test_labels_on_another_reference_are_compared_after_a_fit() -> None:
    far = [replace(s, targets=s.targets | {"energy": s.targets["energy"] - 1600.0 * len(s)}) for s in labelled()]
    found = validate(PairPotential(), against=far, checks="labels", progress=False)
    assert found.passed
    assert "different reference energies" in found.notes[0]


def test_how_many_of_many_structures_are_taken_is_said(tmp_path: Path) -> None:
    found = validate(PairPotential(), against=labelled(1) * 300, checks="labels", progress=False)
    assert found.notes == ("labels, samples: 256 of 300 labelled structures are compared, evenly spaced",)
    write(tmp_path / "many.xyz", [bulk("Cu")] * 25)
    with pytest.warns(AtomslimWarning, match=r"many\.xyz: 9 of 25 structures are checked, evenly spaced"):
        validate(PairPotential(), str(tmp_path / "many.xyz"), checks="forces", progress=False)


def test_what_is_not_labelled_is_said() -> None:
    bare = [replace(s, targets={"energy": s.targets["energy"]}) for s in labelled()]
    found = validate(PairPotential(), against=bare, checks="labels", progress=False)
    assert [reason for _, _, reason in found.not_done] == ["the data has no forces", "the data has no stress"]
    with pytest.raises(DataError, match="none of 4 structures has energy, forces or stress"):
        validate(PairPotential(), against=[replace(s, targets={}) for s in labelled()], progress=False)
    with pytest.raises(ConfigError, match="check labels: needs labelled data"):
        validate(PairPotential(), {"copper": bulk("Cu")}, checks="labels", progress=False)


def test_a_file_of_labels_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [sample.to_ase() for sample in labelled(2)]
    write(tmp_path / "frames.xyz", frames)
    command = ["validate", "ase:pair_potential:PairPotential", "--against", str(tmp_path / "frames.xyz")]
    assert main([*command, "--checks", "labels", "--strict", "-o", str(tmp_path / "v")]) == 0
    assert "labels: passed (4 numbers)" in capsys.readouterr().out
    assert "frames.xyz" in (tmp_path / "v" / "validation.html").read_text(encoding="utf-8")


def test_data_are_told_from_models(tmp_path: Path) -> None:
    write(tmp_path / "frames.xyz", bulk("Cu"))
    (tmp_path / "model.pt").write_bytes(b"no model")
    assert is_model("mini")
    assert is_model("ase:ase.calculators.emt:EMT")
    assert is_model("chgnet:0.3.0")
    assert is_model("small.safetensors")
    assert is_model(str(tmp_path / "model.pt"))
    for name in ("rmd17:aspirin", "mini:molecules", "xyz:frames.xyz", "missing.xyz"):
        assert not is_model(name)
    assert not is_model(str(tmp_path))
    assert not is_model(str(tmp_path / "frames.xyz"))
    assert not is_model(f"ase:{tmp_path / 'frames.xyz'}")


def test_a_barrier_between_one_s_own_end_points(tmp_path: Path) -> None:
    """An atom goes through a triangle of others: both ends are alike, so both barriers are."""
    first = Atoms("Cu4", [[0, 0, 0], [2.8, 0, 0], [1.4, 2.4, 0], [1.4, 0.8, 2.3]])
    last = first.copy()
    last.positions[3, 2] *= -1
    settings = {"checks": "barrier", "progress": False}
    found = validate(PairPotential(), {}, end_points=(first, last), **settings)  # type: ignore[arg-type]
    numbers = {verdict.number: verdict.value for verdict in found.verdicts}
    assert numbers["barrier"] > 0.1
    assert numbers["barrier back"] == pytest.approx(numbers["barrier"], abs=0.01)
    write(tmp_path / "one.xyz", first)
    with pytest.raises(ConfigError, match=r"one\.xyz: holds 1 structures"):
        validate(PairPotential(), {}, end_points=tmp_path / "one.xyz", **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="same atoms in the same order"):
        validate(PairPotential(), {}, end_points=(first, Atoms("H4", last.positions)), **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs two structures"):
        validate(PairPotential(), {}, **settings)  # type: ignore[arg-type]
