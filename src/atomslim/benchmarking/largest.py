"""The largest structure that fits into an amount of memory.

Cells of MgO are doubled until one does not fit, then the gap is halved until it is narrower than a tenth of the cell.
Each pass, its graphs included, runs in a separate process, to which the system (on the CPU, RLIMIT_DATA) or torch (on
CUDA) gives no more than the limit on top of what program and weights take: a pass that is too large fails at once, and
nothing else on the machine has to make room for it.
"""

import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ase import Atoms

from atomslim.atoms import from_ase
from atomslim.benchmarking.passes import Job, Mode
from atomslim.benchmarking.structures import oxide
from atomslim.errors import AtomslimError, ConfigError
from atomslim.memory import free_memory, give_back_freed_memory, is_out_of_memory, keep_freed_memory, peak_memory
from atomslim.models.precision import Format

START, STEP = 64, 8
"""Atoms of the first and of the smallest cell, and the least difference between cells."""

GAP = 0.1
"""Of the largest cell that fits, to the smallest that does not."""

TOO_LARGE = 3
"""Exit status of a process whose pass ran out of memory."""


@dataclass(frozen=True)
class Cell:
    """A cell that fits."""

    atoms: int
    edges: int
    memory: int | None
    """Bytes that the pass takes at its peak, graphs included; None where the system does not say."""


@dataclass(frozen=True)
class Largest:
    """The largest cell for one kind of pass."""

    blocks: int
    mode: Mode
    precision: Format
    limit: int
    """Bytes."""
    cell: Cell | None
    """None: not even eight atoms fit."""


def largest_cell(job: Job, limit: int) -> Cell | None:
    """Return the largest cell of MgO whose pass takes at most ``limit`` bytes, or None where not even 8 atoms fit.

    Raises ConfigError where memory cannot be limited, AtomslimError for a pass that fails for another reason.
    """
    require_free(limit, job.device)
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    return search(lambda atoms: _tried(job, atoms, limit))


def require_free(limit: int, device: torch.device) -> None:
    """Raise ConfigError for a limit that this system cannot keep, or that is more than is free."""
    on_cuda = device.type == "cuda"
    free = int(torch.cuda.mem_get_info(device)[0]) if on_cuda else free_memory()
    if free is None:
        raise ConfigError("largest: this system does not limit the memory of a process: leave it out")
    if not 0 < limit <= free:
        raise ConfigError(f"largest {limit} bytes: {free} bytes are free: give no more than that, and more than 0")


def search(fitting: Callable[[int], Cell | None]) -> Cell | None:
    """Return the largest cell that fits, by a test of numbers of atoms: doubling, then bisection."""
    found, low, high = None, 0, START
    while cell := fitting(high):
        found, low, high = cell, high, 2 * high
    while high - low > max(GAP * low, STEP):
        middle = (low + high) // 2 // STEP * STEP
        if cell := fitting(middle):
            found, low = cell, middle
        else:
            high = middle
    return found


def _tried(job: Job, atoms: int, limit: int) -> Cell | None:
    """Run the pass in a separate process; if it is killed or refused memory, the cell does not fit."""
    given = pickle.dumps((job, oxide(atoms), limit, torch.get_num_threads()))
    command = [sys.executable, "-m", "atomslim.benchmarking.largest"]
    done = subprocess.run(command, input=given, capture_output=True, check=False)  # noqa: S603 - this very module
    if done.returncode == TOO_LARGE or done.returncode < 0:
        return None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise AtomslimError(f"largest, {atoms} atoms: {said[-1] if said else f'exit status {done.returncode}'}")
    atoms, edges, memory = map(int, done.stdout.split()[-3:])
    return Cell(atoms, edges, memory if memory >= 0 else None)


def _run() -> int:
    """Run the pass on the standard input, and print its atoms, edges and memory."""
    job, atoms, limit, threads = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by `_tried`
    torch.set_num_threads(threads)
    keep_freed_memory()
    _pass(job, oxide(STEP))()  # libraries and threads are loaded before the limit
    limit_memory(limit, job.device)
    try:
        memory = peak_memory(_pass(job, atoms), job.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return TOO_LARGE
    edges = getattr(job.model.topology(from_ase(atoms), job.task), "main", ())
    print(len(atoms), len(edges), -1 if memory is None else memory)  # noqa: T201 - the answer
    return 0


def _pass(job: Job, atoms: Atoms) -> Callable[[], object]:
    batch = from_ase(atoms).to(job.device)

    def run() -> object:
        return job.on(batch, job.model.topology(batch, job.task))()

    return run


def limit_memory(limit: int, device: torch.device) -> None:
    """Limit the memory that this process takes beyond what it has, in bytes."""
    if device.type == "cuda":
        kept, whole = torch.cuda.memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min((kept + limit) / whole, 1.0), device)
        return
    give_back_freed_memory()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    data = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(_run())
