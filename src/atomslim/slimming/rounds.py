"""On-policy rounds: the student runs dynamics, the teacher labels frames, and the student learns from all labels.

Every round makes the same runs of dynamics and relaxations, as long as in the first, so that the number of unstable
ones can be compared. At the end they are made once more with the last student.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from ase import Atoms

from atomslim.atoms.sample import Sample
from atomslim.data.container import Container
from atomslim.data.staging import write_container
from atomslim.inference.calculator import Calculator
from atomslim.labelling.dynamics import time_step
from atomslim.labelling.label import NAME as LABELLED
from atomslim.models.model_file import load
from atomslim.slimming.accuracy import accuracy
from atomslim.slimming.explore import Exploring, Outcome, outcome_of, starts_of
from atomslim.slimming.known import Known
from atomslim.slimming.learning import LEAST, errors_of, joined, kept, lasting, learn, promised
from atomslim.slimming.work import Work
from atomslim.words import number_of

MOVING, LABELLING = 0.25, 0.15
"""Shares of a round's time for dynamics and for labels; training gets the rest."""

FEWEST, MOST = 2, 6
"""Frames of a run that are labelled."""

ODD = 0.5
"""Fraction of a round's frames for which the teacher may fail: some are strange."""

SHORTEST = 50
"""Fewest steps of a run at any budget."""

WORSE = 1.1
"""A student whose force errors on held-out frames grow by more than this factor in a round is not kept."""

MUCH_WORSE = 2.0
"""The same for energies, if they exceed their bar as well."""


def rounds(work: Work, test: Sequence[Sample]) -> None:
    """Run rounds until the bars are met, the budget ends, or the maximum is reached."""
    if not work.options.rounds:
        return
    for number in range(1, work.options.rounds + 1):
        name, last = f"round {number}", _last(number)
        move(work, f"{name}, dynamics", last, work.done[last].get("before"))
        if f"{name}, training" not in work.done and _is_enough(work, name, last, number):
            return
        _label(work, name)
        _train(work, name, number, last, test)
    last = _last(work.options.rounds + 1)
    move(work, "dynamics after", last, work.done[last].get("before"))


def students(work: Work) -> list[str]:
    """Name the stages that ended with a student, in order."""
    return [name for name in work.done if name == "distil" or name.endswith("training")]


def outcomes(work: Work, stage: str) -> list[Outcome]:
    """Read how the runs of a stage went."""
    return [outcome_of(path) for path in sorted((work.work_folder / stage).glob("run-*.samples"))]


def unstable(work: Work, stage: str) -> int:
    """Count the runs of dynamics of a stage that left the known region."""
    return sum(not one.is_stable for one in outcomes(work, stage) if one.temperature)


def stages_of_dynamics(work: Work) -> list[str]:
    """Name the stages in which a student moved, in order."""
    return [name for name in work.done if name.endswith("dynamics") or name == "dynamics after"]


def move(work: Work, stage: str, last: str, before: str | None) -> None:
    """Make the runs of a round with the student of a stage; existing ones are not repeated."""
    if stage in work.done:
        return
    options = work.options
    samples = list(Container(work.work_folder / "train.samples"))
    starts = starts_of(samples, options.temperatures, options.runs)
    student = Calculator(load(work.folder / work.done[last]["student"]))
    steps = _steps(work, student, [start.atoms for start in starts])
    said = f"{number_of(len(starts), 'run')} of {number_of(steps, 'step')}"
    with work.journal.stage(stage, said) as facts:
        known = Known.of(_seen(work))
        other = None if before is None else Calculator(load(work.folder / before))
        exploring = Exploring(student, known, other, steps, _frames(work, len(starts)), options.seed)
        folder = work.work_folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        found = [exploring.run(start, folder) for start in starts]
        moving = [one for one in found if one.temperature]
        facts |= {"runs": len(moving), "unstable": sum(not one.is_stable for one in moving), "steps": steps}
        facts |= {"outcomes": [asdict(one) for one in found], "student": work.done[last]["student"]}
    work.tell(f"{stage}: {facts['unstable']} of {facts['runs']} runs left the region that the student knows")


def _last(number: int) -> str:
    return "distil" if number == 1 else f"round {number - 1}, training"


def _is_enough(work: Work, name: str, last: str, number: int) -> bool:
    """Say whether the bars are met, or the time is up."""
    options, moved = work.options, work.done[f"{name}, dynamics"]
    found = errors_of(work.done[last]["held out"])
    if found.keeps_to(options.force_bar, options.energy_bar) and not moved["unstable"]:
        work.tell(f"{name}: the bars are met and no run was unstable: no more rounds")
        return True
    if f"{name}, training, begun" in work.done or f"{name}, labels" in work.done:
        return False
    if work.left < _needed(work, number):
        work.tell(f"{name}: the budget is used up: no more rounds")
        return True
    return False


def _needed(work: Work, number: int) -> float:
    """Return the least seconds for another round: its labels, and the dynamics that follow."""
    frames = sum(len(Container(path)) for path in _to_label(work, f"round {number}"))
    return frames * work.seconds_per_label + work.done[f"round {number}, dynamics"]["seconds"] + LEAST


def _label(work: Work, name: str) -> None:
    """Label the frames of a round."""
    stage = f"{name}, labels"
    if stage in work.done:
        return
    paths = _to_label(work, name)
    with work.journal.stage(stage, number_of(sum(len(Container(path)) for path in paths), "frame")) as facts:
        found = work.label(paths, work.work_folder / stage, ODD)
        student = load(work.folder / work.done[f"{name}, dynamics"]["student"])
        fresh = accuracy(student, list(found.container))
        work.tell(f"{name}: on the frames that it reached: {fresh}")
        facts |= {"structures": len(found.container), "skipped": len(found.skipped), "fresh": fresh.as_dict()}


def _to_label(work: Work, name: str) -> list[Path]:
    """Return the files of frames to label: of a round in which all went well, the last frame of each run is enough."""
    paths = sorted((work.work_folder / f"{name}, dynamics").glob("run-*.samples"))
    if any(one["left"] or one["disagreed"] for one in work.done[f"{name}, dynamics"]["outcomes"]):
        return paths
    last = work.work_folder / f"{name}, last frames.samples"
    if not last.exists():
        write_container(last, [list(Container(path))[-1] for path in paths])
    return [last]


def _train(work: Work, name: str, number: int, last: str, test: Sequence[Sample]) -> None:
    """Train the student on the pool and the frames of all rounds, and keep it unless it got worse."""
    stage = f"{name}, training"
    if stage in work.done:
        return
    train = work.work_folder / f"{stage}.samples"
    new = [work.work_folder / f"round {before}, labels" / LABELLED for before in range(1, number + 1)]
    count = joined([work.work_folder / "train.samples", *new], train)
    seconds = work.done.get(f"{stage}, begun", {}).get("seconds of training") or _seconds(work, number)
    promised(work, stage, seconds)
    with work.journal.stage(stage, f"{count} structures, {lasting(work, seconds)}") as facts:
        start = work.folder / work.done[last]["student"]
        tuned = learn(work, start, train, work.work_folder / stage, seconds, first=False)
        facts.update(kept(work, tuned, work.work_folder / f"round-{number}.safetensors", test))
        facts |= {"structures": count, "before": work.done[last]["student"]}
        old, now = errors_of(work.done[last]["held out"]), errors_of(facts["held out"])
        if now.forces > WORSE * old.forces or now.energy > max(MUCH_WORSE * old.energy, work.options.energy_bar):
            work.tell(f"{name}: worse on held-out frames: the previous student is kept")
            facts |= {"student": work.done[last]["student"], "held out": old.as_dict(), "kept": False}


def _seconds(work: Work, number: int) -> float:
    """Return the time for a round's training: its share of the remaining time, without the dynamics that follow."""
    rest = work.left - work.done[f"round {number}, dynamics"]["seconds"]
    return max((1 - MOVING - LABELLING) * rest / (work.options.rounds - number + 1), LEAST)


def _steps(work: Work, student: Calculator, structures: Sequence[Atoms]) -> int:
    """Return the steps of a run: as in the first round, which allots time for them."""
    begun = work.done.get("round 1, begun", {})
    if not begun:
        step = time_step(structures[0])
        wanted = round(1000 * work.options.picoseconds / step)
        each = sum(_cost(student, atoms) for atoms in structures)
        share = MOVING * work.left / (work.options.rounds + 1)
        steps = int(min(max(share / max(each, 1e-9), SHORTEST), wanted))
        begun = {"seconds": 0.0, "steps": steps, "picoseconds": steps * step / 1000}
        work.journal.done["round 1, begun"] = begun
        work.journal.write()
    return int(begun["steps"])


def _cost(student: Calculator, atoms: Atoms) -> float:
    """Time a step."""
    copy = atoms.copy()
    copy.calc = student
    copy.get_forces()
    start = perf_counter()
    copy.rattle(0.01, seed=1)
    copy.get_forces()
    return perf_counter() - start


def _frames(work: Work, runs: int) -> int:
    """Return the frames of each run that the teacher has time for."""
    seconds = LABELLING * work.options.seconds / (work.options.rounds + 1)
    affordable = seconds / max(work.seconds_per_label, 1e-9) / runs
    return int(min(max(affordable, FEWEST), MOST))


def _seen(work: Work) -> list[Sample]:
    """Return all labelled structures that are trained on."""
    paths: list[Path] = [work.work_folder / "train.samples", work.work_folder / "validation.samples"]
    paths += [work.work_folder / name / LABELLED for name in work.done if name.startswith("round") and "labels" in name]
    return [sample for path in paths for sample in Container(path)]
