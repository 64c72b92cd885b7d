from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomslim.atoms import Sample
from atomslim.data import normalise
from atomslim.data.normalise import Moments, Normalisation, fit
from atomslim.data.registry import resolve
from atomslim.errors import DataError
from data.made_samples import molecule, slab

ENERGIES = {1: -13.6, 6: -1029.1, 7: -1484.3, 8: -2041.4}


def molecules(count: int, noise: float = 0.0) -> Iterator[Sample]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        numbers = generator.choice([1, 6, 7, 8], generator.integers(3, 9))
        energy = sum(ENERGIES[number] for number in numbers.tolist()) + 1.5 + noise * generator.normal()
        yield Sample.create(numbers, generator.normal(size=(len(numbers), 3)), {"energy": energy})


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=5), min_size=1, max_size=8))
def test_moments_of_a_stream_are_those_of_the_whole(parts: list[list[float]]) -> None:
    moments = Moments()
    for part in parts:
        moments.add(np.array(part))
    values = np.concatenate([np.array(part) for part in parts])
    if len(values):
        assert moments.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
        assert moments.std == pytest.approx(values.std(), rel=1e-6, abs=1e-4)


def test_moments_keep_their_digits_at_large_energies() -> None:
    moments = Moments()
    values = -406_274.0 + np.random.default_rng(0).normal(size=1000) * 1e-3
    for value in values:
        moments.add(np.array(value))
    assert moments.std == pytest.approx(values.std(), rel=1e-6)


def test_references_are_found() -> None:
    scale = fit(molecules(300, noise=0.1), ("energy",), ("energy",)).targets["energy"]
    assert scale.undetermined == 0
    assert list(scale.references) == [1, 6, 7, 8]
    rows = [(np.bincount(s.numbers, minlength=9)[[1, 6, 7, 8]], s.targets["energy"]) for s in molecules(300, noise=0.1)]
    table, energies = np.array([row for row, _ in rows], dtype=float), np.array([energy for _, energy in rows])
    expected = np.linalg.lstsq(table, energies, rcond=None)[0]
    assert list(scale.references.values()) == pytest.approx(expected, abs=1e-5)
    rest = energies - table @ expected
    assert scale.mean == 0.0
    assert scale.std == pytest.approx(np.sqrt((rest**2).mean()), rel=1e-6)
    assert scale.reference(np.array([1, 1, 8])) == pytest.approx(2 * scale.references[1] + scale.references[8])


def test_one_molecule_leaves_references_open_and_says_so(data_folder: Path) -> None:
    source = resolve(f"rmd17:aspirin@{data_folder / 'rmd17' / 'rmd17_aspirin_train_01.npz'}")
    scale = fit(source.read(), ("energy", "forces"), ("energy",)).targets["energy"]
    assert scale.undetermined == 2
    assert abs(scale.mean) < 1e-9
    numbers = next(source.read()).numbers
    assert scale.reference(numbers) == pytest.approx(-17617.7356, abs=1e-3)
    assert "2 of these numbers are not determined" in normalise.explain("energy", scale)
    assert "\n" not in normalise.explain("energy", scale)


def test_aspirin_agrees_with_the_published_values(data_folder: Path) -> None:
    source = resolve(f"rmd17:aspirin@{data_folder / 'rmd17' / 'rmd17_aspirin_train_01.npz'}")
    found = fit(source.read(), ("energy", "forces")).targets
    published = -17617.3794 * 23.061 / 23.0605478  # their factor between eV and kcal/mol is a rounded one
    assert found["energy"].mean == pytest.approx(published, abs=3 * 0.2674 / np.sqrt(1000))
    assert found["energy"].std == pytest.approx(0.2674, rel=0.05)
    assert found["forces"].std == pytest.approx(1.2733, rel=0.02)
    assert found["forces"].mean == 0.0


def test_acetyl_trialanine_agrees_with_the_published_values(data_folder: Path) -> None:
    file = data_folder / "md22" / "md22_Ac-Ala3-NHMe_5frames.xyz"
    found = fit(resolve(f"md22:Ac-Ala3-NHMe@{file}").read(), ("energy", "forces")).targets
    published = -26913.953 * 23.061 / 23.0605478
    assert found["energy"].mean == pytest.approx(published, abs=4)  # five frames at the beginning, far from equilibrium
    assert 0.5 < found["forces"].std / 1.1292 < 1.1


def test_forces_of_fixed_atoms_do_not_count() -> None:
    forces = np.array([[100.0, 0, 0], [3.0, 0, 0], [0, 3.0, 0]])
    sample = Sample.create([1, 1, 8], np.eye(3), {"forces": forces}, fixed=[True, False, False])
    scale = fit([sample], ("forces",)).targets["forces"]
    assert scale.count == 6
    assert scale.std == pytest.approx(np.sqrt(18 / 6))


@pytest.mark.parametrize(
    ("samples", "targets", "references", "words"),
    [
        ([], ("energy",), (), "no structures"),
        ([molecule()], ("gap",), (), "record 0: has no target gap .*energy, forces"),
        ([molecule(targets={"energy": np.nan})], ("energy",), (), "record 0: energy is not finite"),
        ([molecule(targets={"energy": 0.0})] * 3, ("energy",), (), "nothing to learn"),
        ([molecule(targets={"forces": np.zeros((5, 3))})] * 3, ("forces",), (), "nothing to learn"),
        ([molecule(targets={"forces": np.ones((5, 3))}, fixed=True)], ("forces",), (), "no values"),
        ([molecule(0, 5), molecule(1, 4)], ("energy",), ("energy",), "references alone"),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(
    samples: list[Sample], targets: tuple[str, ...], references: tuple[str, ...], words: str
) -> None:
    with pytest.raises(DataError, match=words) as error:
        fit(samples, targets, references)
    assert "\n" not in str(error.value)


def test_an_element_without_a_reference_is_refused() -> None:
    scale = fit(molecules(50, noise=0.1), ("energy",), ("energy",)).targets["energy"]
    with pytest.raises(DataError, match="no reference for Au"):
        scale.reference(np.array([79]))


def test_a_saved_normalisation_comes_back(tmp_path: Path) -> None:
    found = fit(molecules(50, noise=0.1), ("energy",), ("energy",))
    found.save(tmp_path / "normalisation.json")
    assert Normalisation.load(tmp_path / "normalisation.json") == found
    (tmp_path / "normalisation.json").write_text("{}")
    with pytest.raises(DataError, match="holds no normalisation"):
        Normalisation.load(tmp_path / "normalisation.json")


def test_moments_of_what_is_there() -> None:
    moments = normalise.values_by_name([molecule(), slab()], ("energy", "band_gap"))
    assert (moments["energy"].count, moments["band_gap"].count) == (2, 1)


def test_a_few_references_are_listed_and_many_are_counted() -> None:
    few = normalise.TargetScale(count=3, references={1: -1.0})
    assert normalise.explain("energy", few).endswith("after references for 1 element (fitted): H -1")
    many = normalise.TargetScale(count=3, references=dict.fromkeys(range(1, 90), -1.0))
    assert normalise.explain("energy", many).endswith("after references for 89 elements (fitted)")
