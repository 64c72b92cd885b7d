"""Every kind of bad input, given to every command that reads it: one line, exit status 1, nothing left half-done."""

import lzma
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.io import write

import atomslim
from atomslim.cli import main as cli
from atomslim.errors import AtomslimWarning
from data.graph_objects import new_layout, slab, write_lmdb
from data.hdf5_files import conformations, write_hdf5
from samples import small_model
from small_models import SIZES
from train.water import waters

KCAL = 23.060547830619
"""kcal/mol in one eV."""

FRAMES = 12

COMMANDS = ("finetune", "pretrain", "evaluate", "prepare", "check", "show")


@dataclass(frozen=True)
class Input:
    """A dataset that is wrong, and what the message must say of the location, the problem and the remedy."""

    data: str
    words: tuple[str, ...]


def water(**changes: Any) -> list[Atoms]:
    return [sample.to_ase() for sample in waters(FRAMES, **changes)]


def npz(path: Path, **changes: Any) -> Path:
    """Write water in the layout of rMD17, in kcal/mol; None leaves an array out."""
    samples = waters(FRAMES)
    energies = np.array([float(sample.targets["energy"]) for sample in samples])
    content = {
        "nuclear_charges": samples[0].numbers,
        "coords": np.stack([sample.positions for sample in samples]),
        "energies": KCAL * (energies + 14 - 76.4 * 27.2114),  # all electrons
        "forces": KCAL * np.stack([sample.targets["forces"] for sample in samples]),
    }
    np.savez(path, **{name: value for name, value in (content | changes).items() if value is not None})
    return path


def xyz(path: Path, frames: list[Atoms]) -> Path:
    write(path, frames, format="extxyz")
    return path


def cut(path: Path) -> Path:
    """Leave the first 60 % of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])
    return path


def truncated_npz(folder: Path) -> Input:
    path = cut(npz(folder / "rmd17_water.npz"))
    return Input(f"rmd17@{path}", (str(path), "download it again"))


def truncated_hdf5(folder: Path) -> Input:
    path = cut(write_hdf5(folder / "ani1x.h5", {"CH4": conformations(frames=50)}))
    return Input(f"ani1x@{path}", (str(path), "download it again"))


def truncated_lmdb(folder: Path) -> Input:
    write_lmdb(folder / "shards" / "data.lmdb", [new_layout(**slab()) for _ in range(40)])
    path = cut(folder / "shards" / "data.lmdb")
    return Input(f"oc20:train@{path.parent}", (str(path), "cut off at", "copy or download"))


def truncated_xz(folder: Path) -> Input:
    frames = folder / "plain.xyz"
    xyz(frames, water())
    (folder / "raw").mkdir()
    path = folder / "raw" / "0.extxyz.xz"
    path.write_bytes(lzma.compress(frames.read_bytes()))
    (folder / "raw" / "0.txt.xz").write_bytes(lzma.compress(b"random1,frame0,-7.0\n" * FRAMES))
    cut(path)
    return Input(f"oc20@{path.parent}", (str(path), "cut off", "download it again"))


def wrong_keys_npz(folder: Path) -> Input:
    path = npz(folder / "rmd17_water.npz", forces=None, F_in_some_unit=np.zeros((FRAMES, 3, 3)))
    return Input(f"rmd17@{path}", (str(path), "has no forces", "F_in_some_unit", "check"))


def wrong_keys_xyz(folder: Path) -> Input:
    frames = water()
    for atoms in frames:
        atoms.calc = None
        atoms.info["my_energy"] = -14.0
    path = xyz(folder / "water.xyz", frames)
    return Input(f"xyz:{path}", (str(path), "my_energy", "energy_key"))


def mixed_atom_counts(folder: Path) -> Input:
    path = npz(folder / "rmd17_water.npz", forces=np.zeros((FRAMES, 4, 3)))
    return Input(f"rmd17@{path}", (str(path), "forces has the shape (12, 4, 3)", "all frames must be of one molecule"))


def missing_atom_line(folder: Path) -> Input:
    path = xyz(folder / "water.xyz", water())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:27] + lines[28:]))
    return Input(f"xyz:{path}", (f"{path}, record 5", "mend or remove"))


def energies_in_hartree(folder: Path) -> Input:
    path = xyz(folder / "water.xyz", water(energy=-76.4))
    return Input(f"xyz:{path}", (f"{path}, record 0", "Hartree", "energy_unit"))


def energies_in_kcal_per_mol(folder: Path) -> Input:
    path = xyz(folder / "water.xyz", water(energy=-76.4 * 627.5))
    return Input(f"xyz:{path}", (f"{path}, record 0", "kcal/mol", "energy_unit"))


def forces_not_finite(folder: Path) -> Input:
    frames = water()
    frames[7].calc.results["forces"][1, 2] = np.nan
    path = xyz(folder / "water.xyz", frames)
    return Input(f"xyz:{path}", (f"{path}, record 7", "forces", "not finite", "remove the record"))


def forces_not_finite_npz(folder: Path) -> Input:
    forces = np.ones((FRAMES, 3, 3))
    forces[7, 1, 2] = np.nan
    path = npz(folder / "rmd17_water.npz", forces=forces)
    return Input(f"rmd17@{path}", (f"{path}, record 7", "forces", "not finite", "remove the record"))


def empty_file(folder: Path) -> Input:
    path = folder / "water.xyz"
    path.touch()
    return Input(f"xyz:{path}", (str(path), "the file is empty", "check that it was written completely"))


def no_frames(folder: Path) -> Input:
    empty = {
        name: np.zeros((0, *shape)) for name, shape in {"coords": (3, 3), "energies": (), "forces": (3, 3)}.items()
    }
    path = npz(folder / "rmd17_water.npz", **empty)
    return Input(f"rmd17@{path}", (str(path), "check"))


def no_such_file(folder: Path) -> Input:
    return Input(f"xyz:{folder / 'water.xyz'}", (str(folder / "water.xyz"), "check the path"))


def unknown_dataset(_folder: Path) -> Input:
    return Input("rmd71:aspirin", ("rmd71", "did you mean", "rmd17"))


def unknown_variant(_folder: Path) -> Input:
    return Input("rmd17:asprin", ("asprin", "did you mean rmd17:aspirin"))


def unset_variable(_folder: Path) -> Input:
    return Input("xyz:$ATOMSLIM_NOT_SET/a.xyz", ("ATOMSLIM_NOT_SET", "is not set: set it"))


KINDS: list[Callable[[Path], Input]] = [
    truncated_npz,
    truncated_hdf5,
    truncated_lmdb,
    truncated_xz,
    wrong_keys_npz,
    wrong_keys_xyz,
    mixed_atom_counts,
    missing_atom_line,
    energies_in_hartree,
    energies_in_kcal_per_mol,
    forces_not_finite,
    forces_not_finite_npz,
    empty_file,
    no_frames,
    no_such_file,
    unknown_dataset,
    unknown_variant,
    unset_variable,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "model.safetensors"
    atomslim.save(small_model().float(), path)
    return path


def tokens(command: str, data: str, model: Path, folder: Path, split: dict[str, float] | None = None) -> list[str]:
    """Return a command line that would work with good data, with its output in ``folder``."""
    sets = split or {"train": 0.5, "validation": 0.25}
    if command == "finetune":
        return ["finetune", str(model), data, "-o", f"{folder}/run", "--steps", "1", "--set", f"split={sets}"]
    if command == "pretrain":
        sizes = SIZES | {"num_blocks": 1, "direct_forces": False}
        options = {"sizes": sizes, "tasks": [{"name": "a", "data": data, "split": sets}], "steps": 1}
        (folder.parent / "options.yaml").write_text(yaml.safe_dump(options))
        return ["pretrain", f"{folder.parent}/options.yaml", "-o", f"{folder}/run"]
    if command == "evaluate":
        return ["evaluate", str(model), data]
    return ["data", command, data, *(["-o", f"{folder}/made.samples"] if command == "prepare" else [])]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines(keepends=True)
    text = lines[-1]  # what was found before stands in lines of its own
    assert text.startswith("atomslim: error: "), lines
    assert sum(line.startswith("atomslim: error: ") for line in lines) == 1, lines
    assert not any(line.startswith((" ", "Traceback")) for line in lines), lines
    assert text.count("\n") == 1, text
    return text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bad_data_is_one_line_with_location_and_remedy(
    kind: Callable[[Path], Input],
    command: str,
    model: Path,
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = kind(tmp_path)
    if kind is wrong_keys_xyz and command in {"prepare", "show"}:  # which need no labels, and say what is not used
        assert cli.main(tokens(command, given.data, model, output)) == 0
        assert "energy 0/12, forces 0/12, stress 0/12; not used: my_energy" in capsys.readouterr().out
        return
    assert cli.main(tokens(command, given.data, model, output)) == 1
    line = error_line(capsys)
    assert [word for word in given.words if word not in line] == [], line
    assert files(output) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_commands_take_good_data(
    command: str, model: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "rmd17_water.npz")
    assert cli.main(tokens(command, f"rmd17@{path}", model, output)) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_a_split_larger_than_the_data_names_both(
    command: str, model: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = xyz(tmp_path / "water.xyz", water())
    assert cli.main(tokens(command, f"xyz:{path}", model, output, {"train": 950, "validation": 50})) == 1
    line = error_line(capsys)
    assert f"{path}: a split into 950 + 50 structures is larger than the data, which has 12: ask for fewer" in line
    assert files(output) == []


def test_a_dataset_too_small_for_its_own_split_is_named(
    model: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "rmd17_water.npz")
    assert cli.main(["finetune", str(model), f"rmd17@{path}", "-o", f"{output}/run", "--steps", "1"]) == 1
    assert f"{path}: a split into 950 + 50 structures is larger than the data" in error_line(capsys)


def in_kcal(frames: list[Atoms], *names: str) -> list[Atoms]:
    """Multiply labels as if they were in kcal/mol (per Å)."""
    for atoms in frames:
        assert atoms.calc is not None
        for name in names:
            atoms.calc.results[name] *= KCAL
    return frames


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("forces",), ["unit of the forces", "kcal/mol/Å", "slope"]),
        (("energy",), ["energies in kcal/mol and forces in eV/Å"]),
        (("energy", "forces"), ["kcal/mol/Å"]),
    ],
)
def test_units_that_look_wrong_give_a_warning_before_training(
    wrong: tuple[str, ...],
    words: list[str],
    model: Path,
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = xyz(tmp_path / "water.xyz", in_kcal(water(), *wrong))
    with pytest.warns(AtomslimWarning, match=f"xyz:{path}.*mend the data") as caught:
        assert cli.main(tokens("finetune", f"xyz:{path}", model, output)) == 0
    texts = [str(warning.message) for warning in caught]
    assert all(any(word in text for text in texts) for word in words), texts
    capsys.readouterr()
    assert cli.main(["data", "check", str(path)]) == 1
    assert ", first" in error_line(capsys)


def test_a_warning_is_one_line_without_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(*warning: Any, **_rest: Any) -> None:
        sys.stderr.write(warnings.formatwarning(*warning[:4]))

    def warn(_tokens: object) -> None:
        warnings.warn("a.xyz: looks odd: mend it", AtomslimWarning, stacklevel=2)

    monkeypatch.setattr(cli, "app", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always", AtomslimWarning)
        monkeypatch.setattr(warnings, "showwarning", printed)
        assert cli.main(["info"]) == 0
    assert capsys.readouterr().err == "atomslim: warning: a.xyz: looks odd: mend it\n"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond a size in bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("command", "size", "refused"),
    [
        ("finetune", 500, "config.yaml"),
        ("finetune", 40_000, "best.safetensors"),
        ("finetune", 90_000, "state.pt"),
        ("pretrain", 40_000, "best.safetensors"),
        ("prepare", 100, "plan.json"),
        ("prepare", 1000, "000000.records"),
    ],
)
def test_a_disk_that_takes_no_more_leaves_whole_files_only(
    command: str, size: int, refused: str, model: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "rmd17_water.npz")
    line = tokens(command, f"rmd17@{path}", model, output)
    with files_no_larger_than(size):
        assert cli.main(line) == 1
    text = error_line(capsys)
    assert f"{refused}: File too large; write elsewhere" in text
    left = [name for name in files(output) if ".partial" not in name]  # what `prepare` goes on with
    assert not [name for name in left if name.endswith((".tmp", refused, ".samples"))]
    assert cli.main(line) == 0, capsys.readouterr().err  # there is space again: the same command does it
    assert not [name for name in files(output) if ".partial" in name or name.endswith(".tmp")]
