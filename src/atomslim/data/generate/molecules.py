"""Molecules off equilibrium: a relaxed conformer, moved along its normal modes as heat would, and shaken.

In the harmonic approximation a mode of mass-weighted Hessian eigenvalue λ has the displacement q (amu^½ Å) with
q² = kT / λ on average, and the atoms move by Σ q_k e_k / √m.
"""

from collections.abc import Iterator

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.optimize import LBFGS
from numpy.random import Generator
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.generate.labels import Dropped, Labeller, Method, labels_package
from atomslim.data.generate.smiles import molecules

HOTTEST = 1500.0
"""K: temperatures are drawn between 0 and this."""

RATTLE = 0.05
"""Å: largest standard deviation of the noise on top."""

_STEP = 0.005
"""Å: displacement for the Hessian."""

_SLOW, _SOFT = 50.0, 150.0
"""1/cm: slower modes are translations and rotations and left alone; softer ones count as this, or they fall apart."""

_RELAXED = 0.03
"""eV/Å."""


def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
    """Give frames of the molecule of group `number` without end; the groups go through all molecules in turn.

    Raises:
        Dropped: no conformer is found.

    """
    smiles = chosen(number)
    label.group = smiles
    start = relaxed(embedded(smiles, random), label.method)
    label.reference = float(start.info["energy"])
    modes, stiffness = normal_modes(start, label.method)
    while True:
        heat = units.kB * random.uniform(0.0, HOTTEST)
        amplitude = np.sqrt(heat / stiffness) * random.standard_normal(len(stiffness))
        frame = start.copy()
        frame.positions += np.einsum("k,kia->ia", amplitude, modes)
        frame.positions += random.uniform(0.0, RATTLE) * random.standard_normal(frame.positions.shape)
        if (labelled := label(frame)) is not None:
            yield labelled


def chosen(number: int) -> str:
    """SMILES of a group: all molecules in an order that mixes large and small ones, again and again."""
    known = molecules()
    return known[int(np.random.default_rng(number // len(known)).permutation(len(known))[number % len(known)])]


def embedded(smiles: str, random: Generator) -> Atoms:
    """Make a conformer by distance geometry (ETKDG), with hydrogen; raises Dropped where none is found."""
    chemistry, geometry = labels_package("rdkit.Chem"), labels_package("rdkit.Chem.AllChem")
    molecule = chemistry.AddHs(chemistry.MolFromSmiles(smiles))
    if geometry.EmbedMolecule(molecule, randomSeed=int(random.integers(2**31))) != 0:
        raise Dropped("no conformer found")
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return Atoms(numbers, molecule.GetConformer().GetPositions())


def relaxed(atoms: Atoms, method: Method, steps: int = 100) -> Atoms:
    """Relax a molecule; its energy (eV) is put into `info`. Raises Dropped where it does not come to rest."""
    result = atoms.copy()
    result.calc = method.calculator()
    try:
        converged = LBFGS(result, logfile=None).run(  # type: ignore[arg-type] # ASE takes None for no log
            fmax=_RELAXED, steps=steps
        )
        result.info["energy"] = float(result.get_potential_energy())
    except CalculationFailed as error:
        raise Dropped("relaxation: charges did not converge") from error
    if not converged:
        raise Dropped("relaxation did not come to an end")
    result.calc = None
    return result


def normal_modes(atoms: Atoms, method: Method) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vibrations of a relaxed molecule.

    Returns:
        Displacements (k, n, 3) of the atoms (Å) for one unit of q (amu^½ Å), and eigenvalues λ (k,) (eV/Å²/amu).

    """
    size = len(atoms)
    weight = 1 / np.sqrt(np.repeat(atoms.get_masses(), 3))
    eigenvalues, vectors = np.linalg.eigh(weight[:, None] * _hessian(atoms, method) * weight)
    kept = eigenvalues > _eigenvalue(_SLOW)
    modes = (vectors[:, kept] * weight[:, None]).T.reshape(-1, size, 3)
    return modes, np.maximum(eigenvalues[kept], _eigenvalue(_SOFT))


def _hessian(atoms: Atoms, method: Method) -> NDArray[np.float64]:
    """Second derivatives (3n, 3n) (eV/Å²) by forward differences: accurate enough to draw displacements from."""
    moved = atoms.copy()
    moved.calc = method.calculator()
    start = moved.get_forces()
    rows = []
    for index in range(start.size):
        moved.positions = atoms.positions
        moved.positions.flat[index] += _STEP
        rows.append((start - moved.get_forces()).ravel() / _STEP)
    hessian = np.array(rows)
    return (hessian + hessian.T) / 2


def _eigenvalue(wavenumber: float) -> float:
    """Eigenvalue λ (eV/Å²/amu) of a frequency (1/cm): λ = (E/ħ)²."""
    return float(wavenumber * units.invcm / (units._hbar * units.J * units.second)) ** 2  # noqa: SLF001
