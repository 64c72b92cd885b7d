"""Structures that benchmarks run on."""

from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal


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
