"""Runs checks on structures, one measurement a file, so that an interrupted run goes on where it was."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.calculators.calculator import Calculator as AseCalculator
from rich.console import Console

from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError
from atomslim.files import atomic_write
from atomslim.inference.calculator import Calculator
from atomslim.inference.inputs import open_inputs, read_inputs
from atomslim.inference.named_calculators import Named, calculator_of
from atomslim.validation.checks import Check, Set, Verdict, chosen_checks, judge
from atomslim.validation.measurement import Measurement, NotDoneError
from atomslim.validation.result import Validation
from atomslim.validation.structures import built_in, kind_of

MOST_STRUCTURES = 10
"""Of a file, evenly spread: a check can take minutes for each."""


def validate(
    model: Named,
    structures: str | os.PathLike[str] | Sequence[Any] | Mapping[str, Atoms] | None = None,
    *,
    against: Named | None = None,
    checks: str | tuple[str, ...] = "quick",
    task: str | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Validation:
    """Check whether the physics of a model holds, by itself and against a reference.

        atomslim.validate("small.safetensors", "water.xyz", against="full.safetensors", output="validation")

    Every check that fits a structure's kind (molecule, crystal, slab, liquid) is made. What cannot be done is noted
    with the reason, and the others go on.

    Args:
        model: a model, its file, `ase:MODULE:CLASS?ARGUMENTS`, or an ASE calculator.
        structures: files or datasets as `atomslim predict` takes them (at most 10 structures of each, evenly spread),
            or structures by name; default: those of a built-in set whose elements the model knows.
        against: what the model is compared with; the same kinds of things.
        checks: ``quick``, ``full``, or names of checks.
        task: whose energy, where a model has several tasks.
        output: a folder for measurements, report, JSON and figures; measurements found there are not made again.
        progress: say on stderr what is being done.

    Raises:
        ConfigError: an unknown check, a calculator that is not there, or a folder that holds another validation.
        StructureError: structures that cannot be read.

    """
    wanted, which = chosen_checks(checks)
    subjects = {"model": calculator_of(model, task=task)}
    frames = _structures(structures, subjects["model"], which)
    if against is not None:
        subjects["reference"] = calculator_of(against, task=task)
    names = {who: _name(source) for who, source in (("model", model), ("reference", against)) if source is not None}
    folder = None if output is None else _folder(Path(output), names, subjects, frames, task)
    console = Console(stderr=True, quiet=not progress)
    verdicts: list[Verdict] = []
    not_done: list[tuple[str, str, str]] = []
    curves: dict[tuple[str, str], tuple[Measurement, Measurement | None]] = {}
    for check, name, atoms in _jobs(wanted, frames):
        console.print(f"{check.name}: {name}", markup=False, highlight=False)
        try:
            asked = subjects if check.needs_reference else {"model": subjects["model"]}
            found = {who: _measured(check, which, name, atoms, who, calc, folder) for who, calc in asked.items()}
        except NotDoneError as error:
            not_done.append((check.name, name, str(error)))
            continue
        reference = found.get("reference")
        verdicts += judge(check, name, found["model"], reference)
        not_done += [(check.name, name, note) for note in found["model"].notes]
        curves[check.name, name] = found["model"], reference
    result = Validation(names["model"], names.get("reference"), tuple(verdicts), tuple(not_done), curves)
    if folder is not None:
        from atomslim.validation.report import write  # noqa: PLC0415 - matplotlib is not needed without a folder

        write(result, folder)
    return result


def _jobs(checks: Sequence[Check], frames: Mapping[str, Atoms]) -> Iterator[tuple[Check, str, Atoms]]:
    for check in checks:
        for name, atoms in frames.items():
            if kind_of(atoms) in check.kinds and check.only in {None, name}:
                yield check, name, atoms


def _measured(
    check: Check, which: Set, name: str, atoms: Atoms, who: str, calculator: AseCalculator, folder: Path | None
) -> Measurement:
    """Measure, or take what an earlier run measured; raises NotDoneError, also where a calculator fails."""
    path = None if folder is None else folder / "measurements" / f"{_slug(name)}.{_slug(check.name)}.{which}.{who}.json"
    if path is not None and path.is_file():
        return _kept(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AtomslimWarning)
            found = check.function()(calculator, atoms.copy(), check.settings_of(which))
    except NotDoneError as error:
        _keep(path, {"not done": str(error)})
        raise
    except (AtomslimError, CalculationFailed, RuntimeError, ValueError, ArithmeticError, NotImplementedError) as error:
        raise NotDoneError(f"the {who} failed: {' '.join(str(error).split()) or type(error).__name__}") from error
    _keep(path, asdict(found))
    return found


def _keep(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _kept(path: Path) -> Measurement:
    content = json.loads(path.read_text(encoding="utf-8"))
    if "not done" in content:
        raise NotDoneError(content["not done"])
    return Measurement(
        content["numbers"],
        {key: (x, y) for key, (x, y) in content["curves"].items()},
        tuple(content["axes"]),
        tuple(content["notes"]),
    )


def _structures(given: Any, calculator: AseCalculator, which: Set) -> dict[str, Atoms]:
    if given is None:
        found = built_in(_elements(calculator), quick=which == "quick")
        if not found:
            raise ConfigError("the model knows no built-in structure's elements: name structures")
        return found
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str | os.PathLike):
        given = [given]
    found = {}
    for number, one in enumerate(given):
        if isinstance(one, Atoms):
            found[f"structure {number}"] = one
            continue
        frames = list(read_inputs(open_inputs([str(one)])))
        step = max(1, -(-len(frames) // MOST_STRUCTURES))
        found |= {frame.name: frame.atoms for frame in islice(frames, 0, None, step)}
    return found


def _elements(calculator: AseCalculator) -> set[int] | None:
    """Return the elements that a model's references know; None where it has none."""
    targets = calculator.task.targets if isinstance(calculator, Calculator) else ()
    return next((set(target.references) for target in targets if target.references), None)


def _folder(
    path: Path,
    names: Mapping[str, str],
    subjects: Mapping[str, AseCalculator],
    frames: Mapping[str, Atoms],
    task: str | None,
) -> Path:
    """Make the folder, or go on in one that was begun with the same calculators and structures."""
    texts = {name: repr((a.numbers.tolist(), a.positions.tolist(), a.cell.tolist())) for name, a in frames.items()}
    identity = {
        "names": dict(names),
        "task": task,
        "subjects": {who: _fingerprint(calculator) for who, calculator in subjects.items()},
        "structures": {name: _hash(text) for name, text in texts.items()},
    }
    note = path / "run.json"
    if note.is_file():
        if json.loads(note.read_text(encoding="utf-8")) != identity:
            raise ConfigError(
                f"{path}: holds the validation of another model, reference or structures: name another folder"
            )
        return path
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: holds something else: name a new folder")
    path.mkdir(parents=True, exist_ok=True)
    with atomic_write(note) as temporary:
        temporary.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return path


def _fingerprint(calculator: AseCalculator) -> str:
    """Return a hash of weights and task, or of a calculator's class and parameters."""
    if not isinstance(calculator, Calculator):
        kind = type(calculator)
        return f"{kind.__module__}.{kind.__qualname__} {sorted(map(str, calculator.parameters.items()))}"
    digest = hashlib.sha256(calculator.task.model_dump_json().encode())
    for name, tensor in calculator.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name(source: Named) -> str:
    if isinstance(source, str | os.PathLike):
        return str(source)
    return type(source).__name__


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
