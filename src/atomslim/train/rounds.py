"""Distillation in rounds: prune part of the way, learn from the full model, repeat (arXiv 2407.14679).

Every round is a separate run in the folders ``round-1``, ``round-2``, … of the run's folder, with an equal part of
its budget; ``cut.safetensors`` in each is its start. The results of the last one are copied to the folder itself.
A killed run continues within its round.
"""

import shutil
from collections.abc import Callable, Mapping
from typing import TypeVar

from atomslim.compress.part_way import part_way, require_cut
from atomslim.data.in_memory import Data
from atomslim.errors import ConfigError
from atomslim.files import atomic_write
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load, save
from atomslim.train.options import Duration, RoundOptions
from atomslim.train.reporting import said, warned_once
from atomslim.train.run_folder import ROUND, RunFolder

Options = TypeVar("Options", bound=RoundOptions)

CUT = "cut.safetensors"
"""In a round's folder: the model that it starts from."""

RESULTS = ("summary.json", "learning_curve.png", "metrics.csv", "metrics.jsonl", "last.safetensors", "best.safetensors")
"""Files of the last round that are copied to the run; the model comes last, since it marks completion."""


@warned_once()
def in_rounds(
    goal: BlockModel,
    full: BlockModel,
    data: Mapping[str, Data],
    config: Options,
    folder: RunFolder,
    learn: Callable[[BlockModel, Options, RunFolder], BlockModel],
    *,
    progress: bool,
) -> BlockModel:
    """Go through all rounds and return the last one's model.

    Args:
        goal: the cut that the last round ends with.
        full: the teacher.
        data: structures that channels are chosen and layers are fitted on, by task.
        config: options of the whole run; ``rounds`` of them.
        folder: of the whole run.
        learn: trains a model with some options in a folder; continues a run there.
        progress: show which round it is.

    Raises ConfigError for a student that is not a smaller cut of its teacher, for more rounds than it can be cut in or
    steps are given for, and for several processes.

    """
    number = config.rounds
    require_cut(full, goal, number)
    if config.steps is not None and config.steps < number:
        raise ConfigError(f"rounds: {config.steps} steps are too few for {number} rounds: give one for each at least")
    if config.devices * config.nodes > 1:
        raise ConfigError("rounds: are for one process: leave devices and nodes out, or cut and distil round by round")
    said(["rounds: start from the teacher; the student only defines what to leave out"], shown=progress)
    model = full
    for one in range(1, number + 1):
        run = RunFolder(folder.path / f"{ROUND}{one}")
        said([f"round {one} of {number}"], shown=progress)
        with run.claimed(resume=True):
            path = run.path / CUT
            if not (run.has_run and path.exists()):  # leftovers of a failed attempt may belong to another student
                save(part_way(model, full, goal, data, number=one, rounds=number, seed=config.seed), path)
            model = learn(load(path), shared(config, one, number), run)
    return _taken_over(run, folder, model)


def shared(config: Options, number: int, rounds: int) -> Options:
    """Return the options of one round: an equal part of the budget, steps and epochs."""
    budget = None if config.budget is None else _part(config.budget, rounds)
    steps = None if config.steps is None else config.steps * number // rounds - config.steps * (number - 1) // rounds
    epochs = None if config.epochs is None else config.epochs / rounds
    return config.model_copy(update={"rounds": 1, "budget": budget, "steps": steps, "epochs": epochs})


def _part(budget: Duration, rounds: int) -> Duration:
    seconds = budget.amount / rounds
    return budget.model_copy(update={"amount": seconds, "text": f"{seconds:.3f}s"})


def _taken_over(run: RunFolder, folder: RunFolder, model: BlockModel) -> BlockModel:
    """Copy the results of the last round into the folder of the run."""
    names = [*(path.name for path in run.path.glob("split.*.json")), *RESULTS]
    for name in (name for name in names if (run.path / name).is_file()):
        with atomic_write(folder.path / name) as temporary:
            shutil.copyfile(run.path / name, temporary)
    return model
