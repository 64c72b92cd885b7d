import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

from atomslim.data.staging import write_container
from atomslim.errors import ConfigError, DataError
from atomslim.inference.inputs import open_inputs, read_inputs
from data.made_samples import several, slab


def symbols(*sources: Path | str) -> list[str]:
    return [str(frame.atoms.symbols) for frame in read_inputs(open_inputs(sources))]


def dioxide(path: Path) -> None:
    """CO2 in the layout of rMD17."""
    path.parent.mkdir(parents=True)
    positions = np.array([[[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]]] * 4) * np.arange(1, 5).reshape(4, 1, 1)
    energies = np.full(4, -188.58 * 627.509)
    np.savez(path, nuclear_charges=[6, 8, 8], coords=positions, energies=energies, forces=np.ones((4, 3, 3)))


def test_files_folders_and_containers_make_one_row(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [molecule("H2O"), molecule("CO2")])
    folder = tmp_path / "frames"
    folder.mkdir()
    write(folder / "2.xyz", molecule("CH4"))
    write(folder / "1.traj", [bulk("Cu"), molecule("NH3")])
    (folder / ".hidden").write_text("nothing to see")
    write_container(tmp_path / "made.samples", [slab()], {})
    frames = list(read_inputs(open_inputs([tmp_path / "a.xyz", folder, tmp_path / "made.samples"])))
    assert [str(frame.atoms.symbols) for frame in frames] == ["OH2", "CO2", "Cu", "NH3", "CH4", "Cu2O"]
    assert [frame.number for frame in frames] == list(range(6))
    assert frames[3].name == f"{folder / '1.traj'}: record 1 (counting from 0)"
    assert frames[5].name == "plaque, Änderung 7"
    assert frames[5].batch.tags.tolist() == [0, 1, 2]
    assert frames[5].batch.fixed.tolist() == [True, False, False]
    assert frames[5].atoms.calc is None
    assert "band_gap" not in frames[5].atoms.info
    assert symbols(f"xyz:{tmp_path / 'a.xyz'}") == ["OH2", "CO2"]


def test_datasets_are_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMSLIM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="atomslim data download rmd17:aspirin"):
        open_inputs(["rmd17:aspirin"])
    file = tmp_path / "elsewhere" / "file.npz"
    dioxide(file)
    assert symbols(f"rmd17@{file}") == ["CO2"] * 4
    (tmp_path / "rmd17").mkdir()
    write_container(tmp_path / "rmd17" / "aspirin.samples", [slab()], {})
    assert symbols("rmd17:aspirin") == ["Cu2O"]


def test_only_wanted_structures_are_read(tmp_path: Path) -> None:
    path = tmp_path / "made.samples"
    write_container(path, several(6), {})
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 255  # breaks the last record
    path.write_bytes(contents)
    (tmp_path / "a.xyz").write_text("1\n\nXy 0 0 0\n1\n\nH 0 0 0\n")
    inputs = open_inputs([path, tmp_path / "a.xyz"])
    assert [frame.number for frame in read_inputs(inputs, lambda number: number not in {5, 6})] == [0, 1, 2, 3, 4, 7]
    with pytest.raises(DataError, match=r"record 5 .* is broken"):
        list(read_inputs(inputs))


def test_identities_change_with_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    write(folder / "a.xyz", molecule("H2O"))
    write_container(tmp_path / "made.samples", [slab()], {})
    dioxide(tmp_path / "npz" / "file.npz")
    names: list[str | Path] = [
        folder / "a.xyz",
        folder,
        tmp_path / "made.samples",
        f"rmd17@{tmp_path / 'npz' / 'file.npz'}",
    ]
    before = [one.identity() for one in open_inputs(names)]
    assert before == [one.identity() for one in open_inputs(names)]
    files = (folder / "a.xyz", tmp_path / "npz" / "file.npz")
    for file in files:
        os.utime(file, (1, 1))
    assert before == [one.identity() for one in open_inputs(names)]  # the same contents at another time
    write_container(tmp_path / "made.samples", [slab(1)], {})
    for file in files:
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
        os.utime(file, (1, 1))
    for one, other in zip(before, [one.identity() for one in open_inputs(names)], strict=True):
        assert one != other


def test_what_cannot_be_found_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_inputs([tmp_path / "missing.xyz"])
    with pytest.raises(FileNotFoundError):
        open_inputs(["xyz:missing.xyz"])
    with pytest.raises(ConfigError, match="unknown dataset 'rmd71': did you mean rmd17"):
        open_inputs(["rmd71:aspirin"])
    with pytest.raises(ConfigError, match="no structures: name one"):
        open_inputs([])
    with pytest.raises(DataError, match="holds no files"):
        open_inputs([tmp_path])
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match=r"notes\.txt: no format that ASE knows"):
        open_inputs([tmp_path])
