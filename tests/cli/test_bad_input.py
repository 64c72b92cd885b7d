"""Every kind of bad input, given to every command that reads it: one line, exit status 1, nothing left half-done."""

import errno
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.io import write

import atomslim
from atomslim.cli import main as cli
from atomslim.data import staging
from data.graph_objects import new_layout, slab, write_lmdb
from data.hdf5_files import conformations, write_hdf5
from samples import small_model
from small_models import SIZES
from train.water import waters

KCAL = 23.060547830619
"""kcal/mol in one eV."""

FRAMES = 12


@dataclass(frozen=True)
class Input:
    """A dataset that is wrong, and what the message must say: words of the place, of the problem and of the remedy."""

    data: str
    words: tuple[str, ...]


def water_frames(**changes: Any) -> list[Any]:
    return [sample.to_ase() for sample in waters(FRAMES, **changes)]


def npz(path: Path, **changes: Any) -> Path:
    """Write water in the layout of rMD17, in kcal/mol; None leaves an array out."""
    samples = waters(FRAMES)
    shift = -76.4 * 27.2114 + 14  # to total energies
    content = {
        "nuclear_charges": samples[0].numbers,
        "coords": np.stack([sample.positions for sample in samples]),
        "energies": KCAL * (shift + np.array([float(sample.targets["energy"]) for sample in samples])),
        "forces": KCAL * np.stack([sample.targets["forces"] for sample in samples]),
    }
    np.savez(path, **{name: value for name, value in (content | changes).items() if value is not None})
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def xyz(path: Path, frames: list[Any]) -> Path:
    write(path, frames, format="extxyz")
    return path


def truncated_npz(folder: Path) -> Input:
    path = cut(npz(folder / "rmd17_water.npz"))
    return Input(f"rmd17:ethanol@{path}", (str(path), "download it again"))


def truncated_hdf5(folder: Path) -> Input:
    path = cut(write_hdf5(folder / "ani1x.h5", {"CH4": conformations(frames=50)}))
    return Input(f"ani1x@{path}", (str(path), "download it again"))


def truncated_lmdb(folder: Path) -> Input:
    write_lmdb(folder / "shards" / "data.lmdb", [new_layout(**slab()) for _ in range(40)])
    path = cut(folder / "shards" / "data.lmdb")
    return Input(f"oc20:train@{path.parent}", (str(path), "cut off"))


def truncated_xz(folder: Path) -> Input:
    frames = folder / "plain.xyz"
    xyz(frames, water_frames())
    (folder / "raw").mkdir()
    path = folder / "raw" / "0.extxyz.xz"
    path.write_bytes(lzma.compress(frames.read_bytes()))
    (folder / "raw" / "0.txt.xz").write_bytes(lzma.compress(b"random1,frame0,-7.0\n" * FRAMES))
    cut(path)
    return Input(f"oc20@{path.parent}", (str(path), "cut off", "download it again"))


def wrong_keys_npz(folder: Path) -> Input:
    path = npz(folder / "rmd17_water.npz", forces=None, F_in_some_unit=np.zeros((FRAMES, 3, 3)))
    return Input(f"rmd17:ethanol@{path}", (str(path), "has no forces", "F_in_some_unit", "check"))


def wrong_keys_xyz(folder: Path) -> Input:
    frames = water_frames()
    for atoms in frames:
        atoms.calc = None
        atoms.info["my_energy"] = -14.0
    path = xyz(folder / "water.xyz", frames)
    return Input(f"xyz:{path}", (str(path), "energy_key"))


def mixed_atom_counts(folder: Path) -> Input:
    path = npz(folder / "rmd17_water.npz", forces=np.zeros((FRAMES, 4, 3)))
    return Input(f"rmd17:ethanol@{path}", (str(path), "4"))


def missing_atom_line(folder: Path) -> Input:
    path = xyz(folder / "water.xyz", water_frames())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:27] + lines[28:]))
    return Input(f"xyz:{path}", (f"{path}, record 5", "mend or remove"))


def energies_in_hartree(folder: Path) -> Input:
    path = xyz(folder / "water.xyz", water_frames(energy=-76.4))
    return Input(f"xyz:{path}", (f"{path}, record 0", "Hartree", "energy_unit"))


def energies_in_kcal_per_mol(folder: Path) -> Input:
    path = xyz(folder / "water.xyz", water_frames(energy=-76.4 * 627.5))
    return Input(f"xyz:{path}", (f"{path}, record 0", "kcal/mol", "energy_unit"))


def forces_not_finite(folder: Path) -> Input:
    frames = water_frames()
    frames[7].calc.results["forces"][1, 2] = np.nan
    path = xyz(folder / "water.xyz", frames)
    return Input(f"xyz:{path}", (f"{path}, record 7", "forces", "not finite", "remove the record"))


def forces_not_finite_npz(folder: Path) -> Input:
    forces = np.ones((FRAMES, 3, 3))
    forces[7, 1, 2] = np.nan
    path = npz(folder / "rmd17_water.npz", forces=forces)
    return Input(f"rmd17:ethanol@{path}", (f"{path}, record 7", "forces", "not finite", "remove the record"))


def empty_file(folder: Path) -> Input:
    path = folder / "water.xyz"
    path.touch()
    return Input(f"xyz:{path}", (str(path), "empty"))


def no_frames(folder: Path) -> Input:
    empty = {name: np.zeros((0, *shape)) for name, shape in {"coords": (3, 3), "energies": (), "forces": (3, 3)}.items()}
    path = npz(folder / "rmd17_water.npz", **empty)
    return Input(f"rmd17:ethanol@{path}", (str(path),))


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

COMMANDS = ("finetune", "pretrain", "evaluate", "prepare", "check", "show")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "model.safetensors"
    atomslim.save(small_model().float(), path)
    return path


def tokens(command: str, data: str, model: Path, folder: Path) -> list[str]:
    """Return a command line that would work with good data, its output in ``folder``."""
    if command == "finetune":
        return ["finetune", str(model), data, "-o", f"{folder}/run", "--steps", "1", "--set", "cutoff=4.5"]
    if command == "pretrain":
        sizes = SIZES | {"num_blocks": 1, "direct_forces": False}
        options = {"sizes": sizes, "tasks": [{"name": "a", "data": data, "cutoff": 4.5}], "steps": 1}
        (folder.parent / "options.yaml").write_text(yaml.safe_dump(options))
        return ["pretrain", f"{folder.parent}/options.yaml", "-o", f"{folder}/run"]
    if command == "evaluate":
        return ["evaluate", str(model), data]
    return ["data", command, data, *(["-o", f"{folder}/made.samples"] if command == "prepare" else [])]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_x(
    kind: Callable[[Path], Input], command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = kind(tmp_path)
    output = tmp_path / "output"
    output.mkdir()
    status = cli.main(tokens(command, given.data, model, output))
    e = capsys.readouterr().err
    left = [str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()]
    missing = [w for w in given.words if w not in e]
    bad = []
    if status != 1: bad.append(f"STATUS {status}")
    if e.count("\n") != 1: bad.append("LINES")
    if missing: bad.append(f"MISSING {missing}")
    if left: bad.append(f"LEFT {left}")
    with open("/tmp/h_matrix.txt", "a") as f:
        f.write(f"{kind.__name__} {command}: {bad or 'ok'}\n    {e.replace(str(tmp_path),'TMP')}\n")
