"""Samples made up for tests: every kind of field, cheaply."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from atomslim.atoms import Sample

FIELDS = ("numbers", "positions", "cell", "pbc", "tags", "fixed")


def molecule(seed: int = 0, natoms: int = 5, **changes: object) -> Sample:
    generator = np.random.default_rng(seed)
    fields: dict[str, object] = {
        "numbers": generator.integers(1, 10, natoms),
        "positions": generator.normal(size=(natoms, 3)) * 3,
        "targets": {"energy": generator.normal(), "forces": generator.normal(size=(natoms, 3))},
        "name": f"made, record {seed}",
        "group": f"group {seed % 3}",
    }
    return Sample.create(**(fields | changes))  # type: ignore[arg-type]


def slab(seed: int = 0) -> Sample:
    generator = np.random.default_rng(seed)
    return Sample.create(
        [29, 29, 8],
        generator.normal(size=(3, 3)),
        {"energy": -1e5 / 3, "stress": generator.normal(size=(3, 3)), "band_gap": np.nextafter(1.0, 2.0)},
        cell=generator.normal(size=(3, 3)),
        pbc=[True, True, False],
        tags=[0, 1, 2],
        fixed=[True, False, False],
        name="plaque, Änderung 7",
    )


def several(count: int) -> Iterator[Sample]:
    return (slab(seed) if seed % 4 == 3 else molecule(seed, 1 + seed % 6) for seed in range(count))


def assert_same(a: Sample, b: Sample) -> None:
    """Compare bit for bit, types included."""
    for field in FIELDS:
        left, right = getattr(a, field), getattr(b, field)
        assert left.dtype == right.dtype, field
        assert left.shape == right.shape, field
        assert left.tobytes() == right.tobytes(), field
    assert list(a.targets) == list(b.targets)
    for name, values in a.targets.items():
        assert values.shape == b.targets[name].shape
        assert values.tobytes() == b.targets[name].tobytes()
    assert (a.name, a.group) == (b.name, b.group)


STRESS = np.array([[1.0, 0.4, 0.5], [0.4, 2.0, 0.6], [0.5, 0.6, 3.0]])


def crystal(energy: float = -3.5, **results: Any) -> Atoms:
    """Sodium chloride with labels."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    forces = np.arange(6.0).reshape(2, 3) + 0.5
    labels = {"energy": energy, "forces": forces, "stress": full_3x3_to_voigt_6_stress(STRESS)} | results
    atoms.calc = SinglePointCalculator(atoms, **{name: value for name, value in labels.items() if value is not None})
    return atoms
