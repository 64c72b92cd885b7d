"""Runs checks on structures, one measurement a file, so that an interrupted run continues where it stopped."""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from rich.console import Console

from atomslim.arguments import checked
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.inference.named_calculators import Named, calculator_of
from atomslim.models.block_model import BlockModel
from atomslim.validation import folder as files
from atomslim.validation.checks import OTHER_KINDS, Check, Chosen, Verdict, chosen_checks, judge
from atomslim.validation.checks import checks as known_checks
from atomslim.validation.inputs import EndPoints, Structures, end_points_of, outside, structures_of
from atomslim.validation.measurement import DoesNotFitError, Measurement, NotDoneError, Subject
from atomslim.validation.reference import Against, Labels, reference_of
from atomslim.validation.result import Validation
from atomslim.validation.structures import kind_of


@checked
def validate(  # noqa: PLR0913 - what is checked, against what, and how
    model: Named,
    structures: Structures = None,
    *,
    against: Against | None = None,
    checks: str | Sequence[str] = "quick",
    task: str | None = None,
    end_points: str | os.PathLike[str] | tuple[Atoms, Atoms] | None = None,
    options: Mapping[str, str] | None = None,
    output: str | os.PathLike[str] | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Validation:
    """Check whether the physics of a model holds, alone and against a reference.

        atomslim.validate("small.safetensors", "water.xyz", against="full.safetensors", output="validation")

    Every check that applies to a structure's kind (molecule, crystal, slab, liquid) is made. What cannot be done is
    noted with the reason, and the others continue.

    Args:
        model: a model, its file, `ase:MODULE:CLASS?ARGUMENTS`, or an ASE calculator.
        structures: files or datasets as `atomslim predict` takes them (at most 10 structures of each, evenly spaced),
            or structures by name; default: three of the labelled data, else those of a built-in set whose elements
            the model knows.
        against: what the model is compared with: the same kinds of things, or labelled data (its file, folder,
            container, name, or samples), whose energies, forces and stress are compared with the model's.
        checks: ``quick``, ``full``, or names of checks.
        task: whose energy, where a model has several tasks.
        end_points: two structures between which a barrier is climbed, or the file that holds them.
        options: options of the labelled data's reader, such as ``energy_key``.
        output: a folder for measurements, report, JSON and figures; measurements found there are reused.
        device: where models run; default: their present device.
        progress: print on stderr what is being done.

    Raises:
        ConfigError: an unknown check, a calculator that is missing, end points that do not fit each other, or a
            folder that holds another validation.
        DataError: data without energies, forces and stress.
        StructureError: structures that cannot be read.

    """
    chosen = chosen_checks(checks)
    subjects = {"model": calculator_of(model, task=task, device=device)}
    reference = None if against is None else reference_of(against, task=task, device=device, options=options)
    labels = reference if isinstance(reference, Labels) else None
    if isinstance(reference, AseCalculator):
        subjects["reference"] = reference
    quick = all(which == "quick" for _, which in chosen)
    asked = any(not OTHER_KINDS.issuperset(check.kinds) for check, _ in chosen)
    frames = structures_of(structures, subjects["model"], labels, quick=quick) if asked else {}
    ends = end_points_of(end_points)
    _require_subjects(checks, chosen, labels, ends)
    names = {"model": _name(model)} | ({} if against is None else {"reference": _name(against)})
    folder = None
    if output is not None:
        folder = files.begin(Path(output), _identity(names, subjects, frames, labels, ends, task))
    run = _Run(subjects, folder, Console(stderr=True, quiet=not progress))
    run.notes += outside(subjects, frames, labels)
    run.make(_jobs(chosen, frames, labels, ends))
    if labels is not None:
        run.notes += _beyond_labels(labels, run.verdicts)
    result = run.result(names["model"], names.get("reference"))
    if folder is not None:
        from atomslim.validation.report import write  # noqa: PLC0415 - matplotlib is not needed without a folder

        write(result, folder)
    return result


@dataclass(frozen=True)
class _Job:
    """One check of one thing."""

    check: Check
    settings: Mapping[str, Any]
    name: str
    subject: Subject


class _Run:
    """Runs jobs one after the other, and keeps their results."""

    def __init__(self, subjects: Mapping[str, AseCalculator], folder: Path | None, console: Console) -> None:
        self.subjects, self.folder, self.console = subjects, folder, console
        self.verdicts: list[Verdict] = []
        self.not_done: list[tuple[str, str, str]] = []
        self.notes: list[str] = []
        self.curves: dict[tuple[str, str], tuple[Measurement, Measurement | None]] = {}
        self.seconds: dict[str, float] = {}
        self.incomplete: dict[str, None] = {}

    def result(self, model: str, against: str | None) -> Validation:
        """Return the result."""
        verdicts, not_done, notes = tuple(self.verdicts), tuple(self.not_done), tuple(dict.fromkeys(self.notes))
        missing = tuple(self.incomplete)
        return Validation(model, against, verdicts, not_done, self.curves, notes, self.seconds, missing)

    def make(self, jobs: Iterator[_Job]) -> None:
        """Measure model and reference, and judge."""
        for job in jobs:
            self.console.print(f"{job.check.name}: {job.name}", markup=False, highlight=False)
            found = self._asked(job, "model")
            if found is None:
                continue
            compared = job.check.needs_reference and "reference" in self.subjects
            reference = self._asked(job, "reference") if compared else None
            self.verdicts += judge(job.check, job.name, found, reference)
            self.not_done += [(job.check.name, job.name, note) for note in found.notes]
            self.notes += [f"{job.check.name}, {job.name}: {remark}" for remark in found.remarks]
            self.curves[job.check.name, job.name] = found, reference

    def _asked(self, job: _Job, who: str) -> Measurement | None:
        """Return the measurement; None if it cannot be done, keeping the reason."""
        check, found, seconds = job.check.name, None, 0.0
        try:
            found = _measured(job, who, self.subjects[who], self.folder)
            seconds = found.seconds
        except NotDoneError as error:
            seconds = error.seconds
            reason = str(error) if who == "model" else f"not compared, for the reference has none: {error}"
            self.not_done.append((check, job.name, reason))
            if not isinstance(error, DoesNotFitError):
                self.incomplete[check] = None
        self.seconds[check] = self.seconds.get(check, 0.0) + seconds
        return found


def _jobs(
    chosen: Sequence[Chosen], frames: Mapping[str, Atoms], labels: Labels | None, ends: EndPoints | None
) -> Iterator[_Job]:
    kinds = {name: kind_of(atoms) for name, atoms in frames.items()}
    for check, which in chosen:
        subjects: dict[str, Subject] = {}
        if labels is not None and "labels" in check.kinds:
            subjects[labels.name] = labels
        if ends is not None and "end points" in check.kinds:
            subjects[ends.name] = ends
        subjects |= {name: atoms for name, atoms in frames.items() if kinds[name] in check.kinds}
        for name, subject in subjects.items():
            if check.only in {None, name}:
                yield _Job(check, check.settings_of(which), name, subject)


def _measured(job: _Job, who: str, calculator: AseCalculator, folder: Path | None) -> Measurement:
    """Measure, or reuse an earlier measurement; raises NotDoneError, also if a calculator fails."""
    path = None if folder is None else files.measurement_path(folder, who, job.name, job.check.name, job.settings)
    if path is not None and files.is_whole(path):
        return files.kept(path)
    found = _timed(job, who, calculator)
    if path is not None:
        files.keep(path, found)
    if isinstance(found, NotDoneError):
        raise found
    return found


def _timed(job: _Job, who: str, calculator: AseCalculator) -> Measurement | NotDoneError:
    """Measure and time it; raises NotDoneError, which is not kept, if a calculator fails."""
    subject = job.subject.copy() if isinstance(job.subject, Atoms) else job.subject
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AtomslimWarning)
            found = job.check.function()(calculator, subject, job.settings)
    except NotDoneError as error:
        error.seconds = time.perf_counter() - begin
        return error
    except Exception as error:  # other calculators raise anything
        raise NotDoneError(f"the {who} failed: {' '.join(str(error).split()) or type(error).__name__}") from error
    return replace(found, seconds=time.perf_counter() - begin)


def _require_subjects(
    names: str | Sequence[str], chosen: Sequence[Chosen], labels: Labels | None, ends: EndPoints | None
) -> None:
    """Raise ConfigError for a check that was asked for by name but applies to nothing."""
    asked = {names} if isinstance(names, str) else set(names)
    for check, _ in chosen:
        if check.name in asked and check.kinds == ("labels",) and labels is None:
            raise ConfigError(f"check {check.name}: needs labelled data: give them with against")
        if check.name in asked and check.kinds == ("end points",) and ends is None:
            raise ConfigError(f"check {check.name}: needs two structures: give them as end points")


def _beyond_labels(labels: Labels, verdicts: Sequence[Verdict]) -> list[str]:
    """Say which checks would need a model or a calculator as reference, if there are only labels."""
    made = dict.fromkeys(verdict.check for verdict in verdicts)
    missed = [name for name in made if known_checks()[name].needs_reference]
    if not missed:
        return []
    what = f"not compared with {labels.name}, which has energies, forces and stress only: {', '.join(missed)}"
    return [f"{what}; their reference is a model or a calculator"]


def _identity(
    names: Mapping[str, str],
    subjects: Mapping[str, AseCalculator],
    frames: Mapping[str, Atoms],
    labels: Labels | None,
    ends: EndPoints | None,
    task: str | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "names": dict(names),
        "task": task,
        "subjects": {who: files.fingerprint(calculator) for who, calculator in subjects.items()},
        "structures": {name: files.identity_of(atoms) for name, atoms in frames.items()},
    }
    if labels is not None:
        found["labels"] = labels.fingerprint()
    if ends is not None:
        found["end points"] = [files.identity_of(atoms) for atoms in (ends.first, ends.last)]
    return found


def _name(source: Against) -> str:
    if isinstance(source, str | os.PathLike):
        return str(source)
    if isinstance(source, BlockModel | AseCalculator):
        return type(source).__name__
    return getattr(source, "name", "samples")
