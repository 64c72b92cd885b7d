"""The last stages: the student at its final path, its speed beside the teacher, and the validation."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from ase.calculators.calculator import Calculator as AseCalculator

from atomslim.benchmarking.steps import Steps, of_different_sizes
from atomslim.benchmarking.turns import Gain, take_turns
from atomslim.errors import AtomslimError
from atomslim.files import atomic_write
from atomslim.inference import calculator_process as plain
from atomslim.inference.calculator import Calculator
from atomslim.inference.package import package
from atomslim.labelling.changes import repeated
from atomslim.labelling.dynamics import Asked, time_step
from atomslim.labelling.unlabelled import Unlabelled
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import save
from atomslim.models.modes import parameter_count
from atomslim.report.page import number
from atomslim.slimming.rounds import stages_of_dynamics, students
from atomslim.slimming.work import Work
from atomslim.threads import one_thread
from atomslim.validation.report import table_of
from atomslim.validation.run import validate
from atomslim.words import number_of

MODEL, VALIDATION, PACKAGE = "model.safetensors", "validation.json", "model.pt2"

STRUCTURES, ROUNDS = 2, 7
"""Most given structures for the validation; rounds of timing."""


def deliver(work: Work) -> None:
    """Write the model with its history, time it beside the teacher, and compile a package if asked for."""
    if "model" in work.done:
        return
    with work.journal.stage("model", MODEL) as facts:
        model = work.student(students(work)[-1])
        model.history = [*model.history, _entry(work)]
        save(model, work.folder / MODEL)
        facts |= {"student": MODEL, "parameters": parameter_count(model)}
        facts.update(_speed(work, model))
        if work.options.package:
            found = package(model, work.folder / PACKAGE)
            facts["package"] = {"energy": found.energy, "forces": found.forces}


def check(work: Work) -> None:
    """Validate the model against the teacher on given structures, and write validation.json."""
    if "validation" in work.done:
        return
    with work.journal.stage("validation", f"{', '.join(work.options.checks)} against {work.teacher.name}") as facts:
        some = of_different_sizes(work.structures, STRUCTURES)
        frames = {f"{atoms.get_chemical_formula()} ({number_of(len(atoms), 'atom')})": atoms for atoms in some}
        with work.asking() as session:
            found = validate(
                str(work.folder / MODEL),
                frames,
                against=_reference(work, session),
                checks=work.options.checks,
                output=work.work_folder / "validation",
                progress=work.progress,
            )
        text = (work.work_folder / "validation" / VALIDATION).read_text(encoding="utf-8")
        content = json.loads(text.replace(str(work.folder / MODEL), MODEL))
        content |= {"model": MODEL, "against": work.teacher.name, **_own(work)}
        with atomic_write(work.folder / VALIDATION) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        sentence = found.sentence().replace(str(work.folder / MODEL), MODEL)
        facts |= {"sentence": sentence, "lines": found.lines(), "passed": found.passed}
        tables = [table_of(found, name) for name in dict.fromkeys(verdict.check for verdict in found.verdicts)]
        facts["tables"] = [[one.title, one.note, one.columns, one.rows] for one in tables]


def bars(work: Work) -> dict[str, tuple[str, str, bool]]:
    """Return what was asked for, what was measured, and whether the bar is met."""
    options, found = work.options, work.done[students(work)[-1]]["held out"]
    speed = work.done["model"]
    rows = {
        "forces, held out": (
            f"≤ {options.force_bar:g} % of the rms force",
            f"{number(found['share'], 2)} % ({number(found['forces'])} of {number(found['rms'])} meV/Å)",
            found["share"] <= options.force_bar,
        ),
        "energy, held out": (
            f"≤ {options.energy_bar:g} meV/atom",
            f"{number(found['energy'])} meV/atom",
            found["energy"] <= options.energy_bar,
        ),
    }
    moved = stages_of_dynamics(work)
    if moved:
        last = work.done[moved[-1]]
        said = f"{last['unstable']} of {last['runs']}, {number_of(last['steps'], 'step')} each"
        rows["unstable runs"] = ("0", said, not last["unstable"])
    if not options.student:
        rows["speed"] = (str(options.target), _said(speed), _reached(work, speed))
    return rows


def _said(speed: Mapping[str, Any]) -> str:
    gain = Gain.read(speed["gain"])
    return f"{number(speed['milliseconds'])} ms a step, teacher {number(speed['teacher'])} ms: {gain}"


def _reached(work: Work, speed: Mapping[str, Any]) -> bool:
    gain = Gain.read(speed["gain"])
    return work.options.target.reached(speed["milliseconds"], gain, speed["time step"]) >= 1


def _own(work: Work) -> dict[str, Any]:
    """Return the results of the run itself, for validation.json."""
    moved = {
        name: {key: work.done[name][key] for key in ("runs", "unstable", "steps")} for name in stages_of_dynamics(work)
    }
    rows = {name: {"bar": bar, "found": found, "passed": good} for name, (bar, found, good) in bars(work).items()}
    return {"held out": work.done[students(work)[-1]]["held out"], "dynamics": moved, "bars": rows}


def _reference(work: Work, session: Any) -> Any:
    """Return the teacher for validation; as a calculator if it runs in another Python or is made by a function."""
    options = work.options
    here = options.teacher_python is None and options.task is None
    if here and isinstance(work.source, str | BlockModel | AseCalculator):
        return work.source
    return Asked(session)


def _entry(work: Work) -> dict[str, Any]:
    teacher = {"name": work.teacher.name, **work.done["teacher"]["what"]}
    return {"operation": "slim", "changes outputs": True, "teacher": teacher, "seconds": round(work.journal.seconds, 1)}


def _speed(work: Work, model: BlockModel) -> dict[str, Any]:
    """Time steps of model and teacher in turns, with one thread, on the given structures."""
    atoms = of_different_sizes([repeated(one, work.options.width) for one in work.structures], 1)
    session = work.teacher.begin(work.options.timeout, one_thread=True)
    try:
        with one_thread():
            teacher = Steps(session.seconds, atoms)
            student = Steps(partial(plain.seconds, Calculator(model)), atoms)
            take_turns([teacher, student], ROUNDS)
    except Unlabelled as reason:
        raise AtomslimError(f"{work.teacher.name}: no step to compare the student's with: {reason}") from reason
    finally:
        session.close()
    gain = Gain.of(teacher.times, student.times, 1.0)
    times = {"milliseconds": 1e3 * min(student.times), "teacher": 1e3 * min(teacher.times)}
    return {**times, "gain": gain.as_dict(), "time step": time_step(atoms[0]), "atoms": len(atoms[0])}
