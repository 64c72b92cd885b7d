"""Checks by molecular dynamics: conservation, stability, structure and transport."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import natural_cutoffs, neighbor_list

from atomslim.validation.measurement import (
    DoesNotFitError,
    FloatArray,
    Measurement,
    NotDoneError,
    Settings,
    energy_of,
    repeated,
    stress_of,
    with_calculator,
)
from atomslim.validation.relaxation import relaxed

TOO_CLOSE = 0.6
"""Fraction of the sum of covalent radii: atoms come no closer in normal runs at ordinary temperatures."""

TOO_HOT = 5.0
"""Times the thermostat's temperature."""

BINS = 60

DISTRIBUTIONS = ("radial distribution", "bond lengths", "bond angles")

ANGLED_ATOMS = 10_000
"""Most atoms, over all frames, whose angles are measured."""

Curve: TypeAlias = tuple[list[float], list[float]]
"""x and y values."""


def conservation(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Run without a thermostat at two time steps: drift of the energy (meV/atom/ps) and of the momentum.

    The drift is the slope of a straight line through the total energy.
    """
    start = _start(atoms, calculator, settings)
    numbers, curves = {}, {}
    for step in settings["time_steps"]:
        moved = _moving(start, calculator, settings["temperature"])
        times, energies = [], []
        for time in _run(VelocityVerlet(moved, step * units.fs), settings["picoseconds"], step, settings["every"]):
            if not np.isfinite(moved.get_forces()).all():
                raise NotDoneError(f"after {time:.2f} ps forces are not numbers")
            times.append(time)
            energies.append(1e3 * moved.get_total_energy() / len(moved))
        curve = np.array(energies)
        numbers[f"drift at {step:g} fs"] = abs(float(np.polyfit(times, curve, 1)[0]))
        momentum = np.linalg.norm(moved.get_momenta().sum(axis=0))
        numbers[f"momentum at {step:g} fs"] = float(momentum / np.sqrt(moved.get_masses().sum()))
        curves[f"{step:g} fs"] = (times, (curve - curve[0]).tolist())
    return Measurement(numbers, curves, ("time (ps)", "total energy (meV/atom)"))


def stability(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Run several times with a thermostat: the fraction of runs with an unphysical event, and the first such time (ps).

    Events: two atoms closer than 0.6 of their covalent distance, five times the temperature, NaN.
    """
    ends = [_first_event(calculator, atoms, settings, seed) for seed in range(settings["starts"])]
    broken = [time for time in ends if time is not None]
    return Measurement({"broken": len(broken) / len(ends), "first event": min(broken, default=settings["picoseconds"])})


def structure(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Run with a thermostat: distributions of distances, bonds and angles, displacement, and diffusion (Å²/ps)."""
    moved = _moving(_start(atoms, calculator, settings), calculator, settings["temperature"])
    frames, times = [], []
    driver = _thermostat(moved, settings, seed=0)
    for time in _run(driver, settings["picoseconds"], settings["time_step"], settings["every"]):
        if _event(moved, settings["temperature"]):
            raise NotDoneError(f"the run broke after {time:.2f} ps")
        if time >= settings["equilibration"]:
            frames.append(moved.copy())
            times.append(time)
    displacement = _displacement(frames)
    late = slice(len(times) // 2, None)
    slope = float(np.polyfit(np.array(times)[late] - times[0], displacement[late], 1)[0])
    curves = _distributions(frames, settings["reach"])
    halves = [
        _distributions(half, settings["reach"]) for half in (frames[: len(frames) // 2], frames[len(frames) // 2 :])
    ]
    curves["mean squared displacement"] = ((np.array(times) - times[0]).tolist(), displacement.tolist())
    scatter = {f"{name}, scatter": _apart(halves[0][name], halves[1][name]) / 2 for name in DISTRIBUTIONS}
    return Measurement({"diffusion": max(slope, 0.0) / 6, **scatter}, curves, ("", ""))


def structure_difference(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return distances of distributions: half the L1 distance of the radial one, Jensen–Shannon's of all (0 to 1).

    Two runs of one model differ, too. The latter is the excess over the scatter of both runs: half the divergence
    between the two halves of a run, since divergences scale with the inverse length.
    """
    numbers = {}
    for name in DISTRIBUTIONS:
        ours, theirs = (np.array(each.curves[name][1]) for each in (model, reference))
        if ours.sum() == 0 or theirs.sum() == 0:
            continue
        if name == "radial distribution":
            numbers["radial distribution, L1"] = float(np.abs(ours / ours.sum() - theirs / theirs.sum()).sum() / 2)
        chance = np.mean([each.numbers[f"{name}, scatter"] for each in (model, reference)])
        apart = _apart(model.curves[name], reference.curves[name])
        numbers[f"{name}, Jensen–Shannon"] = max(0.0, apart - float(chance))
    return numbers


def density(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Run with thermostat and barostat at 1 bar: the mean density (g/cm³) of the second half."""
    moved = _moving(_start(atoms, calculator, settings), calculator, settings["temperature"])
    stress_of(moved)  # refuses a calculator without stress
    driver = NPTBerendsen(
        moved,
        settings["time_step"] * units.fs,
        temperature_K=settings["temperature"],
        pressure_au=1.01325 * units.bar,
        taut=100 * units.fs,
        taup=1000 * units.fs,
        compressibility_au=settings["compressibility"] / units.GPa,
    )
    densities = []
    for time in _run(driver, settings["picoseconds"], settings["time_step"], settings["every"]):
        if _event(moved, settings["temperature"]):
            raise NotDoneError(f"the run broke after {time:.2f} ps")
        densities.append(1.66054 * moved.get_masses().sum() / moved.get_volume())
    return Measurement({"density": float(np.mean(densities[len(densities) // 2 :]))})


def _run(
    driver: VelocityVerlet | Langevin | NPTBerendsen, picoseconds: float, step: float, every: int
) -> Iterator[float]:
    """Run, and give the time in ps after every so many steps, including the start."""
    steps = round(1e3 * picoseconds / step)
    yield 0.0
    for done in range(every, steps + 1, every):
        driver.run(every)  # type: ignore[no-untyped-call]
        yield done * step / 1e3


def _moving(atoms: Atoms, calculator: Calculator, temperature: float, seed: int = 0) -> Atoms:
    moved = with_calculator(atoms, calculator)
    width = np.sqrt(units.kB * temperature * moved.get_masses())[:, None]
    moved.set_momenta(width * np.random.default_rng(seed).normal(size=(len(moved), 3)))
    Stationary(moved)
    if not moved.pbc.any():
        with np.errstate(divide="ignore", invalid="ignore"):  # the axis of a straight molecule has no inertia
            ZeroRotation(moved)
    return moved


def _start(atoms: Atoms, calculator: Calculator, settings: Settings) -> Atoms:
    """Repeat a small cell, and relax for a few steps, so that dynamics do not start at a very high energy."""
    large = repeated(atoms, settings["length"])
    if len(large) == 1:
        raise DoesNotFitError("a single atom has nothing to move against")
    try:
        return relaxed(large, calculator, {"fmax": 0.1, "steps": 100})
    except NotDoneError:
        return large


def _thermostat(atoms: Atoms, settings: Settings, seed: int) -> Langevin:
    return Langevin(
        atoms,
        settings["time_step"] * units.fs,
        temperature_K=settings["temperature"],
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(seed),
    )


def _first_event(calculator: Calculator, atoms: Atoms, settings: Settings, seed: int) -> float | None:
    """Return the time (ps) of the first unphysical event of one run, or None."""
    moved = _moving(_start(atoms, calculator, settings), calculator, settings["temperature"], seed)
    driver = _thermostat(moved, settings, seed)
    time = 0.0
    if _event(moved, settings["temperature"]):
        return time
    try:
        for time in _run(driver, settings["picoseconds"], settings["time_step"], settings["every"]):
            if _event(moved, settings["temperature"]):
                return time
    except Exception:  # noqa: BLE001 - a calculator that fails for the structure reached
        return time
    return None


def _event(atoms: Atoms, temperature: float) -> bool:
    if not np.isfinite(atoms.positions).all() or not np.isfinite(energy_of(atoms)):
        return True
    if atoms.get_temperature() > TOO_HOT * temperature + 300:
        return True
    radii = TOO_CLOSE * covalent_radii[atoms.numbers]
    return len(neighbor_list("i", atoms, radii.tolist())) > 0


def _distributions(frames: list[Atoms], reach: float) -> dict[str, Curve]:
    return {
        "radial distribution": _radial(frames, reach),
        "bond lengths": _histogram(_bond_lengths(frames), 0.5, 3.5),
        "bond angles": _histogram(_bond_angles(frames), 0, 180),
    }


def _apart(first: Curve, second: Curve) -> float:
    """Return Jensen and Shannon's divergence of two distributions (bit); 0 where one is empty."""
    p, q = (np.array(curve[1]) for curve in (first, second))
    return _jensen_shannon(p / p.sum(), q / q.sum()) if p.sum() and q.sum() else 0.0


def _radial(frames: list[Atoms], reach: float) -> Curve:
    """Return the radial distribution of all atoms, as a histogram of distances over 4πr²."""
    edges = np.linspace(0, reach, BINS + 1)
    counts = sum(np.histogram(neighbor_list("d", frame, reach), edges)[0] for frame in frames)
    middle = (edges[1:] + edges[:-1]) / 2
    shell = 4 * np.pi * middle**2 * np.diff(edges)
    return middle.tolist(), (np.asarray(counts) / shell / len(frames) / len(frames[0])).tolist()


def _bond_lengths(frames: list[Atoms]) -> FloatArray:
    return np.concatenate([neighbor_list("d", frame, natural_cutoffs(frame, mult=1.25)) for frame in frames])


def _bond_angles(frames: list[Atoms]) -> FloatArray:
    found = [
        np.concatenate([np.ravel(one) for one in values])
        for frame in frames[:: max(1, len(frames) * len(frames[0]) // ANGLED_ATOMS)]
        if (values := [v for v in _angles(frame) if len(v)])
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _angles(atoms: Atoms) -> list[FloatArray]:
    """Return the angles (°) between bonds at every atom."""
    first, vectors = neighbor_list("iD", atoms, natural_cutoffs(atoms, mult=1.15))
    units_of = vectors / np.linalg.norm(vectors, axis=1)[:, None] if len(vectors) else vectors
    found = []
    for atom in range(len(atoms)):
        around = units_of[first == atom]
        cosines = (around @ around.T)[np.triu_indices(len(around), 1)]
        found.append(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
    return found


def _histogram(values: FloatArray, low: float, high: float) -> Curve:
    counts, edges = np.histogram(values, np.linspace(low, high, BINS + 1))
    return ((edges[1:] + edges[:-1]) / 2).tolist(), (counts / max(counts.sum(), 1)).tolist()


def _displacement(frames: list[Atoms]) -> FloatArray:
    """Return the mean squared displacement (Å²) from the first frame, the centre of mass at rest."""
    paths = np.array([frame.positions - frame.get_center_of_mass() for frame in frames])
    return np.asarray(((paths - paths[0]) ** 2).sum(axis=2).mean(axis=1))


def _jensen_shannon(p: FloatArray, q: FloatArray) -> float:
    """Return the divergence in bits: 0 for equal distributions, 1 for distributions without overlap."""
    middle = (p + q) / 2

    def divergence(a: FloatArray) -> float:
        some = a > 0
        return float((a[some] * np.log2(a[some] / middle[some])).sum())

    return (divergence(p) + divergence(q)) / 2
