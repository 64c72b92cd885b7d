"""Students by the cost of a step on the user's own structures, and the choice among them.

    there = candidates(structures, "sevennet:7net-0")
    choice = choose(there, Target.of(speedup=10))
    student = choice.candidate.recipe.build(structures)

A step is one call for forces of an ASE calculator on slightly moved atoms, with one thread: the teacher's own, in
its own process and interpreter, and ours. Students take turns with the teacher (`atomslim.benchmarking.turns`), and a
speed-up is the median of the rounds' ratios.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ase import Atoms

from atomslim.benchmarking.steps import Steps, of_different_sizes
from atomslim.benchmarking.turns import BUSY, Gain, half_range, take_turns
from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError
from atomslim.inference import calculator_process as plain
from atomslim.inference.calculator import Calculator
from atomslim.labelling.teachers import Source, teacher_of
from atomslim.labelling.unlabelled import Unlabelled
from atomslim.models.modes import parameter_count
from atomslim.report.page import TextTable, number
from atomslim.slimming.candidates import Kind, Wanted, wanted
from atomslim.slimming.recipe import NAME, Forces, Recipe, as_trained
from atomslim.slimming.target import Target, common_time_step, nanoseconds
from atomslim.threads import one_thread
from atomslim.words import number_of

SIZES = 2
"""Most structures, of different sizes, on which steps are timed."""

ROUNDS = 5

_AT_ONCE, _WEIGHTS = 10, 10**8
"""Most students in memory at once, and most weights."""


@dataclass(frozen=True)
class Candidate:
    """A possible student, and the cost of its step."""

    name: str
    kind: Kind
    recipe: Recipe
    parameters: int = 0
    smooth: bool = False
    """Whether its energy has no steps where neighbours change ranks."""
    milliseconds: float = math.inf
    """Time of a step: the shortest of all rounds, averaged over the structures."""
    spread: float = 0.0
    """Half the interquartile range of the rounds, relative to their median."""
    gain: Gain | None = None
    """Speed-up over the teacher, from the shortest steps of all rounds; with the spread of its own rounds."""
    refused: str = ""
    """Why it cannot be used."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            **asdict(self),
            "recipe": self.recipe.as_dict(),
            "milliseconds": self.milliseconds if math.isfinite(self.milliseconds) else None,
            "gain": None if self.gain is None else self.gain.as_dict(),
        }


@dataclass(frozen=True)
class Candidates:
    """The candidates to choose from."""

    teacher: str
    milliseconds: float
    """Time of a step of the teacher."""
    structures: tuple[str, ...]
    """Structures on which steps were timed."""
    step: float
    """fs: time step of dynamics."""
    all: tuple[Candidate, ...]

    @property
    def able(self) -> list[Candidate]:
        """Those that are not refused."""
        return [one for one in self.all if not one.refused]

    def table(self, chosen: "Choice | None" = None) -> TextTable:
        """Return the costs of all, the teacher first, and which is chosen."""
        rows: list[tuple[str, ...]] = [(self.teacher, "teacher", "", *self._costs(self.milliseconds), "1 ×", "")]
        rows += [self._row(one, chosen) for one in self.all]
        note = (
            f"Steps of dynamics on {' and '.join(self.structures)}, one thread, the teacher in turn with the students; "
            f"{self.step:g} fs a step."
        )
        columns = ("student", "kind", "M parameters", "ms a step", "ns a day", "speed-up", "outcome")
        return TextTable("What students would cost", note, columns, tuple(rows))

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {**asdict(self), "all": [one.as_dict() for one in self.all]}

    def _row(self, one: Candidate, chosen: "Choice | None") -> tuple[str, ...]:
        if one.gain is None:
            return (one.name, one.kind, "", "", "", "", f"no: {one.refused}")
        remark = "" if chosen is None else chosen.remark(one, self.step)
        costs = self._costs(one.milliseconds)
        gain = f"{number(one.gain.median)} ×" + ("" if one.gain.reliable else f" ({one.gain.problem})")
        return (one.name, one.kind, number(one.parameters / 1e6), *costs, gain, remark)

    def _costs(self, milliseconds: float) -> tuple[str, str]:
        return number(milliseconds), number(nanoseconds(milliseconds, self.step))


@dataclass(frozen=True)
class Choice:
    """The student that is chosen, and why."""

    candidate: Candidate
    target: Target
    why: str

    def remark(self, one: Candidate, step: float) -> str:
        """Say what happens to a candidate."""
        if one == self.candidate:
            return "chosen"
        return "reaches it" if _reach(one, self.target, step) >= 1 else ""

    def __str__(self) -> str:
        """Say it in a sentence."""
        return f"{self.candidate.name}: {self.why}"


def candidates(
    structures: Sequence[Atoms],
    teacher: Source,
    *,
    forces: Forces = "conservative",
    task: str | None = None,
    python: str | None = None,
    timeout: float | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Candidates:
    """List students, and time a step of each and of the teacher's own calculator.

    Args:
        structures: the user's; steps are timed on up to two of them, of different sizes.
        teacher: see `atomslim.labelling.teachers`.
        forces: of the students.
        task: of a teacher that has several.
        python: the interpreter that the teacher is installed in.
        timeout: time limit in seconds for a step of the teacher.
        tell: called with a few words on what is being timed.

    Raises:
        ConfigError: no structures, an unknown teacher, or one that has no forces for them.

    """
    if not structures:
        raise ConfigError("there are no structures to time students on")
    who = teacher_of(teacher, task=task, python=python)
    timed = of_different_sizes(structures, SIZES)
    session = who.begin(timeout, one_thread=True)
    try:
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", AtomslimWarning)
            timing = _Timing(structures, timed, forces, tell, Steps(session.seconds, timed))
            found = [one for some in _in_parts(wanted(structures, teacher, who, forces)) for one in timing.of(some)]
    except Unlabelled as reason:
        raise ConfigError(f"{who.name}: no step of dynamics to compare with: {reason}") from reason
    finally:
        session.close()
    names = tuple(f"{atoms.get_chemical_formula(empirical=True)} ({number_of(len(atoms), 'atom')})" for atoms in timed)
    shortest = 1e3 * min(timing.reference)
    compared = tuple(_of_all_rounds(one, shortest) for one in found)
    return Candidates(who.name, shortest, names, common_time_step(structures), compared)


def choose(there: Candidates, target: Target) -> Choice:
    """Choose a student that is as fast as asked for.

    Of those, one that starts with trained weights comes before one with random ones; then, for conservative forces, one
    whose energy has no steps; then the most expensive one, since accuracy costs time.

    Raises ConfigError, naming the nearest, if none is fast enough.
    """
    if not there.able:
        raise ConfigError(f"there is no student to choose: {there.all[0].name}: {there.all[0].refused}")
    able = [one for one in there.able if _reach(one, target, there.step) >= 1]
    if not able:
        raise ConfigError(_nearest(there, target))
    best = max(able, key=_preference)
    return Choice(best, target, _why(best, able, there, target))


def _preference(one: Candidate) -> tuple[bool, bool, float]:
    return not one.recipe.fresh, one.smooth or one.recipe.forces == "direct", one.milliseconds


def _why(best: Candidate, able: Sequence[Candidate], there: Candidates, target: Target) -> str:
    start = "random weights, as nothing trained is as fast" if best.recipe.fresh else "trained weights"
    smooth = " and an energy without steps" if best.smooth and best.recipe.forces == "conservative" else ""
    gain = best.gain or Gain(1.0, 1.0, 0.0, 1.0)
    text = (
        f"{number(best.milliseconds)} ms a step against {number(there.milliseconds)} of the teacher, "
        f"{number(gain.median)} × the speed; the most expensive, so likely the most accurate, of those as fast as "
        f"{target} ({len(able)} of {len(there.able)}) with {start}{smooth}"
    )
    return text if gain.reliable else f"{text}; times are unsteady: {BUSY}"


def _nearest(there: Candidates, target: Target) -> str:
    near = max(there.able, key=lambda one: _reach(one, target, there.step))
    gain = near.gain or Gain(1.0, 1.0, 0.0, 1.0)
    costs = f"{number(near.milliseconds)} ms a step, {number(nanoseconds(near.milliseconds, there.step))} ns a day"
    remedy = "ask for less" + (", or use larger cells (slim --width)" if target.kind == "speedup" else "")
    return (
        f"{target}: no student is as fast; the nearest is {near.name} with {number(gain.median)} × the speed of the "
        f"teacher ({costs}): {remedy}"
    )


def _reach(one: Candidate, target: Target, step: float) -> float:
    return 0.0 if one.gain is None else target.reached(one.milliseconds, one.gain, step)


def _in_parts(all_of_them: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Yield groups small enough to fit into memory together."""
    part: list[Wanted] = []
    weights = 0
    for one in all_of_them:
        count = 0 if one.start is None else parameter_count(one.start)
        if part and (len(part) == _AT_ONCE or weights + count > _WEIGHTS):
            yield part
            part, weights = [], 0
        part.append(one)
        weights += count
    if part:
        yield part


@dataclass
class _Timing:
    """Times students in turn with the teacher."""

    structures: Sequence[Atoms]
    timed: Sequence[Atoms]
    forces: Forces
    tell: Callable[[str], None]
    teacher: Steps
    reference: tuple[float, ...] = ()
    """Seconds of the teacher's step in all rounds so far."""

    def of(self, some: Sequence[Wanted]) -> list[Candidate]:
        """Time some students."""
        made = [self._made(one) for one in some]
        cases = [steps for _, steps in made if steps is not None]
        if cases:
            self.tell(f"timing {len(cases)} students")
            take_turns([self.teacher, *cases], ROUNDS)
        before = self.teacher.times[len(self.reference) :]
        self.reference += before
        return [one if steps is None else _with_times(one, steps.times, before) for one, steps in made]

    def _made(self, one: Wanted) -> tuple[Candidate, Steps | None]:
        """Build a student, and step once."""
        refused = Candidate(one.name, one.kind, one.recipe, refused=one.refused)
        if one.refused:
            return refused, None
        elements = {element for atoms in self.structures for element in atoms.numbers.tolist()}
        try:
            model = as_trained(one.recipe.build(self.timed, one.start), self.forces, elements)
            steps = Steps(partial(plain.seconds, Calculator(model, task=NAME)), self.timed)
        except AtomslimError as error:
            return Candidate(one.name, one.kind, one.recipe, refused=str(error)), None
        parameters = parameter_count(model)
        smooth = model.task(NAME).graph.neighbours is None
        return Candidate(one.name, one.kind, one.recipe, parameters, smooth), steps


def _of_all_rounds(one: Candidate, shortest: float) -> Candidate:
    """Compare with the teacher's shortest step (ms) of all rounds: other jobs may have slowed those of one part."""
    if one.gain is None:
        return one
    ratio = shortest / one.milliseconds
    return replace(one, gain=replace(one.gain, median=ratio, minima=ratio))


def _with_times(one: Candidate, times: Sequence[float], before: Sequence[float]) -> Candidate:
    gain, middle = Gain.of(before, times, 1.0), sorted(times)[len(times) // 2]
    return Candidate(
        one.name,
        one.kind,
        one.recipe,
        one.parameters,
        one.smooth,
        1e3 * min(times),
        half_range(times) / middle,
        gain,
    )
