"""The check of speed: steps of dynamics, memory and the largest system, as `atomslim benchmark` measures them."""

import time

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator

from atomslim.benchmarking.largest import largest_cell
from atomslim.benchmarking.passes import Job
from atomslim.benchmarking.speed import measure_jobs
from atomslim.errors import AtomslimError
from atomslim.inference.calculator import Calculator
from atomslim.memory import free_memory
from atomslim.validation.measurement import Measurement, NotDoneError, Settings, memory_of, with_calculator

DAY = 86400.0


def speed(calculator: AseCalculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Time steps of dynamics: steps per second, and nanoseconds per day at the time step; memory and the largest cell.

    Models are timed as `atomslim benchmark` does, pairs reused as between steps; other calculators by the shortest of
    some steps on slightly different positions. Memory and the largest cell of MgO within ``memory`` bytes are
    measured for models only.
    """
    numbers, remarks = _of_model(calculator, atoms, settings) if isinstance(calculator, Calculator) else ({}, ())
    if not numbers:
        numbers["steps per second"] = 1 / _shortest(calculator, atoms, settings["repeats"])
    numbers["a day"] = numbers["steps per second"] * DAY * settings["time_step"] * 1e-6
    return Measurement(numbers, remarks=remarks)


def gain(model: Measurement, reference: Measurement) -> dict[str, float]:
    """Return the speed-up of the model over the reference."""
    return {"times as fast": model.numbers["steps per second"] / reference.numbers["steps per second"]}


def _of_model(calculator: Calculator, atoms: Atoms, settings: Settings) -> tuple[dict[str, float], tuple[str, ...]]:
    job = Job(calculator.model, calculator.task.name, precision=calculator.precision)
    found = measure_jobs({"model": job}, [atoms], repeats=settings["repeats"])["model"]
    numbers = {"steps per second": 1 / (found.seconds + found.reuse_seconds)}
    if found.memory is not None:
        numbers["memory"] = found.memory / 1e6
    remarks = () if found.steady else ("times are unsteady: the machine is busy with other work",)
    known = memory_of(calculator)
    if "largest" not in known:
        known["largest"] = _largest(job, settings["memory"])
    return numbers | ({} if known["largest"] is None else {"largest": known["largest"]}), remarks


def _largest(job: Job, limit: float) -> float | None:
    """Return the atoms of the largest cell; None where memory cannot be limited, or the model refuses MgO."""
    free = free_memory()
    if free is None:
        return None
    try:
        cell = largest_cell(job, int(min(limit, free / 2)))
    except AtomslimError:
        return None
    return 0.0 if cell is None else float(cell.atoms)


def _shortest(calculator: AseCalculator, atoms: Atoms, repeats: int) -> float:
    """Return the shortest seconds of a step, the first not counted."""
    moved, random = with_calculator(atoms, calculator), np.random.default_rng(0)
    times = []
    for _ in range(repeats + 1):
        moved.positions += random.normal(0.0, 1e-3, moved.positions.shape)
        start = time.perf_counter()
        moved.get_forces()
        times.append(time.perf_counter() - start)
    if min(times[1:]) <= 0:
        raise NotDoneError("steps are too short to be timed")
    return min(times[1:])
