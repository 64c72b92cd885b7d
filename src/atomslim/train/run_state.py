"""State of a run besides weights: resources used, scores, identities of models and data.

A model is identified by the SHA-256 of all that its predictions depend on, whatever its file is called. Data by the
number of its structures and a SHA-256 over a CRC-32 of each of them, labels included: a container's index has these,
and structures in memory are encoded as a container's would be. Of a dataset of another class, which may be costly to
read, up to 1000 structures are taken, evenly spaced.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomslim.data import Dataset
from atomslim.data.dataset import PreparedDataset, RawDataset
from atomslim.data.in_memory import Samples
from atomslim.data.mixing import BatchPlan
from atomslim.data.record import encode
from atomslim.data.splits import evenly
from atomslim.errors import ConfigError
from atomslim.evaluation.classification import parsed as parsed_errors
from atomslim.evaluation.errors import Results
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.train.options import Duration
from atomslim.train.tasks import LearningTask, Lowered


@dataclass
class Clock:
    """What training has used so far; validation and checkpoints are counted separately.

    ``epoch`` and ``position`` say which batch comes next: this many whole passes over the data, and this many batches
    of the current one.
    """

    steps: int = 0
    epoch: int = 0
    position: int = 0
    epoch_length: int = 1
    """Batches of the running epoch."""
    seconds: float = 0.0
    """Wall-clock time of training steps, including waiting for data."""
    waiting_seconds: float = 0.0
    """Of these, spent waiting for data."""
    validation_seconds: float = 0.0
    structures: int = 0

    def advance(self, plan: BatchPlan, epoch_length: int, *, seconds: float, waiting: float) -> None:
        """Count one step, on a planned batch."""
        self.steps += 1
        self.epoch, self.position, self.epoch_length = plan.epoch, plan.position + 1, epoch_length
        self.structures += plan.num_global
        self.seconds += seconds
        self.waiting_seconds += waiting

    def used(self, duration: Duration) -> float:
        """Return the used fraction of a duration in seconds, steps or epochs."""
        passes = self.epoch + self.position / self.epoch_length
        used = {"seconds": self.seconds, "steps": float(self.steps), "epochs": passes}
        return used[duration.unit] / duration.amount

    def state(self) -> dict[str, float]:
        """Everything, as plain numbers for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """Limits of a run, whichever is reached first."""

    limits: Sequence[Duration]

    def progress(self, clock: Clock) -> float:
        """Return how much of the run is done, from 0 to 1."""
        return min(max(clock.used(limit) for limit in self.limits), 1.0)

    def spent(self, clock: Clock) -> bool:
        """Say whether the run is over."""
        return self.progress(clock) >= 1.0

    def used(self, duration: Duration, clock: Clock) -> float:
        """Return the used fraction of a duration; percentages refer to the whole run."""
        if duration.amount <= 0:
            return 1.0
        return self.progress(clock) / duration.amount if duration.unit == "share" else clock.used(duration)


STATE_VERSION = 3
_OTHER_SCORE = 2
"""Until this version, the score was a mean of MAE/σ, which no later score can be compared with."""


@dataclass
class Standing:
    """The conductor's counts."""

    clock: Clock = field(default_factory=Clock)
    validations: int = 0
    best: float = math.inf
    """The best score so far."""
    best_step: int = 0
    waited: int = 0
    """Validations since the best."""
    saved_seconds: float = 0.0
    """The training clock at the last saved state."""

    def state(self) -> dict[str, Any]:
        """Everything but the clock, as plain numbers for a checkpoint."""
        return {key: value for key, value in vars(self).items() if key != "clock"}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Standing":
        """Resume from a saved state."""
        standing = cls(**state["standing"], clock=Clock(**state["clock"]))
        if state["version"] == _OTHER_SCORE:
            standing.best = math.inf
        return standing


def require_version(state: dict[str, Any]) -> None:
    """Raise ConfigError for a saved state of another version of this program."""
    if state.get("version") not in {_OTHER_SCORE, STATE_VERSION}:
        raise ConfigError(
            f"the saved state has version {state.get('version')}, this program writes {STATE_VERSION}: continue with "
            "the version of atomslim that began the run"
        )


def plain_results(results: Results) -> dict[str, Any]:
    """Return errors as plain numbers and texts."""
    return {task: {name: vars(value) for name, value in errors.items()} for task, errors in results.items()}


def parsed_results(results: dict[str, Any]) -> Results:
    """Return what `plain_results` wrote down."""
    return {task: {name: parsed_errors(value) for name, value in errors.items()} for task, errors in results.items()}


READ = 1000
"""Structures that are read of a dataset of an unknown class."""


def origin(
    models: Mapping[str, BlockModel], tasks: Sequence[LearningTask], known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return identities of a run's models, by role, and of its data, by task and set.

    Models that are recomputed when a run is resumed, perhaps with other last digits, are ``known`` by what they are
    computed from.
    """
    data = {task.name: data_identity(task.dataset) for task in tasks}
    for task in tasks:  # whose other sets may have a teacher's answers for labels, which differ in their last digits
        own = {f"{task.name}, {part}": other for part, other in task.others.items()}
        data |= {name: data_identity(other, labelled=not task.unlabelled) for name, other in own.items()}
    found = {name: (known or {}).get(name) or model_digest(model) for name, model in models.items()}
    return {"models": found, "data": data}


def model_digest(model: BlockModel) -> str:
    """Return the SHA-256 of all that a model's answers depend on."""
    tasks = [task.model_dump(mode="json") for task in model.tasks.values()]
    said = [type(model).__name__, _configuration(model), tasks, list(model.block_ids)]
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _configuration(model: BlockModel) -> Any:
    """Return a model's sizes and settings, as its family writes them into files; nothing for one of no family."""
    try:
        return family_of(model).configuration(model).model_dump(mode="json")
    except ConfigError:
        return None


def data_identity(dataset: Dataset, *, labelled: bool = True) -> dict[str, Any]:
    """Return number and checksum of a dataset's structures, with their labels if they count, without their names."""
    if isinstance(dataset, Lowered):  # its references follow from the same labels and the teacher
        dataset = dataset.dataset
    count = len(dataset.natoms)  # which reads a file once, where its length alone would be one pass more
    if isinstance(dataset, PreparedDataset):
        checksums = np.asarray(dataset.container.index.crc, "<u4")
    else:
        whole = isinstance(dataset, RawDataset | Samples)
        numbers = evenly(count, count if whole else READ)
        changes: dict[str, Any] = {"name": ""} if labelled else {"name": "", "targets": {}}
        bare = (replace(dataset[number], **changes) for number in numbers)
        checksums = np.array([zlib.crc32(encode(sample)) for sample in bare], "<u4")
    return {"structures": count, "sha256": hashlib.sha256(checksums.tobytes()).hexdigest()}


def code_digest() -> str:
    """Return a checksum of this program's source, which may change while its version stays the same."""
    found = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:16]
