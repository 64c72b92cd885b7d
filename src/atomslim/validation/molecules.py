"""Checks of molecules: geometry, vibrations, torsions, a barrier."""

from dataclasses import replace
from itertools import product

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation, molecule
from ase.calculators.calculator import Calculator
from ase.mep import NEB
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.optimize import FIRE
from ase.vibrations import VibrationsData

from atomslim.validation.inputs import EndPoints
from atomslim.validation.measurement import (
    DoesNotFitError,
    FloatArray,
    Measurement,
    NotDoneError,
    Settings,
    energy_of,
    with_calculator,
)
from atomslim.validation.relaxation import relaxed

IMAGINARY = 30.0
"""cm⁻¹: smaller imaginary frequencies are rotations and translations, within rounding."""


CLOSE = 0.01
"""eV: conformers that are closer than this are not ordered."""


def geometry(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Relax the molecule: its coordinates, to be compared, and the RMSD from its start (Å)."""
    found = relaxed(atoms, calculator, settings)
    numbers = {"moved": _rmsd(atoms.positions, found.positions)}
    return Measurement(numbers, {"positions": (list(range(found.positions.size)), found.positions.ravel().tolist())})


def geometry_difference(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return the RMSD (Å) between both relaxed geometries after the best rotation."""
    ours, theirs = (np.array(each.curves["positions"][1]).reshape(-1, 3) for each in (model, reference))
    return {"RMSD": _rmsd(ours, theirs)}


def vibrations(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Differentiate forces at the minimum: harmonic frequencies in cm⁻¹."""
    if len(atoms) == 1:
        raise DoesNotFitError("a single atom has no vibrations")
    start = relaxed(atoms, calculator, settings)
    step, rows = settings["displacement"], []
    for index in range(start.positions.size):
        images = []
        for sign in (1, -1):
            image = with_calculator(start, calculator)
            image.positions.ravel()[index] += sign * step
            images.append(np.asarray(image.get_forces()).ravel())
        rows.append(-(images[0] - images[1]) / (2 * step))
    hessian = np.array(rows)
    data = VibrationsData.from_2d(start, (hessian + hessian.T) / 2)
    found = np.asarray(data.get_frequencies())
    signed = np.sort(np.where(found.imag != 0, -np.abs(found.imag), found.real))
    inner = signed[np.argsort(np.abs(signed))][_rigid_modes(start) :]
    inner = np.sort(inner)
    return Measurement(
        {"highest": float(inner.max()), "imaginary": float((inner < -IMAGINARY).sum())},
        {"frequencies": (list(range(1, len(inner) + 1)), inner.tolist())},
        ("mode", "frequency (1/cm)"),
    )


def frequency_differences(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return the mean and the largest difference of frequencies, in order of their size, in cm⁻¹."""
    ours, theirs = (np.array(each.curves["frequencies"][1]) for each in (model, reference))
    difference = np.abs(ours - theirs)
    return {"mean difference": float(difference.mean()), "largest difference": float(difference.max())}


def torsions(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Turn both ends of a rotatable bond against each other, rigidly: energies (eV) over the angle."""
    bonds = _rotatable(atoms, settings["bonds"])
    start = relaxed(atoms, calculator, settings)
    curves = {}
    for first, second, moving in bonds:
        angles = np.linspace(0, 360, settings["points"], endpoint=False)
        energies = np.array([energy_of(_turned(start, first, second, moving, a)) for a in angles])
        name = f"{start.symbols[first]}{first}–{start.symbols[second]}{second}"
        curves[name] = (angles.tolist(), (energies - energies.min()).tolist())
    barrier = max(max(values) for _, values in curves.values())
    return Measurement({"highest barrier": barrier}, curves, ("angle (°)", "energy (eV)"))


def torsion_difference(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return the mean difference (meV) of energies over the angles, and conformers' rank correlation (Spearman)."""
    ours, theirs = (np.concatenate([np.array(y) for _, y in each.curves.values()]) for each in (model, reference))
    if len(ours) != len(theirs):
        return {}
    ranks = [np.argsort(np.argsort(values)) for values in (ours, theirs)]
    return {
        "mean difference": 1e3 * float(np.abs(ours - theirs).mean()),
        "order": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
    }


def conformers(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Rotate bonds by 120° in all combinations, and relax: energies (eV) of the result of every start."""
    bonds = _rotatable(atoms, settings["bonds"])
    found: dict[int, float] = {}
    for number, angles in enumerate(product((0, 120, 240), repeat=len(bonds))):
        image = atoms
        for angle, (first, second, moving) in zip(angles, bonds, strict=True):
            image = _turned(image, first, second, moving, angle)
        try:
            found[number] = energy_of(relaxed(image, calculator, settings))
        except NotDoneError as error:
            reason = str(error)
    if len(found) < 2:
        raise NotDoneError(reason)
    energies = np.array(list(found.values()))
    curve = ([float(number) for number in found], (energies - energies.min()).tolist())
    return Measurement({"range": float(np.ptp(energies))}, {"conformers": curve}, ("start", "energy (eV)"))


def conformer_differences(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return the mean difference (meV) of conformers' energies, and the fraction of pairs in the reference's order.

    Pairs closer than 10 meV in the reference are not ordered.
    """
    ours, theirs = (dict(zip(*each.curves["conformers"], strict=True)) for each in (model, reference))
    both = sorted(ours.keys() & theirs.keys())
    a, b = (np.array([each[number] for number in both]) for each in (ours, theirs))
    if len(both) < 2:
        return {}
    numbers = {"mean difference": 1e3 * float(np.abs((a - a.mean()) - (b - b.mean())).mean())}
    gaps, their_gaps = a[:, None] - a, b[:, None] - b
    apart = their_gaps > CLOSE
    return numbers | ({"order": float((gaps[apart] > 0).mean())} if apart.any() else {})


def inversion(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:  # noqa: ARG001 - ammonia only
    """Climb over the inversion of ammonia: barrier (eV) by a nudged elastic band with a climbing image."""
    first = relaxed(molecule("NH3"), calculator, settings)
    last = with_calculator(first, calculator)
    last.positions[:, 2] = 2 * first.positions[first.numbers != 7, 2].mean() - first.positions[:, 2]
    return barrier(calculator, first, last, settings)


def between(calculator: Calculator, ends: EndPoints, settings: Settings) -> Measurement:
    """Relax two end points and climb from the first to the last: both barriers, and the reaction energy (eV)."""
    first, last = (relaxed(end, calculator, settings) for end in (ends.first, ends.last))
    found = barrier(calculator, first, last, settings)
    gained = found.curves["band"][1][-1]
    numbers = {"barrier": found.numbers["barrier"], "barrier back": found.numbers["barrier"] - gained, "energy": gained}
    return replace(found, numbers=numbers)


def barrier(calculator: Calculator, first: Atoms, last: Atoms, settings: Settings) -> Measurement:
    """Find the path between two minima by a nudged elastic band with a climbing image; raises NotDoneError."""
    images = [with_calculator(first, calculator) for _ in range(settings["images"])]
    images[-1] = with_calculator(last, calculator)
    band = NEB(images, climb=True, allow_shared_calculator=True, method="improvedtangent")
    band.interpolate(mic=bool(first.pbc.any()))
    with FIRE(band, logfile=None) as optimiser:
        if not optimiser.run(fmax=settings["fmax"], steps=settings["steps"]):
            raise NotDoneError(f"the band has not converged in {settings['steps']} steps")
    energies = np.array([energy_of(image) for image in images])
    relative = (energies - energies[0]).tolist()
    return Measurement(
        {"barrier": max(relative)}, {"band": (list(range(len(images))), relative)}, ("image", "energy (eV)")
    )


def rotatable_bonds(atoms: Atoms) -> list[tuple[int, int, list[int]]]:
    """Return bonds between inner atoms that are neither in rings nor linear, with the atoms on the smaller side."""
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))
    around: dict[int, set[int]] = {atom: set() for atom in range(len(atoms))}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        around[a].add(b)
    found = []
    for a, b in sorted({(min(i, j), max(i, j)) for i in around for j in around[i]}):
        if min(len(around[a]), len(around[b])) < 2 or not _bent(atoms, a, b, around):
            continue
        side = _side(a, b, around)
        if a not in side:
            other = [atom for atom in around if atom not in side]
            found.append((a, b, sorted(side)) if len(side) <= len(other) else (b, a, other))
    return sorted(found, key=lambda bond: -min(len(bond[2]), len(atoms) - len(bond[2])))


def _rotatable(atoms: Atoms, count: int) -> list[tuple[int, int, list[int]]]:
    bonds = rotatable_bonds(atoms)[:count]
    if not bonds:
        raise DoesNotFitError("the molecule has no rotatable bond")
    return bonds


def _bent(atoms: Atoms, a: int, b: int, around: dict[int, set[int]]) -> bool:
    """Say whether there is an atom off the axis on both sides of a bond."""
    return all(
        any(atoms.get_angle(other, inner, outer) < 175 for other in around[inner] - {outer})
        for inner, outer in ((a, b), (b, a))
    )


def _side(a: int, b: int, around: dict[int, set[int]]) -> set[int]:
    """Return the atoms connected to b when the bond to a is cut; includes a if the bond is in a ring."""
    seen, waiting = {b}, [b]
    while waiting:
        atom = waiting.pop()
        for other in around[atom] - seen:
            if (atom, other) != (b, a):
                seen.add(other)
                waiting.append(other)
    return seen


def _turned(atoms: Atoms, first: int, second: int, moving: list[int], angle: float) -> Atoms:
    """Rotate the moving atoms, connected to the second, about the bond."""
    image = with_calculator(atoms, atoms.calc) if atoms.calc is not None else atoms.copy()
    part = image[moving]
    part.rotate(angle, image.positions[second] - image.positions[first], center=image.positions[second])
    image.positions[moving] = part.positions
    return image


def _rigid_modes(atoms: Atoms) -> int:
    """Return 6, or 5 for a linear molecule, or 3 for an atom."""
    if len(atoms) == 1:
        return 3
    spread = np.linalg.svd(atoms.positions - atoms.positions.mean(axis=0), compute_uv=False)
    return 5 if spread[1] < 1e-3 * spread[0] else 6


def _rmsd(first: FloatArray, second: FloatArray) -> float:
    atoms, other = (Atoms(f"H{len(first)}", positions=positions) for positions in (first, second))
    minimize_rotation_and_translation(other, atoms)
    return float(np.sqrt(((atoms.positions - other.positions) ** 2).sum(axis=1).mean()))
