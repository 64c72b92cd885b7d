"""Teachers: anything that labels structures, by name, as a file or as a Python object.

| source | is |
|---|---|
| `mini`, `sevennet:7net-0`, `model.safetensors`, a checkpoint | a model, as `atomslim.load` takes it |
| `ase:tblite.ase:TBLite?method=GFN2-xTB` | an ASE calculator by its import path |
| a model, an ASE calculator, a function that makes one | itself; in Python only, and in this process |

A named teacher works in separate processes, which are ended when it hangs, and may use another Python.
"""

import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from numpy.typing import NDArray

from atomslim.errors import AtomslimError, ConfigError
from atomslim.inference import calculator_process as plain
from atomslim.inference.calculator import Calculator
from atomslim.inference.named_calculators import parsed
from atomslim.labelling.outside import Outside
from atomslim.labelling.unlabelled import Hung, Unlabelled
from atomslim.models.block_model import BlockModel
from atomslim.models.elsewhere import CALCULATOR
from atomslim.words import article

Source: TypeAlias = str | os.PathLike[str] | BlockModel | AseCalculator | Callable[[], AseCalculator]
"""A teacher, or its name."""

Labels: TypeAlias = dict[str, NDArray[np.float64]]
"""Results by name: energy () eV, forces (n, 3) eV/Å, stress (6,) or (3, 3) eV/Å³, energies (n,) eV."""


class Session(Protocol):
    """A teacher at work, for one structure at a time."""

    @property
    def what(self) -> Mapping[str, Any]:
        """Versions and settings."""
        ...

    def ask(self, atoms: Atoms, *, brief: bool = False) -> Labels:
        """Give the labels of a structure; ``brief``: no energies of atoms.

        Raises:
            Unlabelled: it has none.
            ConfigError: the teacher does not work at all.

        """
        ...

    def seconds(self, atoms: Atoms) -> float:
        """Time a step of dynamics to these atoms, in the calculator only; raises as `ask` does."""
        ...

    def stop(self) -> None:
        """Wake up another thread that waits for labels; it gets none."""
        ...

    def close(self) -> None:
        """End the work."""
        ...


@dataclass(frozen=True)
class Teacher:
    """A source of labels."""

    name: str
    """As the user wrote it."""
    recipe: Mapping[str, Any] | None = None
    """What a separate process is told to make; None: it works in this one."""
    make: Callable[[], AseCalculator] | None = None
    """Makes it in this process."""
    python: str | None = None
    """Interpreter of its own process; None: this one."""
    again: bool = True
    """Whether it can be made again after a hang."""

    def begin(self, timeout: float | None = None, *, one_thread: bool = False) -> Session:
        """Start a session; a structure may take `timeout` seconds. Raises ConfigError if it cannot be made.

        ``one_thread`` makes a separate process use one thread, whatever the environment says.
        """
        if timeout is not None and timeout > threading.TIMEOUT_MAX:  # centuries
            timeout = None
        if self.recipe is not None:
            return _Apart(Outside(self.name, self.recipe, self.python, timeout, one_thread))
        return _Here(self, timeout)


def teacher_of(source: Source, *, task: str | None = None, python: str | os.PathLike[str] | None = None) -> Teacher:
    """Resolve a teacher.

    Args:
        source: a name, a file or an object, as above.
        task: name of the task head of a model that has several.
        python: the interpreter that a named teacher is installed in; it needs ASE and NumPy, and atomslim for models
            only.

    Raises:
        ConfigError: an invalid name, or an object with another interpreter.

    """
    if isinstance(source, str | os.PathLike):
        recipe = _recipe(os.fspath(source), task)
        return Teacher(os.fspath(source), recipe, python=None if python is None else os.fspath(python))
    if python is not None:
        raise ConfigError("teacher_python: an object of this Python cannot run in another: name the teacher")
    if isinstance(source, BlockModel):
        return Teacher("a model", make=lambda: Calculator(source, task=task))
    if isinstance(source, AseCalculator):
        return Teacher(_kind(source), make=lambda: source, again=False)
    if callable(source):
        return Teacher(getattr(source, "__qualname__", type(source).__name__), make=source)
    raise ConfigError(
        f"teacher: {article(type(source).__name__)} is not a model, calculator or function that makes one"
    )


def _recipe(name: str, task: str | None) -> dict[str, Any]:
    if not name.startswith(CALCULATOR):
        return {"model": name, "task": task}
    if task is not None:
        raise ConfigError(f"task {task}: {name} is a calculator, which has no tasks: leave it out")
    return dict(zip(("module", "attribute", "arguments"), parsed(name), strict=True))


def _kind(source: object) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


@dataclass
class _Apart:
    """A teacher in a separate process."""

    process: Outside

    @property
    def what(self) -> Mapping[str, Any]:
        return self.process.started()

    def ask(self, atoms: Atoms, *, brief: bool = False) -> Labels:
        return numbers(self.process.ask(atoms, brief=brief), len(atoms))

    def seconds(self, atoms: Atoms) -> float:
        return float(self.process.ask(atoms, timed=True)["seconds"])

    def stop(self) -> None:
        self.process.stop()

    def close(self) -> None:
        self.process.close()


@dataclass
class _Here:
    """A teacher in this process; one that hangs is left behind in its thread."""

    teacher: Teacher
    timeout: float | None
    what: Mapping[str, Any] = field(default_factory=dict)
    _calculator: AseCalculator | None = None

    def __post_init__(self) -> None:
        made = self._made()
        self.what = plain.identity(type(made).__module__, made)

    def _made(self) -> AseCalculator:
        if self._calculator is None:
            made = None if self.teacher.make is None else self.teacher.make()
            if not isinstance(made, AseCalculator):
                raise ConfigError(f"{self.teacher.name}: makes a {type(made).__name__}, not an ASE calculator")
            self._calculator = made
        return self._calculator

    def ask(self, atoms: Atoms, *, brief: bool = False) -> Labels:
        return numbers(self._done(lambda: plain.results(self._made(), atoms.copy(), brief=brief)), len(atoms))

    def seconds(self, atoms: Atoms) -> float:
        return float(self._done(lambda: {"seconds": plain.seconds(self._made(), atoms)})["seconds"])

    def _done(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return _within(self.timeout, work)
        except Hung as error:
            self._calculator = None
            if not self.teacher.again:
                raise AtomslimError(
                    f"{self.teacher.name}: {error}, and an object cannot be ended: give its name or a function that "
                    "makes it"
                ) from error
            raise
        except Exception as error:
            raise Unlabelled(plain.line(error)) from error

    def stop(self) -> None:
        """Do nothing: there is no other thread."""

    def close(self) -> None:
        self._calculator = None


def _within(seconds: float | None, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do some work, in a thread if it has a time limit; raises Hung if it takes longer."""
    if seconds is None:
        return work()
    done: queue.Queue[tuple[dict[str, Any] | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # noqa: BLE001 -- raised in the waiting thread
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = done.get(timeout=seconds)
    except queue.Empty:
        raise Hung(seconds) from None
    if error is not None:
        raise error
    return found or {}


_SHAPES: dict[str, Callable[[int], tuple[tuple[int, ...], ...]]] = {
    "energy": lambda _: ((), (1,)),
    "free_energy": lambda _: ((), (1,)),
    "forces": lambda n: ((n, 3),),
    "stress": lambda _: ((6,), (3, 3)),
    "energies": lambda n: ((n,), (n, 1)),
}


def numbers(found: Mapping[str, Any], natoms: int) -> Labels:
    """Convert a teacher's results to float64; raises Unlabelled for wrong shapes and for non-finite values."""
    result: Labels = {}
    for name, value in found.items():
        try:
            array = _floats(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise Unlabelled(f"{name} is not an array of numbers") from error
        allowed = _SHAPES[name](natoms)
        if array.shape not in allowed:
            raise Unlabelled(f"{name} has the shape {array.shape} where {allowed[0]} is expected")
        if not np.isfinite(array).all():
            raise Unlabelled(f"{name} is not finite")
        result[name] = array if name == "stress" else array.reshape(allowed[0])
    if "energy" not in result:
        raise Unlabelled("there is no energy")
    return result


def _floats(value: Any) -> NDArray[np.float64]:
    """Copy numbers; raises TypeError, ValueError or RuntimeError for anything else, complex ones and texts included."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{array.dtype} is not a real number")
    return array.astype(np.float64)
