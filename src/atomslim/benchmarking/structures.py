"""Structures that speed is measured on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.spacegroup import crystal

from atomslim.atoms import Sample
from atomslim.data.readers import ase_files
from atomslim.errors import ConfigError


def mof5(displacement: float = 0.05) -> Atoms:
    """Return the primitive cell of MOF-5, Zn₄O(BDC)₃: 106 atoms, rattled by ``displacement`` Å so that no ties occur.

    Fm-3m, a = 25.832 Å; positions idealised from Li et al., Nature 402, 276 (1999).
    """
    atoms = crystal(
        ["Zn", "O", "O", "C", "C", "C", "H"],
        basis=[
            (0.2934, 0.2934, 0.2934),
            (0.25, 0.25, 0.25),
            (0.2806, 0.2194, 0.1338),
            (0.25, 0.25, 0.1113),
            (0.25, 0.25, 0.0538),
            (0.2829, 0.2171, 0.0269),
            (0.3069, 0.1931, 0.0456),
        ],
        spacegroup=225,
        cellpar=[25.832, 25.832, 25.832, 90, 90, 90],
        primitive_cell=True,
    )
    atoms.rattle(displacement, seed=1)
    return atoms


def oxide(num_atoms: int) -> Atoms:
    """Return a rattled MgO supercell of about ``num_atoms`` atoms, as nearly cubic as whole cells of 8 allow."""
    edge = max(1, round((num_atoms / 8) ** (1 / 3)))
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat((edge, edge, max(1, round(num_atoms / 8 / edge**2))))
    atoms.rattle(0.05, seed=1)
    return atoms


def aspirin() -> Atoms:
    """Return an aspirin molecule, 21 atoms, away from its minimum (rMD17, a frame of the dynamics at 500 K)."""
    return Atoms("C7O3C2OH8", positions=_ASPIRIN)


def slab() -> Atoms:
    """Return CO on a rattled Cu(111) slab of 3 × 3 × 4 atoms, periodic in the surface's plane: 38 atoms."""
    atoms = fcc111("Cu", (3, 3, 4), vacuum=10.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)  # carbon below
    atoms.rattle(0.05, seed=1)
    return atoms


def water(molecules: int = 64) -> Atoms:
    """Return a periodic box of water at 1 g/cm³ on a rattled simple cubic lattice, the molecules turned at random."""
    random = np.random.default_rng(1)
    side = (molecules * 29.9) ** (1 / 3)
    edge = round(molecules ** (1 / 3) + 0.499)
    box = Atoms(cell=[side] * 3, pbc=True)
    for site in list(np.ndindex(edge, edge, edge))[:molecules]:
        one = molecule("H2O")
        one.rotate(random.uniform(0, 360), random.normal(size=3), center="COM")
        one.translate(np.array(site) * side / edge - one.get_center_of_mass())
        box += one
    return box


BUILT_IN: dict[str, Callable[[], Atoms]] = {"mof5": mof5, "aspirin": aspirin, "slab": slab, "water": water}


def structure(name: str) -> Atoms:
    """Return a built-in structure by name, or the first of a file; raises ConfigError if there is neither."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if not Path(name).is_file():
        raise ConfigError(f"structure {name!r}: give a file, or one of {', '.join(BUILT_IN)}")
    for _, frame in ase_files.frames(Path(name)):
        return frame.to_ase() if isinstance(frame, Sample) else frame.atoms
    raise ConfigError(f"structure {name!r}: the file holds none: give another")


_ASPIRIN = [
    [1.908, -1.441, 0.009], [1.111, 1.038, -0.635], [2.843, -0.691, -0.708], [2.351, 0.474, -1.176],
    [-2.9, 2.208, 0.428], [0.54, -1.08, 0.317], [0.237, 0.268, 0.036], [-1.484, -1.875, 1.423],
    [-1.779, 1.136, -1.434], [0.111, -3.306, 0.554], [-0.396, -2.042, 0.891], [-1.818, 1.4, -0.28],
    [-0.925, 0.865, 0.629], [-0.281, -3.989, 1.074], [2.265, -2.349, 0.466], [0.824, 2.042, -0.895],
    [3.812, -1.124, -0.937], [3.028, 1.231, -1.655], [-2.718, 3.218, 0.579], [-3.858, 2.314, -0.134],
    [-2.87, 1.705, 1.449],
]  # fmt: skip
"""Å."""
