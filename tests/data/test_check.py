import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.data import check as checks
from atomslim.data import show as shows
from atomslim.data import splits
from atomslim.data.check import Report, check
from atomslim.data.check_labels import slope
from atomslim.data.dataset import open_dataset
from atomslim.data.in_memory import Samples
from atomslim.data.prepare import prepare
from atomslim.data.registry import info, resolve
from atomslim.errors import AtomslimError, ConfigError, DataError
from data.made_samples import molecule as made
from data.made_samples import slab


def trajectory(count: int = 12) -> list[Sample]:
    """Frames a few hundredths of Å apart, with energies and forces of one potential."""
    atoms = molecule("C6H6")
    samples = []
    for number in range(count):
        frame = atoms.copy()
        frame.rattle(0.01, seed=number)
        frame.calc = LennardJones(sigma=1.2, epsilon=0.05, rc=20.0, smooth=False)
        targets = {"energy": frame.get_potential_energy(), "forces": frame.get_forces()}
        samples.append(Sample.from_ase(frame, targets, name=f"frame {number}", group="benzene"))
    return samples


def changed(change: Callable[[Sample], Sample]) -> list[Sample]:
    return [change(sample) for sample in trajectory()]


def scaled(sample: Sample, energy: float = 1.0, forces: float = 1.0, positions: float = 1.0) -> Sample:
    targets = {"energy": sample.targets["energy"] * energy, "forces": sample.targets["forces"] * forces}
    return replace(sample, targets=targets, positions=sample.positions * positions)


def finding(report: Report, what: str) -> checks.Finding:
    return next(found for found in report.findings if found.what == what)


def test_a_sound_dataset_has_no_problems() -> None:
    report = check(trajectory(), 12, ("energy", "forces"))
    assert report.problems == []
    assert "belong together" in finding(report, "energy and forces").text
    assert "\n" in str(report)
    checks.require_fit(report, "benzene")


@pytest.mark.parametrize(
    ("factors", "hint"),
    [
        ({"forces": -1.0}, "wrong sign"),
        ({"energy": units.mol / units.kcal}, "energies in kcal/mol"),
        ({"forces": units.mol / units.kcal}, "forces in kcal/mol/Å"),
        ({"energy": 1 / units.Hartree}, "energies in Hartree"),
        ({"forces": units.Bohr}, "forces in eV/bohr"),
        ({"forces": 1 / units.Hartree}, "forces in Hartree/Å"),
    ],
)
def test_units_that_do_not_fit_are_told_by_the_slope(factors: dict[str, float], hint: str) -> None:
    report = check(changed(lambda sample: scaled(sample, **factors)))
    found = finding(report, "energy and forces")
    assert found.level == "problem"
    assert hint in found.text


def test_pairs_of_hot_frames_give_way_to_closer_ones() -> None:
    """E = x + 200 x³ along one atom's x: the mean force is wrong by a third between 0 and 0.25 Å, and right nearby."""
    far, close = [0.0, 0.25, 0.0], [0.01 * step for step in range(6)]
    frames = [cubic(x) for x in far + close]
    assert slope(list(pairwise(frames[:3])))[1] == pytest.approx(0.683, abs=1e-3)
    assert finding(check(frames), "energy and forces").level == "ok"
    wrong = [replace(one, targets={**one.targets, "energy": 1.4 * one.targets["energy"]}) for one in frames]
    assert finding(check(wrong), "energy and forces").level == "problem"


def cubic(x: float) -> Sample:
    positions, forces = np.array([[x, 0.0, 0.0], [3.0, 0.0, 0.0]]), np.zeros((2, 3))
    forces[0, 0] = -(1 + 600 * x**2)
    return made(numbers=[6, 6], natoms=2, positions=positions, targets={"energy": x + 200 * x**3, "forces": forces})


def test_frames_far_apart_are_not_compared() -> None:
    generator = np.random.default_rng(0)
    report = check(changed(lambda s: replace(s, positions=s.positions + generator.normal(size=s.positions.shape))))
    assert finding(report, "energy and forces").level == "note"


def test_neighbouring_frames_are_found_in_any_order() -> None:
    far = trajectory(6)
    for sample in far:  # the same molecule in another plane
        sample.positions[:] = sample.positions[:, ::-1].copy()
        sample.targets["forces"][:] = sample.targets["forces"][:, ::-1].copy()
    near = trajectory(6)
    report = check([sample for pair in zip(near, far, strict=True) for sample in pair])
    assert finding(report, "energy and forces").level == "ok"


@pytest.mark.parametrize(("factor", "unit"), [(1 / units.Bohr, "bohr"), (0.1, "nm")])
def test_positions_in_another_unit_are_told_by_the_bonds_of_hydrogen(factor: float, unit: str) -> None:
    report = check(changed(lambda sample: scaled(sample, positions=factor)))
    assert f"look like {unit}" in finding(report, "unit of the positions").text


@pytest.mark.parametrize(("factor", "unit"), [(1.0, "Hartree"), (units.Hartree * units.mol / units.kcal, "kcal/mol")])
def test_total_energies_in_another_unit_are_told_by_the_elements(factor: float, unit: str) -> None:
    total = 6 * -37.9 - 6 * 0.5
    report = check([made(numbers=[6] * 6 + [1] * 6, natoms=12, targets={"energy": total * factor})])
    assert unit in finding(report, "unit of the energy").text


def test_a_unit_that_was_given_is_believed(tmp_path: Path) -> None:
    total = 6 * -37.9 - 6 * 0.5
    atoms = molecule("C6H6")
    atoms.calc = SinglePointCalculator(atoms, energy=total)
    write(tmp_path / "benzene.extxyz", atoms)
    source = resolve(f"{tmp_path}/benzene.extxyz", options={"energy_unit": "eV"})
    prepare(source, tmp_path / "benzene.samples")
    for data in (
        open_dataset(source.name, options={"energy_unit": "eV"}),
        open_dataset(str(tmp_path / "benzene.samples")),
    ):
        found = finding(check(data), "unit of the energy")
        assert (found.level, "as the option energy_unit says" in found.text) == ("note", True)
        assert checks.unit_problems(data, [0]) == []
    nobody_said = Samples([Sample.from_ase(atoms, {"energy": total})])
    assert [found.what for found in checks.unit_problems(nobody_said, [0])] == ["unit of the energy"]


def test_forces_beyond_reason_are_a_problem() -> None:
    report = check([made(targets={"energy": 1.0, "forces": np.full((5, 3), 50.0)})])
    assert "kcal/mol" in finding(report, "unit of the forces").text


@pytest.mark.parametrize(
    ("samples", "what", "words"),
    [
        ([], "number of structures", "none"),
        ([made()], "number of structures", "1, where 2 are expected"),
        (
            [made(), replace(made(1), positions=np.full((5, 3), np.nan))],
            "impossible values",
            "record 1: atom 0.*not finite",
        ),
        ([made(), made(1, numbers=[119] * 5)], "impossible values", "record 1: atom 0: atomic number 119"),
        ([made(), made(1, targets={"energy": np.inf})], "impossible values", "record 1: energy is not finite"),
        ([made(), made(1, targets={})], "energy", "1 of 2 structures do not have it"),
        ([slab(), slab(1)], "energy", "^$"),
        ([made(targets={"energy": 0.0}), made(1, targets={"energy": 0.0})], "energy", "zero in all"),
        ([made(targets={"gap": 0.0}), made(1, targets={"gap": 1.0})], "energy", "no structure has it"),
    ],
)
def test_what_is_wrong_is_found(samples: Sequence[Sample], what: str, words: str) -> None:
    problems = {found.what: found.text for found in check(samples, 2, ("energy",)).problems}
    if words == "^$":
        assert what not in problems
        return
    assert re.search(words, problems[what])


def test_a_broken_file_is_a_problem_with_its_location() -> None:
    def broken() -> Iterator[Sample]:
        yield made()
        raise DataError("file.npz, record 1: cut off")

    report = check(broken())
    assert "file.npz, record 1" in finding(report, "reading").text
    with pytest.raises(AtomslimError, match=r"set: 1 problem, first reading: file\.npz") as error:
        checks.require_fit(report, "set")
    assert "\n" not in str(error.value)


def test_duplicates_and_overlaps_are_found() -> None:
    samples = [*trajectory(6), trajectory(6)[2]]
    shifted = replace(samples[2], positions=samples[2].positions + 1e-7)
    assert "1 structure seen before, first: 6 is 2" in finding(check(samples), "duplicates").text
    assert finding(check(samples, against=[shifted]), "the other dataset").level == "problem"
    assert finding(check(samples, against=[made()]), "the other dataset").level == "ok"


def test_a_split_that_shares_structures_is_found() -> None:
    samples = [*trajectory(6), trajectory(6)[2]]
    split = splits.Split(recipe="made", count=7, train=(0, 1, 2), validation=(3,), test=(4, 5, 6))
    texts = [found.text for found in check(samples, split=split).findings if found.what == "split"]
    assert texts == [
        "training and validation sets share no structure",
        "1 structure of the test set also in training, first 6",
    ]
    assert finding(check(samples[:4], split=split), "split").level == "problem"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rmd17:aspirin@rmd17/rmd17_aspirin_test_01.npz", "ok"),
        ("oc20:val_id@oc20/s2ef", "ok"),
        ("md22:Ac-Ala3-NHMe@md22/md22_Ac-Ala3-NHMe_5frames.xyz", "ok"),
        ("spice@spice/SPICE-1.1.4_n2.hdf5", "ok"),
        ("comp6@ani1x/comp6_s66x8_wb97x6-31gd.h5", "ok"),
    ],
)
def test_energies_and_forces_of_real_files_belong_together(name: str, expected: str, data_folder: Path) -> None:
    reader, _, path = name.partition("@")
    report = check(open_dataset(f"{reader}@{data_folder / path}"))
    assert report.problems == []
    assert finding(report, "energy and forces").level == expected


def test_the_two_3bpa_files_share_structures(data_folder: Path) -> None:
    first = open_dataset(f"xyz:{data_folder / '3bpa' / 'train_300K.xyz'}")
    second = open_dataset(f"xyz:{data_folder / '3bpa' / 'train_mixedT.xyz'}")
    report = check(first, against=second)
    assert "31 structures in both" in finding(report, "the other dataset").text


class Made:
    """A dataset in memory."""

    name = "made"
    info = info("rmd17")

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        return self.samples[number]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def natoms(self) -> NDArray[np.int64]:
        return np.array([len(sample) for sample in self.samples])

    @property
    def groups(self) -> list[str]:
        return [sample.group for sample in self.samples]


def test_statistics_and_their_table() -> None:
    result = shows.statistics(Made([*trajectory(5), slab()]))
    table = result.table()
    assert result.natoms == [12] * 5 + [3]
    assert (result.periodic, result.fixed, result.groups) == (1, 1, {"benzene", ""})
    assert result.elements[[1, 6, 8, 29]].tolist() == [30, 30, 1, 2]
    assert result.containing[[1, 29]].tolist() == [5, 1]
    assert result.force_lengths.sum() == 60
    for word in ("structures", "6 (1 periodic), in 1 groups", "Cu", "band_gap", "eV/Å³", "length of the forces"):
        assert word in table
    assert len(shows.statistics(Made(trajectory(5)), limit=2).natoms) == 2


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_figure_is_written(suffix: str, tmp_path: Path) -> None:
    shows.save_figure(shows.figure(shows.statistics(Made([*trajectory(5), slab()]))), tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").stat().st_size > 1000


def test_a_figure_of_another_format_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="png"):
        shows.save_figure(shows.figure(shows.statistics(Made([slab()]))), tmp_path / "a.xyz")
    with pytest.raises(DataError, match="no structures"):
        shows.statistics(Made([]))


def test_sparklines_show_everything_that_is_not_empty() -> None:
    assert shows.sparkline(np.array([0, 1, 500, 1000])) == " ▁▄█"
