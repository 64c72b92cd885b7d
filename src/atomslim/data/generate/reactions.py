"""Paths of reactions of small molecules: a bond that breaks, a hydrogen atom that moves on, a conformer that turns.

Each group is one path; its frames are images all along it with a little noise. The paths are not minimum-energy paths:
bonds are pulled with rigid fragments, the ends of the others are relaxed and the images between them interpolated in
their distances (image-dependent pair potential, Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)).
"""

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.data import covalent_radii
from ase.mep import idpp_interpolate
from numpy.random import Generator
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.generate.labels import Dropped, Labeller, require_apart
from atomslim.data.generate.molecules import chosen, embedded, relaxed

Path = Callable[[float], NDArray[np.float64]]
"""Positions (n, 3) (Å) for a coordinate from 0 to 1."""

RATTLE = 0.05
"""Å: largest standard deviation of the noise."""

STRETCH = (0.85, 2.6)
"""Length of a bond at the ends of its scan, in units of its relaxed length."""

_NODES = 9
"""Images that are interpolated; between them it goes straight."""

_BOND = 1.25
"""Atoms closer than this times the sum of their covalent radii are bound."""

_SAME = 0.3
"""Å: conformers nearer than this (largest displacement of an atom) are the same."""


def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
    """Give images of a path without end; which molecule and which path is redrawn for every group.

    Raises:
        Dropped: no such path is found for the molecule drawn.

    """
    del number
    smiles = chosen(int(random.integers(2**31)))
    start = relaxed(embedded(smiles, random), label.method)
    label.reference = float(start.info["energy"])
    kind = ("stretch", "transfer", "turn")[random.choice(3, p=(0.45, 0.35, 0.2))]
    name, path = _PATHS[kind](start, smiles, random, label)
    label.group = f"{smiles} {name}"
    while True:
        frame = start.copy()
        frame.positions = path(random.random())
        frame.positions += random.uniform(0.0, RATTLE) * random.standard_normal(frame.positions.shape)
        if (labelled := label(frame)) is not None:
            yield labelled


def stretch(start: Atoms, smiles: str, random: Generator, label: Labeller) -> tuple[str, Path]:
    """Pull a bond that is in no ring: the smaller fragment moves along it."""
    del smiles, label
    bonds = bound(start)
    candidates = [(i, j) for i, j in zip(*np.triu(bonds).nonzero(), strict=True) if not fragment(bonds, i, j)[i]]
    if not candidates:
        raise Dropped("path: no bond to break")
    i, j = candidates[random.integers(len(candidates))]
    moving = fragment(bonds, i, j)
    if 2 * moving.sum() > len(start):
        i, j, moving = j, i, ~moving
    vector = start.positions[j] - start.positions[i]
    low, high = STRETCH

    def path(where: float) -> NDArray[np.float64]:
        return start.positions + moving[:, None] * vector * (low - 1 + (high - low) * where)

    return f"breaks {start.symbols[min(i, j)]}{min(i, j)}-{start.symbols[max(i, j)]}{max(i, j)}", path


def transfer(start: Atoms, smiles: str, random: Generator, label: Labeller) -> tuple[str, Path]:
    """Move a hydrogen atom to another atom within three bonds, and relax."""
    del smiles
    hydrogen, donor, target = _drawn_transfer(start, random)
    end = start.copy()
    end.positions[hydrogen] = _beside(start, target, hydrogen, random)
    require_apart(end)
    end = relaxed(end, label.method)
    if bound(end)[hydrogen, donor] or not bound(end)[hydrogen, target]:
        raise Dropped("path: the hydrogen atom does not stay where it is put")
    name = f"moves H{hydrogen} from {start.symbols[donor]}{donor} to {start.symbols[target]}{target}"
    return name, interpolated(start, end)


def turn(start: Atoms, smiles: str, random: Generator, label: Labeller) -> tuple[str, Path]:
    """Go to another conformer."""
    end = relaxed(embedded(smiles, random), label.method)
    minimize_rotation_and_translation(start, end)
    if np.abs(end.positions - start.positions).max() < _SAME:
        raise Dropped("path: both conformers are the same")
    return f"turns, {end.info['energy'] - start.info['energy']:+.2f} eV", interpolated(start, end)


_PATHS: dict[str, Callable[[Atoms, str, Generator, Labeller], tuple[str, Path]]] = {
    "stretch": stretch,
    "transfer": transfer,
    "turn": turn,
}


def interpolated(start: Atoms, end: Atoms) -> Path:
    """Interpolate between two structures so that no atoms meet on the way; `end` is turned to lie on `start`."""
    minimize_rotation_and_translation(start, end)
    images = [start.copy() for _ in range(_NODES)]
    for image, part in zip(images, np.linspace(0, 1, _NODES), strict=True):
        image.positions += part * (end.positions - start.positions)
    idpp_interpolate(images, traj=None, log=None, steps=100)
    nodes = np.array([image.positions for image in images])

    def path(where: float) -> NDArray[np.float64]:
        segment = min(int(where * (_NODES - 1)), _NODES - 2)
        part = where * (_NODES - 1) - segment
        return (1 - part) * nodes[segment] + part * nodes[segment + 1]

    return path


def bound(atoms: Atoms) -> NDArray[np.bool_]:
    """Which atoms are bound to which, (n, n)."""
    radii = covalent_radii[atoms.numbers]
    near: NDArray[np.bool_] = atoms.get_all_distances() < _BOND * (radii[:, None] + radii)
    np.fill_diagonal(near, False)
    return near


def fragment(bonds: NDArray[np.bool_], first: int, second: int) -> NDArray[np.bool_]:
    """Atoms (n,) that hang together with `second` once its bond to `first` is cut."""
    cut = bonds.copy()
    cut[first, second] = cut[second, first] = False
    return bonds_away(cut, second) < len(bonds)


def bonds_away(bonds: NDArray[np.bool_], atom: int) -> NDArray[np.int64]:
    """Number of bonds (n,) from an atom to every other; n where there is no way."""
    size = len(bonds)
    distance = np.full(size, size)
    reached = np.arange(size) == atom
    for steps in range(size):
        distance[reached & (distance == size)] = steps
        reached = reached | bonds[reached].any(axis=0)
    return distance


def _drawn_transfer(atoms: Atoms, random: Generator) -> tuple[int, int, int]:
    """Draw a hydrogen atom, the atom it is bound to, and the one it goes to."""
    bonds = bound(atoms)
    choices = [
        (int(hydrogen), int(bonds[hydrogen].argmax()), int(target))
        for hydrogen in np.flatnonzero((atoms.numbers == 1) & (bonds.sum(axis=1) == 1))
        for target in np.flatnonzero((atoms.numbers > 1) & np.isin(bonds_away(bonds, int(hydrogen)), (2, 3, 4)))
    ]
    if not choices:
        raise Dropped("path: no hydrogen atom to move")
    return choices[random.integers(len(choices))]


def _beside(atoms: Atoms, target: int, hydrogen: int, random: Generator) -> NDArray[np.float64]:
    """Position beside `target`: away from what is bound to it, and preferably on the side that the atom comes from."""
    bonds = bound(atoms)[target]
    away = (atoms.positions[target] - atoms.positions[bonds]).sum(axis=0)
    towards = atoms.positions[hydrogen] - atoms.positions[target]
    direction = _unit(away) + _unit(towards) + 0.5 * random.standard_normal(3)
    length = covalent_radii[1] + covalent_radii[atoms.numbers[target]]
    return np.asarray(atoms.positions[target] + length * _unit(direction))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
