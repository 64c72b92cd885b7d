import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule as ase_molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomslim.atoms import Sample
from atomslim.data import open_dataset, registry
from atomslim.data.dataset import PreparedDataset, RawDataset
from atomslim.data.known import names, reader_of
from atomslim.data.prepare import prepare
from atomslim.data.registry import resolve
from atomslim.errors import ConfigError, DataError
from data.made_samples import assert_same


def frames(path: Path, count: int = 3) -> Path:
    structures = []
    for number in range(count):
        atoms = ase_molecule("H2O")
        atoms.rattle(0.01, seed=number)
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 - number, forces=np.full((3, 3), 0.1 * number))
        structures.append(atoms)
    write(path, structures, format="extxyz")
    return path


@pytest.fixture
def water(tmp_path: Path) -> Path:
    return frames(tmp_path / "water.extxyz")


def test_every_reader_says_what_it_is() -> None:
    assert {"oc20", "oc22", "ani1x", "transition1x", "rmd17", "md22", "qm9", "spice", "qmof", "matbench"} <= set(
        names()
    )
    for name in names():
        info = registry.info(name)
        assert info.name == name
        assert info.citation
        assert info.licence
        assert callable(reader_of(name).read)


def test_names_do_not_import_the_readers() -> None:
    program = (
        "import sys; from atomslim.data.known import names; from atomslim.data.registry import resolve;"
        "names(); resolve('rmd17:aspirin');"
        "loaded = {m.rsplit('.', 1)[1] for m in sys.modules if m.startswith('atomslim.data.readers.')};"
        "assert not {m for m in loaded if not m.startswith('_')} - {'rmd17'}, loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("rmd17:aspirin", "rmd17/rmd17_aspirin.npz"),
        ("RMD17:aspirin", None),
        ("rmd17:Aspirin", "rmd17/rmd17_aspirin.npz"),
    ],
)
def test_a_name_stands_for_a_path_below_the_root(name: str, file: str | None, tmp_path: Path) -> None:
    if file is None:
        with pytest.raises(ConfigError, match="did you mean rmd17"):
            resolve(name, tmp_path)
    else:
        source = resolve(name, tmp_path)
        assert source.path == tmp_path / file
        assert source.prepared == tmp_path / "rmd17" / "aspirin.samples"


def test_the_root_is_given_or_from_the_environment_or_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATOMSLIM_DATA", str(tmp_path))
    assert registry.data_root() == tmp_path
    assert registry.data_root("/elsewhere") == Path("/elsewhere")
    monkeypatch.delenv("ATOMSLIM_DATA")
    assert registry.data_root().name == "atomslim"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("rmd71:aspirin", ConfigError, "did you mean rmd17"),
        ("nonsense", ConfigError, "there are .*qm9"),
        ("rmd17:asprin", ConfigError, "did you mean rmd17:aspirin"),
        ("rmd17", ConfigError, "name one"),
        ("missing.xyz", DataError, "no such file"),
        ("folder/missing", DataError, "no such file"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_missing_files_are_said_to_be_missing_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rmd17_aspirin\.npz: .*atomslim data download rmd17:aspirin.*@PATH"):
        open_dataset("rmd17:aspirin", tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.npz: there is no such file"):
        open_dataset(f"rmd17:aspirin@{tmp_path / 'nowhere.npz'}")


@pytest.mark.parametrize("form", ["{}", "xyz:{}", "ase:{}"])
def test_any_file_of_structures_is_a_dataset(form: str, water: Path) -> None:
    data = open_dataset(form.format(water))
    assert isinstance(data, RawDataset)
    assert len(data) == 3
    assert [float(sample.targets["energy"]) for sample in data] == [-14.0, -15.0, -16.0]
    assert data[-1].targets["forces"].max() == pytest.approx(0.2)
    assert data.natoms.tolist() == [3, 3, 3]
    assert len(data.groups) == 3


def test_iterating_over_raw_files_keeps_nothing(water: Path) -> None:
    data = open_dataset(str(water))
    assert sum(1 for _ in data) == 3
    assert isinstance(data, RawDataset)
    assert data._samples is None


def test_a_raw_dataset_too_large_for_memory_must_be_prepared(water: Path) -> None:
    data = open_dataset(str(water), memory_limit=2000)
    assert len(list(data)) == 3
    with pytest.raises(DataError, match="atomslim data prepare"):
        data[0]


def npz(path: Path, count: int = 4) -> Path:
    generator = np.random.default_rng(0)
    water = ase_molecule("CH3CH2OH")
    positions = water.positions + generator.normal(size=(count, len(water), 3)) * 0.01
    energies = -97_000.0 + generator.normal(size=count)
    np.savez(
        path, nuclear_charges=water.numbers.astype(np.uint8), coords=positions, energies=energies, forces=positions
    )
    return path


def test_a_prepared_container_is_used_if_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "rmd17").mkdir()
    npz(tmp_path / "rmd17" / "rmd17_ethanol.npz")
    raw = open_dataset("rmd17:ethanol", tmp_path)
    samples = list(raw)
    prepare(resolve("rmd17:ethanol", tmp_path))
    data = open_dataset("rmd17:ethanol", tmp_path)
    assert isinstance(data, PreparedDataset)
    for found, sample in zip(data, samples, strict=True):
        assert_same(found, sample)
    by_path = open_dataset(str(tmp_path / "rmd17" / "ethanol.samples"))
    assert by_path.info.name == "rmd17"
    assert by_path.info.cutoff == 7.0
    other = open_dataset("rmd17:ethanol", tmp_path, options={"energy_unit": "eV"})
    assert isinstance(other, RawDataset)


def test_options_are_converted_and_checked(water: Path) -> None:
    sample = open_dataset(str(water), options={"energy_unit": "kcal/mol", "stress_factor": "-1"})[0]
    assert float(sample.targets["energy"]) == pytest.approx(-14.0 * 0.0433641)
    with pytest.raises(ConfigError, match="did you mean energy_unit"):
        resolve(str(water), options={"energy_unt": "eV"})
    with pytest.raises(ConfigError, match=r"stress_factor: .*number.*'no'"):
        resolve(str(water), options={"stress_factor": "no"})


def test_a_folder_of_shards_has_a_part_for_each(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.lmdb").touch()
    source = resolve(f"oc20:train@{tmp_path}")
    assert [part.name for part in source.parts()] == ["a.lmdb", "b.lmdb"]


@pytest.mark.parametrize(
    "name",
    [
        "rmd17:aspirin@rmd17/rmd17_aspirin_test_01.npz",
        "oc20:val_id@oc20/s2ef",
        "transition1x@transition1x/transition1x_layout_32.h5",
    ],
)
def test_real_files_come_through_a_container_unchanged(name: str, data_folder: Path, tmp_path: Path) -> None:
    reader, _, path = name.partition("@")
    source = resolve(f"{reader}@{data_folder / path}")
    container = prepare(source, tmp_path / "a.samples").container
    number = 0
    for number, sample in enumerate(source.read(), 1):
        assert_same(container[number - 1], sample)
    assert number == len(container)
    assert isinstance(container[0], Sample)


def test_names_may_have_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    assert resolve("rmd17:aspirin@$MY_DATA/a.npz").path == tmp_path / "a.npz"
    assert resolve("xyz:${MY_DATA}/a.xyz").path == tmp_path / "a.xyz"
    for name in ("xyz:$NOT_SET_HERE/a.xyz", "xyz:${NOT_SET_HERE}/a.xyz"):
        with pytest.raises(ConfigError, match="the environment variable NOT_SET_HERE is not set: set it") as caught:
            resolve(name)
        assert "\n" not in str(caught.value)
