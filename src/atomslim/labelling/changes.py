"""Structures near a given one: rattled, strained, at other volumes, with vacancies, other elements, surfaces.

Fixed atoms keep their positions in the cell. All random numbers come from the generator that is given.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.data import atomic_numbers
from numpy.random import Generator
from numpy.typing import NDArray

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
from atomslim.labelling.surfaces import Facet, facets, is_bulk, slab

NOISE = (0.02, 0.2)
"""Å: standard deviations of the noise on rattled copies."""

NOISE_OF_HYDROGEN = (0.02, 0.08)
"""The same with hydrogen: at 0.2 Å its stiff bonds have forces that dynamics never reach."""

STRAIN = 0.06
"""Largest component of the strain."""

VOLUMES = (0.8, 1.25)
"""Smallest and largest volume of a scan, over the given one."""

A_LITTLE = 0.03
"""Å: noise on all others, so that no atom stays at a symmetric position."""

_LARGEST = 2000
"""Most atoms of a repeated cell."""


@dataclass(frozen=True)
class Substitution:
    """One element instead of another."""

    old: int
    new: int

    @classmethod
    def parse(cls, text: str) -> "Substitution":
        """Parse "Mg=Ca"; raises ConfigError for anything else."""
        old, equals, new = (part.strip() for part in text.partition("="))
        if not equals or old not in atomic_numbers or new not in atomic_numbers or old == new:
            raise ConfigError(f"substitution {text!r}: write two elements, as in Mg=Ca")
        return cls(atomic_numbers[old], atomic_numbers[new])


def rattled(atoms: Atoms, random: Generator) -> Atoms:
    """Move all atoms by noise, of a standard deviation that is drawn for each copy."""
    return _noisy(atoms, random.uniform(*(NOISE_OF_HYDROGEN if 1 in atoms.numbers else NOISE)), random)


def strained(atoms: Atoms, random: Generator) -> Atoms:
    """Strain a cell, volume and shape, and rattle it a little."""
    half = random.uniform(-STRAIN, STRAIN, (3, 3))
    return _noisy(_deformed(atoms, np.eye(3) + (half + half.T) / 2), A_LITTLE, random)


def at_volume(atoms: Atoms, factor: float, random: Generator) -> Atoms:
    """Scale a cell to another volume, and rattle it a little."""
    return _noisy(_deformed(atoms, np.eye(3) * factor ** (1 / 3)), A_LITTLE, random)


def with_vacancy(atoms: Atoms, random: Generator) -> Atoms:
    """Take an atom out, and rattle the others a little."""
    copy = atoms.copy()
    del copy[int(random.integers(len(copy)))]
    return _noisy(copy, A_LITTLE, random)


def substituted(atoms: Atoms, what: Substitution, random: Generator) -> Atoms:
    """Put another element in place of one to half of the atoms of an element, and rattle all a little."""
    copy = atoms.copy()
    sites = np.flatnonzero(copy.numbers == what.old)
    count = int(random.integers(1, max(len(sites) // 2, 1) + 1))
    numbers = copy.numbers.copy()
    numbers[random.choice(sites, count, replace=False)] = what.new
    copy.numbers = numbers
    return _noisy(copy, A_LITTLE, random)


def with_surfaces(atoms: Atoms, facet: Facet, width: float, random: Generator) -> Atoms:
    """Cut a slab of a cell, repeat it in its plane, and rattle it a little; raises Dropped for too many atoms."""
    return _noisy(repeated(slab(atoms, facet, random), width), A_LITTLE, random)


@dataclass(frozen=True)
class Counts:
    """Numbers of copies of each given structure."""

    rattled: int = 10
    strained: int = 10
    volumes: int = 7
    vacancies: int = 0
    substitutions: tuple[str, ...] = ()
    """Such as "Mg=Ca"; five copies of each."""
    surfaces: int = 0


_SUBSTITUTED = 5


def changes(
    atoms: Atoms, counts: Counts, given: Atoms | None = None, width: float = 0.0
) -> dict[str, list[Callable[[Generator], Atoms]]]:
    """List the changes to make to a structure, by kind; some need a cell.

    ``given`` is the cell before it was repeated until it was ``width`` Å wide; slabs are cut from that.
    """
    unit = atoms if given is None else given
    cell = bool(atoms.pbc.all()) and atoms.cell.rank == 3
    factors = np.linspace(*VOLUMES, counts.volumes).tolist() if cell else []
    exchanges = [what for what in map(Substitution.parse, counts.substitutions) if what.old in atoms.numbers]
    return {
        "rattled": [partial(rattled, atoms)] * counts.rattled,
        "strained": [partial(strained, atoms)] * (counts.strained if cell else 0),
        "volumes": [partial(at_volume, atoms, factor) for factor in factors],
        "vacancies": [partial(with_vacancy, atoms)] * (counts.vacancies if len(atoms) > 2 else 0),
        "substitutions": [partial(substituted, atoms, what) for what in exchanges for _ in range(_SUBSTITUTED)],
        "surfaces": [partial(with_surfaces, unit, facet, width) for facet in _facets(unit, counts.surfaces)],
    }


def repeated(atoms: Atoms, width: float) -> Atoms:
    """Repeat a cell along its periodic vectors until its faces are `width` Å apart; raises ConfigError if too large."""
    if width <= 0 or not atoms.pbc.any() or atoms.cell.rank < 3:
        return atoms
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal().array, axis=1)
    times = np.where(atoms.pbc, np.ceil(width / heights - 1e-9), 1.0)
    if len(atoms) * times.prod() > _LARGEST:
        raise ConfigError(f"width {width:g} Å: a cell would have {len(atoms) * times.prod():.6g} atoms: give less")
    return atoms if (times == 1).all() else make_supercell(atoms, np.diag(times.astype(int)))


def _facets(atoms: Atoms, count: int) -> Iterator[Facet]:
    return islice(cycle(facets(atoms)), count) if count and is_bulk(atoms) else iter(())


def _noisy(atoms: Atoms, deviation: float, random: Generator) -> Atoms:
    copy = atoms.copy()
    noise = deviation * random.standard_normal(copy.positions.shape)
    noise[from_ase(copy).fixed.numpy()] = 0
    copy.positions += noise
    return copy


def _deformed(atoms: Atoms, by: NDArray[np.float64]) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(copy.cell.array @ by, scale_atoms=True)
    return copy
