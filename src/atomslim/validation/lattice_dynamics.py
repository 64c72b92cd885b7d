"""Phonons and thermal expansion, by phonopy."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from atomslim.validation.measurement import (
    FloatArray,
    Measurement,
    NotDoneError,
    Settings,
    energy_of,
    imported,
    with_calculator,
)
from atomslim.validation.relaxation import relaxed

IMAGINARY = -0.1
"""THz: frequencies below this count as imaginary; smaller ones are acoustic modes at Γ, within rounding."""


def phonons(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Displace atoms of a supercell: frequencies (THz) at Γ, on a mesh and along a path.

    The structure is relaxed first, with its cell if the model has stress.
    """
    start = _at_rest(calculator, atoms, settings)
    phonon = _phonon(calculator, start, settings)
    mesh = settings["mesh"]
    phonon.run_mesh([mesh] * 3, is_mesh_symmetry=False, is_gamma_center=True)
    frequencies = np.asarray(phonon.mesh.frequencies)
    phonon.run_qpoints([[0, 0, 0]])
    gamma = np.asarray(phonon.qpoints.frequencies)[0]
    phonon.run_total_dos(freq_pitch=0.05)
    numbers = {
        "highest": float(frequencies.max()),
        "mean": float(frequencies.mean()),
        "imaginary": float((frequencies < IMAGINARY).mean()),
        **{f"Γ{number}": float(value) for number, value in enumerate(gamma[3:], start=1)},
    }
    curves = {
        "density of states": (
            np.asarray(phonon.total_dos.frequency_points).tolist(),
            np.asarray(phonon.total_dos.dos).tolist(),
        ),
        "mesh": (list(range(frequencies.size)), frequencies.ravel().tolist()),
        **_bands(phonon),
    }
    return Measurement(numbers, curves, ("frequency (THz)", "density of states"))


def phonon_differences(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return the mean and the largest difference of frequencies on the mesh, in THz."""
    ours, theirs = (np.array(each.curves["mesh"][1]) for each in (model, reference))
    if len(ours) != len(theirs):
        return {}
    difference = np.abs(ours - theirs)
    return {"mean difference": float(difference.mean()), "largest difference": float(difference.max())}


def thermal_expansion(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Compute phonons at several volumes: linear expansion at 300 K in 10⁻⁶/K, in the quasi-harmonic approximation."""
    start = _at_rest(calculator, atoms, settings)
    crystals, energies = [], []
    smallest, largest = settings["volumes"]
    for scale in np.linspace(smallest, largest, settings["points"]):
        scaled = start.copy()
        scaled.set_cell(start.cell * scale ** (1 / 3), scale_atoms=True)
        image = relaxed(scaled, calculator, settings)
        phonon = _phonon(calculator, image, settings)
        phonon.run_mesh([settings["mesh"]] * 3, is_gamma_center=True)
        if float(np.min(phonon.mesh.frequencies)) < IMAGINARY:
            raise NotDoneError(f"imaginary modes at {scale:.3f} of the volume: the approximation does not hold")
        crystals.append(phonon)
        energies.append(energy_of(image))
    temperatures = np.arange(250.0, 361.0, 10.0)
    mesh = [settings["mesh"]] * 3
    with warnings.catch_warnings():  # triclinic cells have no lattice parameters by temperature, which are not needed
        warnings.simplefilter("ignore")
        found = imported("phonopy").run_qha(crystals, temperatures, energies, mesh=mesh, exclude_gamma_acoustic=True)
    at_room = int(np.argmin(np.abs(np.asarray(found.temperatures) - 300)))
    volume = float(found.equilibrium_volumes[at_room] / start.get_volume())
    if not smallest < volume < largest:
        raise NotDoneError(f"at 300 K the crystal has {volume:.3f} of its volume at rest, outside the range tried")
    return Measurement({"linear expansion": float(1e6 * np.asarray(found.thermal_expansion)[at_room] / 3)})


def _at_rest(calculator: Calculator, atoms: Atoms, settings: Settings) -> Atoms:
    """Relax positions and, where there is stress, the cell."""
    try:
        return relaxed(atoms, calculator, settings, cell=True)
    except NotDoneError as error:
        if "no stress" not in str(error):
            raise
        return relaxed(atoms, calculator, settings)


def _phonon(calculator: Calculator, atoms: Atoms, settings: Settings) -> Any:
    """Return phonopy's object with force constants from finite displacements."""
    phonopy = imported("phonopy")
    cell = imported("phonopy.structure.atoms").PhonopyAtoms(
        numbers=atoms.numbers, cell=np.asarray(atoms.cell), scaled_positions=atoms.get_scaled_positions()
    )
    repeats = [max(1, int(np.ceil(settings["length"] / side))) for side in atoms.cell.lengths()]
    if len(atoms) * int(np.prod(repeats)) > settings["largest"]:
        raise NotDoneError(
            f"a supercell of {settings['length']} Å has more than {settings['largest']} atoms: give a smaller cell"
        )
    phonon = phonopy.Phonopy(cell, np.diag(repeats), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=settings["displacement"])
    phonon.forces = np.array([_forces(calculator, one) for one in phonon.supercells_with_displacements])
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


def _forces(calculator: Calculator, cell: Any) -> FloatArray:
    atoms = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    found = np.asarray(with_calculator(atoms, calculator).get_forces(), dtype=np.float64)
    return found - found.mean(axis=0)


def _bands(phonon: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Return the branches along the straight path Γ → (½, 0, 0) → (½, ½, 0) → Γ, in the lattice's own coordinates."""
    corners = np.array([[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0], [0, 0, 0]])
    path = [np.linspace(a, b, 21) for a, b in pairwise(corners)]
    phonon.run_band_structure(path)
    distance = np.concatenate(phonon.band_structure.distances)
    branches = np.concatenate(phonon.band_structure.frequencies)
    return {f"band {number}": (distance.tolist(), branch.tolist()) for number, branch in enumerate(branches.T, start=1)}
