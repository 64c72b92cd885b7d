"""Training of a student on the teacher's labels: energies, forces, and stress if available."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atomslim.atoms.sample import ENERGIES, Sample
from atomslim.compress.cuts import Cut
from atomslim.compress.prune import keep_blocks
from atomslim.data.container import Container
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimError
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load, save
from atomslim.slimming import features
from atomslim.slimming.accuracy import Accuracy, accuracy
from atomslim.slimming.recipe import Recipe
from atomslim.slimming.settings import how_long, settings
from atomslim.slimming.work import TASK, Work
from atomslim.train.finetune import finetune
from atomslim.train.run_folder import begun

FIRST = 0.5
"""Fraction of the remaining budget for the first training, if rounds follow."""

FITTED_ON = 24
"""Most structures for the fit of a cut's readout."""

LEAST, LEAST_SHARE = 1.0, 0.1
"""Least seconds of a training; and the fraction of the budget that the first one always gets."""


def distil(work: Work, test: Sequence[Sample]) -> None:
    """Let the student learn from the labels of the pool."""
    if "distil" in work.done:
        return
    start = _fitted(work)
    given = work.done.get("distil, begun", {}).get("seconds of training")
    seconds = given or _first(work)
    promised(work, "distil", seconds)
    start, seconds = features.learned(work, start, seconds)
    with work.journal.stage("distil", f"{work.done['labels']['train']} structures, {lasting(work, seconds)}") as facts:
        tuned = learn(work, start, work.work_folder / "train.samples", work.work_folder / "distil", seconds, first=True)
        facts.update(kept(work, tuned, work.work_folder / "distilled.safetensors", test))


def _fitted(work: Work) -> Path:
    """Return the file that training starts with; a cut of the teacher gets a readout that is fitted to its forces."""
    student = work.done["student"]
    path = work.folder / work.done.get("weights", student)["student"]
    if student.get("kind") != "cut of the teacher" or work.options.forces != "conservative":
        return path
    fitted = work.work_folder / "fitted.safetensors"
    if "fit" not in work.done:
        with work.journal.stage("fit", "of the cut's readout to the teacher's energies and forces") as facts:
            try:
                save(_cut(work, Recipe.read(student["recipe"])), fitted)
                facts["fitted"] = True
            except AtomslimError as reason:
                facts["fitted"] = False
                work.tell(f"fit: {reason}; training starts with the unfitted cut")
    return fitted if work.done["fit"]["fitted"] else path


def _cut(work: Work, recipe: Recipe) -> BlockModel:
    """Cut the teacher again, with the readout fitted in closed form on labelled structures."""
    full = work.source if isinstance(work.source, BlockModel) else load(recipe.start)
    small = keep_blocks(
        full,
        full.block_ids if recipe.blocks is None else recipe.blocks,
        realign="least-squares-forces",
        calibration={work.options.task or next(iter(full.tasks)): str(work.work_folder / "train.samples")},
        limit=FITTED_ON,
        batch_size=1,
        seed=work.options.seed,
        without=recipe.without,
    )
    return small if recipe.cutoff is None else Cut(small.block_ids, (), recipe.cutoff).of(small)


def _first(work: Work) -> float:
    """Return how long the first training may take (s); says if that is beyond the budget."""
    wanted = work.left * (FIRST if work.options.rounds else 1.0)
    least = max(LEAST_SHARE * work.options.seconds, LEAST)
    if wanted < least and work.options.steps is None:
        work.tell(f"distil: earlier stages took most of the budget: training still gets {least:.0f} s")
    return max(wanted, least)


def promised(work: Work, stage: str, seconds: float) -> None:
    """Note the planned time of a training before it starts, so that a resumed one takes as long."""
    work.journal.done[f"{stage}, begun"] = {"seconds": 0.0, "seconds of training": seconds}
    work.journal.write()


def learn(work: Work, start: Path, train: Path, output: Path, seconds: float, *, first: bool) -> BlockModel:
    """Train a model's file on labelled structures for so long; continues a run in the folder."""
    options = work.options
    return finetune(
        str(start),
        str(train),
        output=output,
        resume=begun(output, resume=True) is not None,
        progress=work.progress,
        validation_data=str(work.work_folder / "validation.samples"),
        name=TASK,
        forces=options.forces,
        learn=_learned(work),
        energies=options.energies if ENERGIES in work.done["labels"]["gives"] else 0.0,
        heads="better" if first else "reuse",
        **how_long(options, seconds),
        **settings(options, options.learning_rate / (1 if first else 3)),
    )


def lasting(work: Work, seconds: float) -> str:
    """Say how long a training is."""
    return f"{seconds:.0f} s" if work.options.steps is None else f"{work.options.steps} steps"


def kept(work: Work, model: BlockModel, path: Path, test: Sequence[Sample]) -> dict[str, Any]:
    """Save a student, and measure it on the held-out structures."""
    save(model, path)
    found = accuracy(model, test)
    work.tell(f"held out: {found}")
    return {"student": str(path.relative_to(work.folder)), "held out": found.as_dict()}


def errors_of(facts: Any) -> Accuracy:
    """Read the errors that a stage noted."""
    return Accuracy(**{name: value for name, value in facts.items() if name != "share"})


def joined(parts: Sequence[Path], output: Path) -> int:
    """Write the structures of several containers into one, and return how many there are."""
    samples = [sample for part in parts for sample in Container(part)]
    if not samples:
        raise AtomslimError(f"{output}: there is nothing to learn from")
    return len(write_container(output, samples))


def _learned(work: Work) -> tuple[str, ...]:
    """Name what is learned: stress, too, where it is a derivative of the energy and the teacher has it."""
    stress = work.options.forces == "conservative" and "stress" in work.done["labels"]["gives"]
    return ("energy", "forces", "stress") if stress else ("energy", "forces")
