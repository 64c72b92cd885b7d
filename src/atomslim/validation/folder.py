"""The folder of a validation: an identity, and one file per measurement."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator

from atomslim.errors import ConfigError
from atomslim.files import atomic_write, tidy
from atomslim.inference.calculator import Calculator
from atomslim.validation.measurement import DoesNotFitError, Measurement, NotDoneError


def begin(path: Path, identity: Mapping[str, Any]) -> Path:
    """Make the folder, or continue one with the same calculators and structures.

    Raises ConfigError for a folder that holds something else.
    """
    note = path / "run.json"
    if note.is_file():
        try:
            begun = json.loads(note.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{note}: cannot be read ({error}): name another folder") from error
        if begun != identity:
            raise ConfigError(
                f"{path}: holds the validation of another model, reference or structures: name another folder"
            )
        return path
    if path.is_dir():
        tidy(path, note.name)  # left by a run that was killed this early
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: holds something else: name a new folder")
    path.mkdir(parents=True, exist_ok=True)
    _write(note, json.dumps(identity, indent=1))
    return path


def measurement_path(folder: Path, who: str, structure: str, check: str, settings: Mapping[str, Any]) -> Path:
    """Return the path of a measurement; other settings, of another set or version, have other paths."""
    exact = _hash(json.dumps([structure, dict(settings)], sort_keys=True))[:8]
    return folder / "measurements" / f"{_slug(structure)}.{_slug(check)}.{exact}.{who}.json"


def keep(path: Path, found: Measurement | NotDoneError) -> None:
    """Write what was measured, or why it could not be done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(found, NotDoneError):
        fits = not isinstance(found, DoesNotFitError)
        content = {"not done": str(found), "fits": fits, "seconds": found.seconds}
    else:
        content = asdict(found)
    _write(path, json.dumps(content))


def is_whole(path: Path) -> bool:
    """Say whether there is a measurement; an unreadable one is made again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and (
        "not done" in content or {"numbers", "curves", "axes", "notes"} <= content.keys()
    )


def kept(path: Path) -> Measurement:
    """Read what was measured; raises NotDoneError if it could not be done."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if "not done" in content:
        error = (NotDoneError if content.get("fits", True) else DoesNotFitError)(content["not done"])
        error.seconds = content.get("seconds", 0.0)
        raise error
    return Measurement(
        content["numbers"],
        {key: (x, y) for key, (x, y) in content["curves"].items()},
        tuple(content["axes"]),
        tuple(content["notes"]),
        tuple(content.get("remarks", ())),
        content.get("seconds", 0.0),
    )


def fingerprint(calculator: AseCalculator) -> str:
    """Return a hash of weights and task, or of a calculator's class and parameters."""
    if not isinstance(calculator, Calculator):
        kind = type(calculator)
        return f"{kind.__module__}.{kind.__qualname__} {sorted(map(str, calculator.parameters.items()))}"
    digest = hashlib.sha256(calculator.task.model_dump_json().encode())
    for name, tensor in calculator.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def identity_of(atoms: Atoms) -> str:
    """Return a hash of elements, positions and cell."""
    return _hash(repr((atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.tolist(), atoms.pbc.tolist())))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:80]
