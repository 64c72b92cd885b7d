"""Checks of crystals: equation of state, cell, elastic constants, phonons, vacancies and surfaces."""

import warnings

import numpy as np
from ase import Atoms
from ase.build import surface
from ase.build.tools import sort
from ase.calculators.calculator import Calculator
from ase.eos import EquationOfState
from ase.units import GPa

from atomslim.validation.consistency import strained
from atomslim.validation.elasticity import averaged, independent, point_group
from atomslim.validation.measurement import (
    DoesNotFitError,
    FloatArray,
    Measurement,
    NotDoneError,
    Settings,
    energy_of,
    imported,
    repeated,
    stress_of,
)
from atomslim.validation.relaxation import relaxed

LONG_ENOUGH = 8.0
"""Å: a cell shorter than this is repeated before an atom is removed or moved."""


def cell(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Relax cell and positions: lengths (Å), angles (°), and volume (Å³/atom)."""
    found = relaxed(atoms, calculator, settings, cell=True)
    lengths = dict(zip(("a", "b", "c"), found.cell.lengths().tolist(), strict=True))
    angles = dict(zip(("alpha", "beta", "gamma"), found.cell.angles().tolist(), strict=True))
    return Measurement({**lengths, **angles, "volume": float(found.get_volume() / len(found))})


def equation_of_state(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Fit Birch and Murnaghan's equation to energies of scaled cells around the minimum, positions relaxed in each.

    Gives V₀ (Å³/atom), B₀ (GPa) and B₀′.
    """
    volumes, energies = _around_minimum(calculator, atoms, settings)
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    try:
        volume, _, modulus = fit.fit(warn=False)
    except (RuntimeError, ValueError) as error:
        raise NotDoneError("no equation of state fits the energies") from error
    if not min(volumes) < volume < max(volumes):
        raise NotDoneError(f"no equation of state fits the energies: its minimum is at {volume:.2f} Å³/atom")
    derivative = float(fit.eos_parameters[2])
    relative = (np.array(energies) - min(energies)).tolist()
    return Measurement(
        {"volume": float(volume), "bulk modulus": float(modulus / GPa), "derivative": derivative},
        {"energy": (volumes, relative)},
        ("volume (Å³/atom)", "energy (eV/atom)"),
    )


def _around_minimum(calculator: Calculator, atoms: Atoms, settings: Settings) -> tuple[list[float], list[float]]:
    """Return volumes (Å³/atom) and energies (eV/atom) of scaled cells, the lowest near the middle."""
    width, scale = settings["width"], 1.0
    for _ in range(settings["windows"]):
        scales = scale * np.linspace(1 - width, 1 + width, settings["points"])
        images = [_scaled(calculator, atoms, each, settings) for each in scales]
        energies = [energy_of(image) / len(image) for image in images]
        lowest = float(scales[int(np.argmin(energies))])
        if abs(lowest / scale - 1) <= 0.5001 * width:
            return [image.get_volume() / len(image) for image in images], energies
        scale = lowest
    raise NotDoneError(f"the energy has no minimum between the given volume and {scale:.2f} of it")


def _scaled(calculator: Calculator, atoms: Atoms, scale: float, settings: Settings) -> Atoms:
    image = atoms.copy()
    image.set_cell(atoms.cell * scale ** (1 / 3), scale_atoms=True)
    return relaxed(image, calculator, settings)


def elastic(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Differentiate stress by strain, ions relaxed: the constants independent by symmetry, and Hill's K and G.

    C_ij = ∂σ_i/∂η_j in GPa at the relaxed cell, by central differences, symmetrised, and averaged over the crystal's
    point group if spglib finds it. Stable if all eigenvalues of C are positive (Born).
    """
    start = relaxed(atoms, calculator, settings, cell=True)
    rows = []
    for component in range(6):
        step = settings["strain"]
        stresses = [
            stress_of(relaxed(strained(start, component, sign * step), calculator, settings)) for sign in (1, -1)
        ]
        width = 2 * step if component < 3 else 4 * step  # of Voigt's η, twice the shear strain
        rows.append((stresses[0] - stresses[1]) / width)
    measured = np.array(rows) / GPa
    measured = (measured + measured.T) / 2
    remarks: tuple[str, ...] = ()
    try:
        turns = point_group(atoms)
    except NotDoneError as error:
        turns, remarks = (
            [np.eye(3)],
            (f"all 21 constants are given: which are equal by symmetry is not known: {error}",),
        )
    constants = averaged(measured, turns)
    numbers = {f"C{i + 1}{j + 1}": float(constants[i, j]) for i, j in independent(turns)}
    bulk, shear = _hill(constants)
    numbers |= {"K": bulk, "G": shear, "lowest eigenvalue": float(np.linalg.eigvalsh(constants).min())}
    if len(turns) > 1:
        numbers["off symmetry"] = float(np.abs(measured - constants).max())
    return Measurement(numbers, remarks=remarks)


def vacancy(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Remove a formula unit of n atoms from a supercell: E_v = E(N − n) − (N − n)/N E(N), in eV, relaxed.

    In a crystal of one element that is an atom; in others, atoms next to each other, which need no chemical potentials.
    """
    unit = _formula_unit(atoms)
    if sum(unit.values()) > settings["largest"]:
        raise DoesNotFitError(f"a formula unit of {sum(unit.values())} atoms is too large to be a vacancy")
    whole = relaxed(repeated(atoms, LONG_ENOUGH), calculator, settings)
    rest = whole.copy()
    del rest[_cluster(whole, unit)]
    if not len(rest):
        raise NotDoneError("nothing is left without a formula unit: give a larger cell")
    rest = relaxed(rest, calculator, settings)
    return Measurement({"energy": energy_of(rest) - len(rest) / len(whole) * energy_of(whole)})


def surfaces(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Cut slabs of low-index faces: γ = (E_slab − n E_bulk) / 2A in J/m², positions relaxed.

    Faces are those of the conventional cell. Those whose slabs do not have the composition of the bulk are left out.
    """
    numbers, notes = {}, []
    conventional = _conventional(atoms)
    bulk_energy = energy_of(relaxed(atoms, calculator, settings)) / len(atoms)
    for face in settings["faces"]:
        name = "".join(map(str, face))
        slab = sort(surface(conventional, tuple(face), settings["layers"], vacuum=settings["vacuum"], periodic=True))
        if not np.allclose(_shares(slab), _shares(atoms)):
            notes.append(f"({name}) does not have the composition of the bulk")
            continue
        found = relaxed(slab, calculator, settings)
        area = float(np.linalg.norm(np.cross(found.cell[0], found.cell[1])))
        numbers[name] = 16.0218 * (energy_of(found) - len(found) * bulk_energy) / (2 * area)
    if not numbers:
        raise DoesNotFitError("; ".join(notes))
    return Measurement(numbers, notes=tuple(notes))


def _formula_unit(atoms: Atoms) -> dict[int, int]:
    """Return the number of atoms of each element in a formula unit."""
    counts = np.bincount(atoms.numbers)
    share = np.gcd.reduce(counts)
    return {int(element): int(counts[element] // share) for element in np.flatnonzero(counts)}


def _cluster(atoms: Atoms, unit: dict[int, int]) -> list[int]:
    """Return the first atom of the rarest element, and the nearest atoms of the others."""
    centre = atoms.numbers.tolist().index(min(unit, key=lambda element: unit[element]))
    order = np.argsort(atoms.get_distances(centre, range(len(atoms)), mic=True), kind="stable")
    return [int(atom) for element, count in unit.items() for atom in order[atoms.numbers[order] == element][:count]]


def _conventional(atoms: Atoms) -> Atoms:
    """Return the conventional cell in its standard setting, with all symmetries exact."""
    spglib = imported("spglib")
    given = (np.asarray(atoms.cell), atoms.get_scaled_positions(), atoms.numbers)
    with warnings.catch_warnings():  # deprecation of its error reporting
        warnings.simplefilter("ignore", DeprecationWarning)
        cell = spglib.standardize_cell(given, to_primitive=False, symprec=1e-3)
    if cell is None:
        raise NotDoneError("no symmetry was found in the crystal")
    lattice, positions, numbers = cell
    return Atoms(numbers, cell=lattice, scaled_positions=positions, pbc=True)


def _shares(atoms: Atoms) -> FloatArray:
    return np.bincount(atoms.numbers, minlength=120) / len(atoms)


def _hill(constants: FloatArray) -> tuple[float, float]:
    """Return Hill's averages of bulk and shear modulus: means of Voigt's and Reuss's."""
    c, s = constants, np.linalg.pinv(constants)
    voigt_k = (c[:3, :3].sum()) / 9
    voigt_g = (np.trace(c[:3, :3]) - (c[0, 1] + c[0, 2] + c[1, 2]) + 3 * np.trace(c[3:, 3:])) / 15
    reuss_k = 1 / s[:3, :3].sum()
    reuss_g = 15 / (4 * np.trace(s[:3, :3]) - 4 * (s[0, 1] + s[0, 2] + s[1, 2]) + 3 * np.trace(s[3:, 3:]))
    return float((voigt_k + reuss_k) / 2), float((voigt_g + reuss_g) / 2)
