"""The program of a calculator's own process: structures come in by stdin, labels go out by stdout, as plain numbers.

Any Python with ASE and NumPy runs it, `python calculator_process.py`: nothing else of atomslim is needed, unless
the calculator is an atomslim model. A message is the length of a head (4 bytes, little-endian), the head in JSON,
and the bytes of the arrays that it lists; so nothing that arrives is ever executed.

| message | head | arrays |
|---|---|---|
| first, in | module, attribute and arguments of a calculator; or model and task | |
| answer | what it is: names, versions, settings; or `failed` | |
| each, in | names and texts of `info`; `timed`, `brief` | numbers, positions, cell, pbc, other arrays of the atoms |
| answer | {}; or `error` | the results that there are; of what is `timed`, the seconds of a step |
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import sys
import threading
import time
from functools import partial
from importlib import import_module, metadata
from operator import attrgetter
from typing import TYPE_CHECKING, Any, BinaryIO

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RESULTS = ("energy", "free_energy", "forces", "stress", "energies")
"""Properties asked of a calculator, if it has them; stress if there is a volume."""

_MORE = ("energies",)

_LENGTH = struct.Struct("<I")
_LONGEST = 300


def build(module: str, attribute: str, arguments: Mapping[str, Any]) -> Calculator:
    """Make a calculator from a class or a function of a module.

    Raises:
        ValueError: the package is missing, it has no such attribute, that takes no such arguments, or it makes
            something other than an ASE calculator.

    """
    try:
        make = attrgetter(attribute)(import_module(module))  # perhaps a class and its method, with a dot
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{error}: is the package installed here?") from error
    try:
        made = make(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{attribute} does not take these arguments: {error}") from error
    if not isinstance(made, Calculator):
        raise ValueError(f"{attribute} makes a {type(made).__name__}, not an ASE calculator")  # noqa: TRY004
    return made


def results(calculator: Calculator, atoms: Atoms, *, brief: bool = False) -> dict[str, Any]:
    """Compute a structure's results from scratch; raises whatever the calculator raises.

    ``brief`` leaves out what dynamics do not need: atomic energies.
    """
    names = [name for name in RESULTS if name in calculator.implemented_properties and not (brief and name in _MORE)]
    if not (atoms.pbc.any() and atoms.cell.rank == 3):
        names = [name for name in names if name != "stress"]
    _forget(calculator)
    try:
        calculator.calculate(atoms, names, all_changes)
    except NotImplementedError:  # for one of them
        _forget(calculator)
        return {name: value for name in names if (value := _single(calculator, atoms, name)) is not None}
    return {name: calculator.results[name] for name in names if name in calculator.results}


def seconds(calculator: Calculator, atoms: Atoms) -> float:
    """Time a step of dynamics: the forces of atoms that moved, with whatever the calculator keeps between steps."""
    moved = atoms.copy()
    moved.calc = calculator
    start = time.perf_counter()
    moved.get_forces()
    return time.perf_counter() - start


def _forget(calculator: Calculator) -> None:
    """Forget another structure, or a failed step: neither may change the next answer."""
    if hasattr(calculator, "reset"):
        calculator.reset()


def _single(calculator: Calculator, atoms: Atoms, name: str) -> Any:
    try:
        return calculator.get_property(name, atoms)
    except PropertyNotImplementedError:
        return None


def identity(module: str, calculator: Calculator) -> dict[str, Any]:
    """Say what a calculator is: its package and version, or its file's checksum, and its settings."""
    package = module.partition(".")[0]
    found = {**_version(package, module), "python": platform.python_version(), "ase": ase.__version__}
    found["numpy"] = np.__version__
    parameters = getattr(calculator, "parameters", None) or {}
    settings = {str(name): str(value)[:_LONGEST] for name, value in dict(parameters).items()}
    return {"versions": found, "settings": settings}


def _version(package: str, module: str) -> dict[str, str]:
    names = metadata.packages_distributions().get(package, []) if hasattr(metadata, "packages_distributions") else []
    for name in names or [package]:
        try:
            return {name: metadata.version(name)}
        except metadata.PackageNotFoundError:
            continue
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return {package: "unknown"}
    with open(file, "rb") as source:  # noqa: PTH123 -- as short as can be
        return {module: f"sha256 {hashlib.sha256(source.read()).hexdigest()}"}


class _Said(Exception):  # noqa: N818 -- its text is the line
    """An error in our own words."""


def line(error: BaseException) -> str:
    """Give an error in one line; atomslim's own errors already are."""
    ours = isinstance(error, _Said) or any(kind.__name__ == "AtomslimError" for kind in type(error).__mro__)
    text = " ".join((str(error) if ours else f"{type(error).__name__}: {error}").split())
    return text.rstrip(": ") if len(text) <= _LONGEST else text[:_LONGEST] + " …"


# -- messages


def pack(head: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Make a message; raises TypeError or ValueError for arrays that hold no numbers."""
    plain = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    for name, value in plain.items():
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{name} is not an array of numbers")
    listed = {name: [value.dtype.str, np.shape(arrays[name])] for name, value in plain.items()}
    text = json.dumps({**head, "arrays": listed}).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *(value.tobytes() for value in plain.values())])


def unpack(file: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read a message from what has `read(n)`, which gives less only at the end; None at the end."""
    length = file.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    head = json.loads(file.read(_LENGTH.unpack(length)[0]))
    arrays = {}
    for name, (kind, shape) in head.pop("arrays").items():
        dtype = np.dtype(kind)
        data = file.read(dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        arrays[name] = np.frombuffer(data, dtype).reshape(shape)
    return head, arrays


def of_atoms(atoms: Atoms, **head: Any) -> bytes:
    """Make the message of a structure: its arrays of numbers, and the numbers and texts that come with it."""
    arrays = {name: value for name, value in atoms.arrays.items() if value.dtype.kind in "biuf"}
    info = {name: value for name, value in atoms.info.items() if isinstance(value, (bool, int, float, str))}
    return pack({"info": info, **head}, {**arrays, "cell": atoms.cell.array, "pbc": atoms.pbc})


def to_atoms(head: Mapping[str, Any], arrays: dict[str, Any]) -> Atoms:
    """Make the structure of a message."""
    names = ("numbers", "positions", "cell", "pbc")
    atoms = Atoms(**{name: arrays[name] for name in names}, info=dict(head["info"]))
    for name, value in arrays.items():
        if name not in names:
            atoms.set_array(name, np.array(value))
    return atoms


# -- the program


def main() -> None:
    """Answer until the input ends, or the parent process is gone."""
    _forget_own_folder()
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of a calculator is not a message
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    first = unpack(source)
    if first is None:
        return
    try:
        calculator, what = _calculator(first[0])
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a package raises
        _send(target, pack({"failed": line(error)}, {}))
        return
    _send(target, pack(what, {}))
    while (message := unpack(source)) is not None:
        work = _timed if message[0].get("timed") else partial(results, brief=bool(message[0].get("brief")))
        _send(target, _answer(work, calculator, to_atoms(*message)))


def _forget_own_folder() -> None:
    """Remove this file's folder from the module search path: the calculator must not import its neighbours."""
    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- as Python writes it
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != own]  # noqa: PTH100


def _calculator(what: Mapping[str, Any]) -> tuple[Calculator, dict[str, Any]]:
    if "model" in what:
        return _model(what["model"], what["task"])
    try:
        made = build(what["module"], what["attribute"], what["arguments"])
    except ValueError as error:
        raise _Said(str(error)) from error
    return made, identity(what["module"], made)


def _model(name: str, task: str | None) -> tuple[Calculator, dict[str, Any]]:
    """Make the calculator of an atomslim model; atomslim must be installed here."""
    try:
        calculators = import_module("atomslim.inference.calculator")
    except ImportError as error:
        raise _Said(f"{error}: a model needs atomslim in this Python, a calculator (ase:…) does not") from error
    registry, described = import_module("atomslim.models.registry"), import_module("atomslim.models.metadata")
    made = calculators.Calculator(name, task=task)
    path, family = registry.located(name)
    versions = described.versions(family) | {"sha256": described.checksum(path)}
    return made, {"versions": versions, "settings": {"task": made.task.name}}


def _timed(calculator: Calculator, atoms: Atoms) -> dict[str, Any]:
    return {"seconds": seconds(calculator, atoms)}


def _answer(work: Callable[[Calculator, Atoms], dict[str, Any]], calculator: Calculator, atoms: Atoms) -> bytes:
    try:
        return pack({}, work(calculator, atoms))
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- one structure's error, whatever it is
        return pack({"error": line(error)}, {})


def _send(target: BinaryIO, message: bytes) -> None:
    target.write(message)
    target.flush()


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, in the middle of a calculation too."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
