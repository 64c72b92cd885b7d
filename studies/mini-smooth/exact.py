"""What atomslim-mini-smooth promises exactly, measured: numbering, slopes, Hessians, jumps, pairs of elements, drift.

python studies/mini-smooth/exact.py                      # minutes
python studies/mini-smooth/exact.py --drift 20000        # 10 ps of paracetamol, MgO and CO on copper: half an hour
python studies/mini-smooth/exact.py --hot 10             # 10 ps at 1000 K of five molecules and three crystals: an hour
python studies/mini-smooth/exact.py --hot 10 --only LiF  # a part of that, or of the other
"""

import warnings
from collections.abc import Collection, Iterator
from itertools import combinations_with_replacement

import cyclopts
import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from atomslim import Calculator, load
from atomslim.data import open_dataset
from atomslim.validation.dynamics import stability

MODEL = "mini-smooth"
TASKS = {"ethanol": "molecules", "MgO": "oxides", "CO on Cu": "adsorbates", "paracetamol": "molecules"}


def structures() -> dict[str, Atoms]:
    """Return a molecule, a rattled crystal, a slab."""
    crystal = bulk("MgO", "rocksalt", a=4.3, cubic=True)
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(slab, molecule("CO"), 1.9, "ontop", mol_index=1)  # carbon below
    slab.pbc = True
    made = {"ethanol": molecule("CH3CH2OH"), "MgO": crystal, "CO on Cu": slab}
    for atoms in made.values():
        atoms.rattle(0.05, seed=1)
    return made


def answer(calculator: Calculator, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return energy (eV) and forces (n, 3) (eV/Å)."""
    atoms.calc = calculator
    return float(atoms.get_potential_energy()), atoms.get_forces()


def exactness(step: float = 1e-4) -> Iterator[str]:
    """Measure numbering, forces against central differences, and symmetry of the Hessian, in float64."""
    model, random = load(MODEL).double().eval(), np.random.default_rng(0)
    for name, atoms in structures().items():
        calculator = Calculator(model, task=TASKS[name])
        energy, forces = answer(calculator, atoms)
        numbering = 0.0
        for _ in range(4):
            order = random.permutation(len(atoms))
            other, turned = answer(calculator, atoms[order])
            numbering = max(numbering, abs(other - energy), np.abs(turned - forces[order]).max())
        rows, slope = [], 0.0
        for index in np.ndindex(len(atoms), 3):
            ends = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[index] += sign * step
                ends.append(answer(calculator, moved))
            slope = max(slope, abs((ends[1][0] - ends[0][0]) / (2 * step) - forces[index]))
            rows.append((ends[1][1] - ends[0][1]).ravel() / (2 * step))
        hessian = np.array(rows)
        skew = np.abs(hessian - hessian.T).max() / np.abs(hessian).max()
        yield f"{name}: numbering {numbering:.0e} (eV, eV/Å), slope {slope:.0e} eV/Å, Hessian's asymmetry {skew:.0e}"


def jumps(lines: int = 200, steps: int = 5, step: float = 1e-4) -> Iterator[str]:
    """Measure the largest jump of the energy beyond what the slopes at both ends explain, along random lines."""
    model, random, largest = load(MODEL).double().eval(), np.random.default_rng(0), 0.0
    made = structures()
    for line in range(lines):
        name = list(made)[line % len(made)]
        atoms, calculator = made[name].copy(), Calculator(model, task=TASKS[name])
        atoms.positions += random.normal(scale=0.1, size=atoms.positions.shape)
        direction = random.normal(size=atoms.positions.shape)
        direction /= np.linalg.norm(direction)
        before = answer(calculator, atoms)
        for _ in range(steps):
            atoms.positions += step * direction
            after = answer(calculator, atoms)
            explained = -step * ((before[1] + after[1]) / 2 * direction).sum()
            largest, before = max(largest, abs(after[0] - before[0] - explained)), after
    yield f"largest jump along {lines} lines of {steps} steps of {step:g} Å: {largest:.0e} eV"


def pairs() -> Iterator[str]:
    """Say which pairs of elements are not repulsive everywhere from 0.5 to 0.7 of the sum of covalent radii."""
    model = load(MODEL).float().eval()
    for task in model.tasks.values():
        energy = next(target for target in task.targets if target.kind == "energy")
        calculator, holes, count = Calculator(model, task=task.name), [], 0
        for numbers in combinations_with_replacement(sorted(energy.references), 2):
            dimer = Atoms(numbers, [(0, 0, 0), (0, 0, 1)])
            radii, push = covalent_radii[dimer.numbers].sum(), []
            for share in np.arange(0.5, 0.701, 0.02):
                dimer.positions[1, 2] = share * radii
                push.append(answer(calculator, dimer)[1][1, 2])
            count += 1
            if min(push) <= 0:
                holes.append(dimer.get_chemical_formula())
        found = f"; not: {', '.join(holes)}" if holes else ""
        yield f"{task.name}: {count - len(holes)} of {count} pairs repulsive{found}"


def energy_drift(steps: int, only: Collection[str]) -> Iterator[str]:
    """Measure the slope of the total energy over NVE dynamics of 0.5 fs at 300 K, float32, after a relaxation."""
    model = load(MODEL).float().eval()
    starts = structures() | {"paracetamol": open_dataset("mini:dynamics")[0].to_ase()}
    starts["CO on Cu"].set_constraint(FixAtoms([atom.index for atom in starts["CO on Cu"] if atom.tag == 2]))
    for name in [name for name in ("paracetamol", "MgO", "CO on Cu") if name in only or not only]:
        atoms = starts[name]
        atoms.calc = Calculator(model, task=TASKS[name])
        BFGS(atoms, logfile=None).run(fmax=0.1, steps=100)
        MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))  # half goes into the bonds
        Stationary(atoms)
        dynamics, times, energies = VelocityVerlet(atoms, 0.5 * units.fs), [], []
        for _ in range(steps // 20):
            dynamics.run(20)
            times.append(dynamics.get_time() / units.fs / 1000)
            energies.append(atoms.get_total_energy() / len(atoms) * 1000)
        slope = np.polyfit(times, energies, 1)[0]
        yield f"{name}: {slope:+.3f} meV/atom/ps over {times[-1]:.1f} ps, {atoms.get_temperature():.0f} K at the end"


def hot_dynamics(picoseconds: float, only: Collection[str]) -> Iterator[str]:
    """Run molecules and crystals at 1000 K, in float32, and say when something unphysical happened.

    That is two atoms closer than 0.6 of their covalent distance, five times the temperature, or numbers that are none.
    """
    model = load(MODEL).float().eval()
    molecules = {name: molecule(name) for name in ("CH3CH2OH", "CH3COOH", "C6H6", "CH3CONH2")}
    molecules["paracetamol"] = open_dataset("mini:dynamics")[0].to_ase()
    crystals = {
        name: bulk(name, "rocksalt", a=length, cubic=True)
        for name, length in (("MgO", 4.21), ("NaCl", 5.64), ("LiF", 4.03))
    }
    for task, starts, time_step in (("molecules", molecules, 0.5), ("oxides", crystals, 1.0)):
        calculator = Calculator(model, task=task, compiled="auto")
        settings = {"length": 4.0, "starts": 1, "temperature": 1000.0, "picoseconds": picoseconds}
        settings |= {"time_step": time_step, "every": 20}
        for name in [name for name in starts if name in only or not only]:
            atoms = starts[name]
            found = stability(calculator, atoms, settings).numbers
            broken = f"an unphysical event after {found['first event']:.2f} ps"
            told = broken if found["broken"] else "nothing unphysical"
            yield f"{name}, {len(atoms)} atoms, 1000 K, {picoseconds:g} ps: {told}"


def main(*, drift: int | None = None, hot: float | None = None, only: tuple[str, ...] = ()) -> None:
    """Print what was measured, as it comes: all but dynamics, or one of the two kinds of dynamics."""
    warnings.simplefilter("ignore")
    long = [*([energy_drift(drift, only)] if drift else []), *([hot_dynamics(hot, only)] if hot else [])]
    for lines in long or [exactness(), jumps(), pairs()]:
        for text in lines:
            print(text, flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
