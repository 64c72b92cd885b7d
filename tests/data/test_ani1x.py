import builtins
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atomslim.atoms.sample import Sample
from atomslim.data.readers import ani1x, comp6
from atomslim.errors import ConfigError, DataError
from data.graph_objects import molecule, pickled_list
from data.hdf5_files import conformations, import_h5py, write_hdf5

HARTREE = 27.211386
"""eV: digits enough to tell it from 627.5 kcal/mol at any conversion of the latter."""

NAN = np.full(3, np.nan)


def dimers(**changes: Any) -> dict[str, Any]:
    """Columns of a molecule of COMP6."""
    columns = conformations()
    renamed = {
        "species": np.array([b"C", b"H", b"H", b"H", b"H"]),
        "coordinates": columns["coordinates"],
        "energies": columns["wb97x_dz.energy"],
        "forces": columns["wb97x_dz.forces"],
    }
    return renamed | changes


def along_the_path(samples: Iterable[Sample], longest: float) -> tuple[list[float], list[float]]:
    """Give −F̄·dx and dE (eV) between neighbouring frames of a group that differ by at most `longest` Å."""
    predicted, actual = [], []
    for one, other in pairwise(samples):
        step = other.positions - one.positions if one.group == other.group else np.inf
        if np.abs(step).max() <= longest:
            predicted.append(-float(np.sum((one.targets["forces"] + other.targets["forces"]) / 2 * step)))
            actual.append(float(other.targets["energy"] - one.targets["energy"]))
    return predicted, actual


def test_hartree_becomes_ev(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "ani1x-release.h5", {"C1H4": conformations()})
    samples = list(ani1x.read(path))
    assert [float(sample.targets["energy"]) for sample in samples] == pytest.approx(
        [k * HARTREE for k in (-40, -39, -38)]
    )
    assert samples[0].targets["forces"] == pytest.approx(0.5 * HARTREE)
    assert samples[0].targets["forces"].shape == (5, 3)
    assert samples[1].positions[0].tolist() == [15.0, 16.0, 17.0]
    assert samples[1].numbers.tolist() == [6, 1, 1, 1, 1]
    assert not samples[1].pbc.any()
    assert not samples[1].cell.any()
    assert samples[1].tags.tolist() == [2] * 5
    assert samples[1].group == "C1H4"
    assert samples[1].name == f"{path}, C1H4, conformation 1"
    assert ani1x.count(path) == 3


def test_small_molecules_are_left_out(tmp_path: Path) -> None:
    groups = {f"C1H{n - 1}": conformations(natoms=n) for n in (2, 3, 4, 5)}
    path = write_hdf5(tmp_path / "ani1x-release.h5", groups)
    assert {sample.group for sample in ani1x.read(path)} == {"C1H3", "C1H4"}
    assert ani1x.count(tmp_path) == 6
    assert len(list(ani1x.read(path, min_atoms=1))) == 12
    lists = tmp_path / "lists"
    lists.mkdir()
    small = molecule(pos=torch.zeros(3, 3), atomic_numbers=torch.ones(3), natoms=3, tags=None, force=torch.zeros(3, 3))
    (lists / "train.pkl").write_bytes(pickled_list(small, molecule()))
    assert [len(sample) for sample in ani1x.read(lists)] == [5]


def test_nan_in_other_columns_is_normal(tmp_path: Path) -> None:
    columns = conformations() | {"ccsd(t)_cbs.energy": NAN, "wb97x_tz.forces": np.full((3, 5, 3), np.nan)}
    assert len(list(ani1x.read(write_hdf5(tmp_path / "a.h5", {"C1H4": columns})))) == 3


def test_lists_are_read_with_the_release_s_group_names(tmp_path: Path) -> None:
    (tmp_path / "train.pkl").write_bytes(pickled_list(molecule(), molecule(natoms=None, sid=None)))
    first, second = ani1x.read(tmp_path)
    assert first.group == second.group == "C1H4"
    assert first.targets["energy"] == -1100.5  # eV already
    assert not first.pbc.any()
    assert ani1x.count(tmp_path) is None


def test_gradients_of_comp6_become_forces(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "comp6.h5", {"s66x8/mol00": dimers(), "ani_md/mol00": dimers(cm5=NAN)})
    samples = list(comp6.read(path))
    assert [sample.group for sample in samples] == ["ani_md/mol00"] * 3 + ["s66x8/mol00"] * 3
    assert samples[0].targets["forces"] == pytest.approx(-0.5 * HARTREE)
    assert samples[0].targets["energy"] == pytest.approx(-40 * HARTREE)
    assert samples[0].numbers.tolist() == [6, 1, 1, 1, 1]
    assert len(list(comp6.read(path, "s66x8"))) == comp6.count(path, "s66x8") == 3
    assert comp6.count(path) == 6
    with pytest.raises(DataError, match=r"comp6.h5: has no benchmark 'gdb' \(there are: ani_md, s66x8\)"):
        list(comp6.read(path, "gdb"))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a column is missing": ({"wb97x_dz.forces": None}, r"has no wb97x_dz.forces \(there is: atomic_numbers, coord"),
    "no elements": ({"atomic_numbers": None}, r"has no atomic_numbers"),
    "other number of atoms": (
        {"coordinates": np.zeros((3, 4, 3))},
        r"coordinates has the shape \(3, 4, 3\) where \(3, 5, 3\)",
    ),
    "other number of frames": ({"wb97x_dz.forces": np.zeros((2, 5, 3))}, r"wb97x_dz.forces has the shape \(2, 5, 3\)"),
    "energies of another shape": ({"wb97x_dz.energy": np.zeros((3, 1))}, r"energy has the shape \(3, 1\)"),
    "NaN forces": ({"wb97x_dz.forces": np.full((3, 5, 3), np.nan)}, r"conformation 0: forces \(row 0\) not finite"),
    "NaN energy": ({"wb97x_dz.energy": np.array([0, 1, np.nan])}, r"conformation 2: energy not finite"),
    "no element": ({"atomic_numbers": np.array([6, 1, 1, 1, 200], np.uint8)}, r"atom 4 has the atomic number 200"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_group_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"C1H4": conformations(), "C2H4": conformations(**changes)})
    with pytest.raises(DataError, match=rf"a\.h5, C2H4.*{message}") as caught:
        list(ani1x.read(path))
    assert "\n" not in str(caught.value)


def test_broken_groups_of_comp6_are_named(tmp_path: Path) -> None:
    species = np.array([b"C", b"H", b"H", b"H", b"Q"])
    path = write_hdf5(tmp_path / "a.h5", {"s66x8/mol00": dimers(species=species)})
    with pytest.raises(DataError, match=r"a.h5, s66x8/mol00: 'Q' is not an element"):
        list(comp6.read(path))
    path = write_hdf5(tmp_path / "a.h5", {"s66x8/mol00": {"energies": np.zeros(2)}})
    with pytest.raises(DataError, match=r"a.h5, s66x8/mol00: has no species, coordinates, forces"):
        list(comp6.read(path))


@pytest.mark.parametrize("reader", [ani1x, comp6])
def test_a_file_that_is_empty_or_something_else_is_named(tmp_path: Path, reader: Any) -> None:
    path = write_hdf5(tmp_path / "a.h5", {})
    with pytest.raises(DataError, match=r"a.h5: is empty, or has another layout"):
        list(reader.read(path))
    path.write_bytes(b"text" * 1000)
    with pytest.raises(DataError, match=r"a.h5: cut off or damaged \(OSError"):
        list(reader.read(path))
    with pytest.raises(DataError, match=r"none.h5: there is no such file"):
        list(reader.read(tmp_path / "none.h5"))


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, keep: float) -> None:
    path = write_hdf5(tmp_path / "a.h5", {f"C{n}": conformations(frames=100) for n in range(1, 4)})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"a.h5.*cut off or damaged") as caught:
        list(ani1x.read(path))
    assert "\n" not in str(caught.value)


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    h5py = import_h5py()
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("C1H4")
        for name, values in conformations(frames=500).items():
            group.create_dataset(name, data=values, chunks=values.shape, compression="gzip")
        chunk = group["wb97x_dz.forces"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.h5, C1H4, wb97x_dz.forces: cut off or damaged"):
        list(ani1x.read(path))


@pytest.mark.parametrize("content", [b"", pickled_list(molecule())[:-400]])
def test_a_list_that_is_cut_off_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"a.pkl: cut off or damaged"):
        list(ani1x.read(tmp_path))


def test_a_list_that_is_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickled_list())
    with pytest.raises(DataError, match=r"a.pkl: is empty"):
        list(ani1x.read(tmp_path))


def test_a_missing_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"C1H4": conformations()})
    usual = builtins.__import__
    monkeypatch.setattr("atomslim.data.optional.import_module", lambda name: usual(f"no_such_package_{name}"))
    with pytest.raises(ConfigError, match=r"needs the package h5py: pip install 'atomslim\[data\]'"):
        list(ani1x.read(path))


# The real files


def _by_content(samples: Iterable[Sample]) -> dict[tuple[Any, ...], Sample]:
    return {(*sample.numbers.tolist(), round(float(sample.targets["energy"]), 7)): sample for sample in samples}


def test_real_release(data_folder: Path) -> None:
    import_h5py()
    path = data_folder / "ani1x" / "ani1x-release_n5.h5"
    samples = list(ani1x.read(path))
    assert len(samples) == ani1x.count(path) == 8
    assert {sample.group for sample in samples} == {"C1H4N4O4", "C1H5N3O5", "C1H6N2O5", "C2H10N4O3", "C2H10N6O1"}
    assert samples[0].targets["energy"] == pytest.approx(-15237.4870865, abs=1e-6)
    assert all(np.abs(sample.targets["forces"].sum(axis=0)).max() < 1e-3 for sample in samples)


def test_the_repacked_file_has_the_other_two_with_comp6s_sign_corrected(data_folder: Path) -> None:
    import_h5py()
    folder = data_folder / "ani1x"
    repacked = list(ani1x.read(folder / "ani1x_layout_repacked.h5"))
    dimer_path = folder / "comp6_s66x8_wb97x6-31gd.h5"
    dimers_read = list(comp6.read(dimer_path, "s66x8"))
    assert len(dimers_read) == comp6.count(dimer_path) == 528
    assert len({sample.group for sample in dimers_read}) == 66
    others = _by_content([*ani1x.read(folder / "ani1x-release_n5.h5"), *dimers_read])
    assert len(others) == len(repacked) == 536
    for key, sample in _by_content(repacked).items():
        np.testing.assert_array_equal(sample.positions, others[key].positions)
        np.testing.assert_array_equal(sample.targets["forces"], others[key].targets["forces"])


def test_energies_of_real_dimers_fall_along_the_forces(data_folder: Path) -> None:
    import_h5py()
    samples = comp6.read(data_folder / "ani1x" / "comp6_s66x8_wb97x6-31gd.h5")
    predicted, actual = along_the_path(samples, longest=0.25)
    assert len(predicted) > 100
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9


def test_real_lists_are_in_ev(data_folder: Path) -> None:
    samples = [s for part in ("train", "val") for s in ani1x.read(data_folder / f"ani1x/ani1x_pickle16_{part}.pkl")]
    assert len(samples) == 32
    assert samples[0].group == "C4H6N2"
    assert samples[0].targets["energy"] == pytest.approx(-7222.384567, abs=1e-6)
    assert np.std(np.concatenate([s.targets["forces"].ravel() for s in samples])) == pytest.approx(2.1, abs=0.1)
    assert all(np.abs(s.targets["forces"].sum(axis=0)).max() < 1e-5 and set(s.tags) == {2} for s in samples)
