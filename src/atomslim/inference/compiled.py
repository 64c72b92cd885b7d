"""Machine code for a running calculator: compiled beside the run, cached for the next one, used if it is faster.

After some steps the calculator's task is compiled by `atomslim.inference.package` in a separate process, into the
user's cache: ``$ATOMSLIM_CACHE``, else ``$XDG_CACHE_HOME/atomslim``, else ``~/.cache/atomslim``. A package is named
after everything it depends on: weights, task, dtype, device, threads, the processor's instructions, versions. It
takes over at a step that the model computed as well, if both agree. Any problem gives one message, and the
model continues: a compiler that is missing, fails or hangs, a folder that cannot be written, a damaged package, a model
whose weights change in the run.
"""

import atexit
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from torch import Tensor

from atomslim import __version__
from atomslim.atoms import AtomsBatch, Pairs
from atomslim.atoms.neighbours import update_distances, within
from atomslim.errors import AtomslimError, ConfigError, one_line
from atomslim.files import DAMAGED_ZIP
from atomslim.inference.compiler import require_compiler
from atomslim.inference.program import inputs_of
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.model_file import encoded
from atomslim.models.tasks import Task
from atomslim.threads import fitting

Compiling = Literal["auto", "off"]
"""Whether a calculator compiles."""

AFTER = 50
"""Steps after which a run is long enough to compile for."""

ENERGY_TOLERANCE, FORCE_TOLERANCE = 1e-5, 1e-4
"""Largest jump of energy (eV per atom) and forces (eV/Å, or relative to the largest): rounding of float32."""

FASTER = 1.1
"""Least speed-up of a package over the model."""

TURNS = 3
"""Passes that are timed."""

LONGEST = 2 * 3600
"""Seconds after which a compiler counts as hung."""

Results = dict[str, float | NDArray[np.float64]]

Run = Callable[..., Sequence[Tensor]]


class Compiled:
    """Called by a calculator at every step: `answer` before the model, `look` after it."""

    def __init__(self, model: BlockModel, task: Task, say: Callable[[str], None]) -> None:
        """Make it for one task of a model; ``say`` takes messages."""
        self.model, self.task, self.say = model, task, say
        self.steps = 0
        self.run: Run | None = None
        self._weights = [*model.parameters(), *model.buffers()]
        self._versions = versions(self._weights)
        self._job: Job | None = None
        self._decided = False
        self._seconds: list[float] = []

    def answer(self, batch: AtomsBatch, pairs: Pairs, atoms: Atoms) -> tuple[Results, Pairs] | None:
        """Return the package's results for a structure, and its pairs within the cutoff; None leaves it to the model.

        That is: no package yet, no two atoms within the cutoff, or numbers that are not finite, which the model
        reports.
        """
        if self.run is None or self._changed():
            return None
        close = self._close(batch, pairs)
        if not len(close):  # a package needs a pair
            return None
        try:
            results = results_of(self.run(*self._inputs(batch, close)), atoms)
        except RuntimeError as error:
            self.run = None
            self.say(f"the package fails, the model continues: {one_line(error)}")
            return None
        return (results, close) if results else None

    def look(self, batch: AtomsBatch, pairs: Pairs, results: Results, seconds: float) -> None:
        """Take the model's results for a structure and their time; start compiling, or switch to a package."""
        if self._changed():
            return
        self.steps += 1
        self._seconds = [*self._seconds[1 - TURNS :], seconds]
        if self._job is None and self.steps == AFTER:
            threads = fitting(self.model, batch.num_atoms, torch.get_num_threads())
            self._job = Job(self.model, self.task, threads, self.say)
        if self._job is not None and not self._decided and (made := self._job.outcome) is not None:
            self._decided = True
            self._take(made, batch, pairs, results)

    def _take(self, made: Path | str, batch: AtomsBatch, pairs: Pairs, results: Results) -> None:
        """Switch to a package if it agrees with the model's last results, in less time; otherwise say why not."""
        close = self._close(batch, pairs)
        if isinstance(made, str) or not len(close):
            self.say(f"not compiled, the model continues: {made if len(close) else 'no two atoms are neighbours'}")
            return
        try:
            run = torch._inductor.aoti_load_package(str(made))  # noqa: SLF001 - its documented name
            inputs = self._inputs(batch, close)
            outputs, times = run(*inputs), []
            for _ in range(TURNS):
                start = time.perf_counter()
                run(*inputs)
                times.append(time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run continues
            self.say(f"not compiled, the model continues: {one_line(error)}")
            return
        gain = min(self._seconds) / min(times)
        if (problem := difference(outputs, results, batch)) or gain < FASTER:
            self.say(f"not compiled, the model continues: {problem or f'{gain:.1f} × as fast for this structure'}")
            return
        self.run = run
        self.say(f"compiled from here on, {gain:.1f} × as fast, and the same to rounding ({made})")

    def _changed(self) -> bool:
        """Say whether the model's weights have changed since the start; then the package is dropped."""
        if self._weights and self._versions != versions(self._weights):
            self._weights, self.run = [], None
            self.say("not compiled, the model continues: its weights were changed; a new calculator compiles again")
        return not self._weights

    def _close(self, batch: AtomsBatch, pairs: Pairs) -> Pairs:
        return within(update_distances(pairs, batch), batch, self.task.graph.cutoff)

    def _inputs(self, batch: AtomsBatch, close: Pairs) -> list[Tensor]:
        device = next(self.model.parameters()).device
        return [tensor.to(device) for tensor in inputs_of(batch, close)]


class Job:
    """Finds a package in the cache or makes it, in a thread; `outcome` is its path, or the error."""

    def __init__(self, model: BlockModel, task: Task, threads: int, say: Callable[[str], None]) -> None:
        """Start, without waiting; the package will use so many threads. ``say`` is called if it must be compiled."""
        self.outcome: Path | str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._threads, self._say = threads, say
        atexit.register(self.end)
        threading.Thread(target=self._work, args=(model, task), daemon=True).start()

    def end(self) -> None:
        """End the compiler with the run."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _work(self, model: BlockModel, task: Task) -> None:
        try:
            self.outcome = self._made(model, task)
        except (AtomslimError, OSError, ValueError) as error:
            self.outcome = one_line(error) if not isinstance(error, AtomslimError) else str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run continues
            self.outcome = one_line(error)

    def _made(self, model: BlockModel, task: Task) -> Path:
        family_of(model).require("packages")
        content = encoded(model)
        package = cache_folder() / f"{key(content, model, task, self._threads)}.pt2"
        if package.is_file() and not damaged(package):
            return package
        require_compiler()
        package.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._say("compiling for the steps to come, in the background: minutes")
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.safetensors"
            weights.write_bytes(content)
            device = next(model.parameters()).device
            self._compile([str(weights), str(package), task.name, str(device)])
        return package

    def _compile(self, arguments: list[str]) -> None:
        """Compile in a separate process; raises ConfigError with its last line on failure."""
        code = "from atomslim.inference.compile_job import main; main()"
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        self._process = subprocess.Popen(  # noqa: S603 - this Python, and files of ours
            [sys.executable, "-c", code, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _, errors = self._process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired as error:
            self._process.terminate()
            raise ConfigError(f"the compiler took more than {LONGEST / 3600:g} h, and was ended") from error
        if self._process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines()
            raise ConfigError(lines[-1][:300] if lines else f"the compiler ended with {self._process.returncode}")


def results_of(outputs: Sequence[Tensor], atoms: Atoms) -> Results:
    """Return a package's outputs as ASE's results, on the CPU; nothing where a number is not finite."""
    energy, forces, *derivative = (tensor.cpu() for tensor in outputs)
    results: Results = {"energy": float(energy), "free_energy": float(energy), "forces": forces.numpy()}
    if derivative and atoms.pbc.any() and atoms.cell.rank == 3:
        results["stress"] = full_3x3_to_voigt_6_stress(derivative[0].numpy() / atoms.cell.volume)
    return results if all(np.isfinite(value).all() for value in results.values()) else {}


def damaged(package: Path) -> bool:
    """Say whether a package is an incomplete archive, as after a full disk or a crash."""
    try:
        with zipfile.ZipFile(package) as archive:
            return archive.testzip() is not None
    except DAMAGED_ZIP:
        return True


def versions(weights: Sequence[Tensor]) -> list[int]:
    """Return versions that change when weights are written to; inference tensors are not watched."""
    return [0 if weight.is_inference() else weight._version for weight in weights]  # noqa: SLF001 - there is no other


def difference(outputs: Sequence[Tensor], results: Results, batch: AtomsBatch) -> str:
    """Say where a package disagrees with the model on the same structure; empty if nowhere."""
    energy, forces = float(outputs[0]), outputs[1].cpu().numpy()
    expected = np.asarray(results["forces"])
    allowed = ENERGY_TOLERANCE * len(forces) + 1e-7 * abs(energy)
    if not abs(energy - float(results["energy"])) <= allowed:
        return f"it gives a different energy, by {abs(energy - float(results['energy'])):.1e} eV"
    off = float(np.abs(forces - expected).max())
    if not off <= FORCE_TOLERANCE * max(1.0, float(np.abs(expected).max())):
        return f"it gives different forces, by {off:.1e} eV/Å"
    if "stress" in results and len(outputs) > 2:
        virial = float(torch.linalg.det(batch.cell[0]).abs()) * np.asarray(results["stress"])
        off = float(np.abs(full_3x3_to_voigt_6_stress(outputs[2].cpu().numpy()) - virial).max())
        if not off <= FORCE_TOLERANCE * max(float(len(forces)), float(np.abs(virial).max())):
            return f"it gives a different stress, by {off:.1e} eV over the cell"
    return ""


def left_out(close: Pairs, neighbours: int | None) -> float:
    """Return the fraction of pairs within the cutoff that the neighbour cap leaves out."""
    if neighbours is None:
        return 0.0
    counts = torch.bincount(close.target)
    return 1.0 - float(counts.clamp(max=neighbours).sum()) / len(close)


def cache_folder() -> Path:
    """Return the cache folder, which need not exist."""
    if own := os.environ.get("ATOMSLIM_CACHE"):
        return Path(own).expanduser() / "packages"
    shared = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(shared) / "atomslim" / "packages"


def key(content: bytes, model: BlockModel, task: Task, threads: int) -> str:
    """Return the name of a package: a digest of everything it depends on."""
    weight = next(model.parameters())
    described: dict[str, Any] = {
        "model": hashlib.sha256(content).hexdigest(),
        "task": task.name,
        "dtype": str(weight.dtype),
        "device": torch.cuda.get_device_name(weight.device) if weight.device.type == "cuda" else weight.device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "versions": [__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
