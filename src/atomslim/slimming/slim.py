"""From structures and a teacher to a small, fast, validated model: one run of named stages that can be resumed.

| stage | what |
|---|---|
| teacher | what it gives, and what a structure costs |
| student | candidates timed on the structures, and one chosen |
| held-out pool, pool | structures near the given ones, and frames of the teacher's dynamics |
| labels | by the teacher |
| weights | random ones, if asked for: a control |
| fit | of a cut of the teacher: its readout, in closed form, to the teacher's energies and forces |
| features | if asked for: a cut of the teacher also learns its features |
| distil | the student learns from the labels |
| round N | dynamics of the student, labels of its frames, training on old and new |
| dynamics after | the same runs with the last student |
| model, validation, report | the results |

Its folder ends with `model.safetensors`, `validation.json`, `report.html` and `README.md`; `slim.json` says what is
done, and `work/` holds intermediate files.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomslim.arguments import checked
from atomslim.errors import ConfigError
from atomslim.inference.inputs import Frame, Input, open_inputs
from atomslim.inference.predict import listed
from atomslim.labelling.folder import claimed
from atomslim.labelling.given import given_structures
from atomslim.labelling.teachers import Source, teacher_of
from atomslim.models.metadata import versions
from atomslim.parsing import parse_json
from atomslim.slimming import features, finishing, labels_of, learning, outputs, preparing
from atomslim.slimming.accuracy import Accuracy
from atomslim.slimming.journal import NAME, Journal
from atomslim.slimming.options import SlimOptions
from atomslim.slimming.rounds import rounds, stages_of_dynamics, students
from atomslim.slimming.work import Work
from atomslim.train.options import validated

MAY_CHANGE = ("budget", "rounds", "processes", "timeout", "skip")
"""Options that may change when a run is resumed."""


@dataclass(frozen=True)
class Slim:
    """A finished run."""

    folder: Path
    held_out: Accuracy
    unstable: tuple[int, ...]
    """Runs that left the known region, for each round of dynamics."""
    bars: Mapping[str, tuple[str, str, bool]]
    """What was asked for, what was measured, and whether the bar is met."""
    sentences: tuple[str, ...]
    """The results as sentences."""

    @property
    def model(self) -> Path:
        """The file of the student."""
        return self.folder / finishing.MODEL

    @property
    def passed(self) -> bool:
        """Whether all bars are met."""
        return all(good for _, _, good in self.bars.values())


@checked
def slim(
    structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    teacher: Source,
    output: str | os.PathLike[str],
    *,
    progress: bool = True,
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Slim:
    """Make a small, fast model from a slow one, for given structures; run again, it continues where it stopped.

        done = atomslim.slim("MgO.cif", "sevennet:7net-0", "out", speedup=10, budget="1h", width=8)
        atoms.calc = atomslim.Calculator(done.model)

    Args:
        structures: files, folders, containers or datasets, as `atomslim.inference.inputs` says.
        teacher: a model, its file or name; `ase:MODULE:CLASS?NAME=VALUE`; a calculator, or a function that makes one.
        output: the folder.
        progress: show progress of training and validation.
        tell: called with a sentence on each next step and result.
        options: of `SlimOptions`.

    Raises:
        ConfigError: an unknown teacher or option, a speed that no student has, or a folder that holds something else.
        StructureError, DataError: structures that cannot be read; names file and record.
        AtomslimError: a teacher without labels for the structures.
        OSError: a file that is missing or cannot be written.

    """
    names = tuple(listed(structures))
    named = {"teacher": os.fspath(teacher)} if isinstance(teacher, str | os.PathLike) else {}
    config = validated(SlimOptions, {**options, **named, "structures": names})
    inputs = open_inputs(names, config.reader)
    frames = given_structures(inputs)
    if not frames:
        raise ConfigError(f"{', '.join(names) or 'structures'}: there are no structures: name a file that has some")
    return _claimed(Path(output), config, _source(teacher), inputs, frames, tell, progress=progress)


def begun(output: Path) -> dict[str, Any]:
    """Return the options of the run in a folder; raises ConfigError where there is none."""
    try:
        options = parse_json((output / NAME).read_bytes())["options"]
        return {name: value for name, value in options.items() if value not in (None, "", [], {})}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{output}: there is no run to resume: name structures and a teacher") from None


def _claimed(
    folder: Path,
    config: SlimOptions,
    source: Source,
    inputs: Sequence[Input],
    frames: Sequence[Frame],
    tell: Callable[[str], None],
    *,
    progress: bool,
) -> Slim:
    plan = {**_plan(config, inputs), "teacher": teacher_of(source, task=config.task, python=config.teacher_python).name}
    with claimed(folder, NAME, {name: value for name, value in plan.items() if name != "options"}) as note:
        journal = Journal.of(folder, plan, note, tell)
        work = Work(folder, config, source, frames, journal, progress)
        try:
            _stages(work)
        except BaseException:
            if journal.done.keys() <= {"teacher"}:  # there is no student: nothing to resume
                (folder / NAME).unlink(missing_ok=True)
            raise
        return _result(work)


def _stages(work: Work) -> None:
    labels_of.take(work)
    preparing.time_teacher(work)
    preparing.choose_student(work)
    features.require_cut(work)
    preparing.make_pools(work)
    preparing.label_pools(work)
    preparing.draw_weights(work)
    test = preparing.test_set(work)
    learning.distil(work, test)
    rounds(work, test)
    finishing.deliver(work)
    finishing.check(work)
    outputs.write(work)


def _plan(config: SlimOptions, inputs: Sequence[Input]) -> dict[str, Any]:
    """Return the inputs of a run: the same for every call that resumes it."""
    options = config.model_dump(mode="json")
    fixed = {name: value for name, value in options.items() if name not in (*MAY_CHANGE, "structures")}
    return {
        "of": fixed,
        "inputs": [one.identity() for one in inputs],
        "versions": versions(),
        "options": options,
    }


def _source(teacher: Source) -> Source:
    return os.fspath(teacher) if isinstance(teacher, os.PathLike) else teacher


def _result(work: Work) -> Slim:
    return Slim(
        folder=work.folder,
        held_out=learning.errors_of(work.done[students(work)[-1]]["held out"]),
        unstable=tuple(work.done[name]["unstable"] for name in stages_of_dynamics(work)),
        bars=finishing.bars(work),
        sentences=tuple(outputs.sentences(work)),
    )
