"""Options of a run: the same fields in YAML, on the command line and in Python."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atomslim.arguments import problem_of
from atomslim.errors import ConfigError
from atomslim.models.graph_settings import LONGEST_CUTOFF, MOST
from atomslim.models.losses import Loss
from atomslim.models.tasks import plain_name

Unit = Literal["seconds", "steps", "epochs", "share"]

_UNITS: dict[str, tuple[Unit, float]] = {
    "s": ("seconds", 1.0),
    "sec": ("seconds", 1.0),
    "second": ("seconds", 1.0),
    "seconds": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "minute": ("seconds", 60.0),
    "minutes": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "hour": ("seconds", 3600.0),
    "hours": ("seconds", 3600.0),
    "day": ("seconds", 86400.0),
    "days": ("seconds", 86400.0),
    "step": ("steps", 1.0),
    "steps": ("steps", 1.0),
    "epoch": ("epochs", 1.0),
    "epochs": ("epochs", 1.0),
    "%": ("share", 0.01),
}
_TEXT = re.compile(r"\s*(?P<amount>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[a-z%]+)\s*")


class _Duration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amount: float
    unit: Unit
    text: str

    def __str__(self) -> str:
        """As the user wrote it."""
        return self.text


def parse_duration(text: str) -> "_Duration":
    """Parse "30min", "1.5h", "2000 steps", "5 epochs" or "10%"; raises ValueError for anything else."""
    match = _TEXT.fullmatch(text.lower())
    if match is None or match["unit"] not in _UNITS:
        raise ValueError(f'{text[:60]!r} is not a duration: write "30min", "2h", "2000 steps", "5 epochs" or "10%"')
    unit, factor = _UNITS[match["unit"]]
    amount = float(match["amount"]) * factor
    if not math.isfinite(amount):
        raise ValueError(f"{text[:30]!r} … is not a duration: give fewer digits")
    return _Duration(amount=amount, unit=unit, text=text.strip())


def _parsed(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[_Duration, BeforeValidator(_parsed), PlainSerializer(str)]
"""A duration that options write as text."""


Precision = Literal["32", "64", "bf16", "fp16"]


def named(name: str) -> str:
    """Return the name of a task or target, or nothing; raises ValueError for one that files cannot hold."""
    return plain_name(name) if name else name


Name = Annotated[str, AfterValidator(named)]
"""The name of a task, or of a target."""

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of an average of gradients."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _none(cls, value: Any, info: ValidationInfo) -> Any:
        """Understand "none", as in the descriptions, as None for optional options."""
        field = cls.model_fields[str(info.field_name)]
        return None if value == "none" and type(None) in get_args(field.annotation) else value


class ScheduleOptions(_Options):
    """The learning rate over a run."""

    warmup: Duration = Field(default=parse_duration("5%"), description="length of the linear warm-up")
    warmup_factor: float = Field(default=0.1, ge=0, le=1, description="factor at the start of the warm-up")
    cosine: Duration | None = Field(default=parse_duration("100%"), description="end of the cosine; none: no cosine")
    cosine_factor: float = Field(default=0.1, ge=0, le=1, description="factor at the end of the cosine")
    plateau_factor: float = Field(default=0.8, gt=0, le=1, description="after the cosine: factor at a plateau")
    plateau_patience: int = Field(default=3, ge=0, description="validations without improvement before that")


class OptimiserOptions(_Options):
    """AdamW with layer-wise rates; a block keeps its rate when others are removed (arXiv 2504.19538)."""

    learning_rate: float = Field(default=8e-5, ge=0, description="0: nothing is trained, reused heads stay unchanged")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95))
    weight_decay: float = Field(default=0.1, ge=0)
    rates: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        description="factor by parameter group (embedding, block 2 by original number, readout, head NAME), else 1; "
        "none: the default of the model's family",
    )
    clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm; none: no clipping")
    clip_by: Literal["value", "norm"] = Field(default="value", description="clip each component, or the global norm")
    freeze: tuple[str, ...] = Field(
        default=(), description="parameter groups that are not trained: embedding, block 1, readout …"
    )


ClassWeights = Literal["none", "balanced"]

CLASS_WEIGHTS: Any = Field(
    default="none",
    description="for binary labels: balanced weights positives by negatives/positives of the training set in the loss; "
    "none: equal weights, which keeps probabilities calibrated",
)


class TargetOptions(_Options):
    """How one target is trained."""

    kind: Literal["energy", "direct_forces", "conservative_forces", "stress", "scalar", "r2", "binary"] = Field(
        description="binary: a label of 0 or 1, whose probability is predicted"
    )
    weight: float = Field(default=1.0, ge=0, description="factor on its loss")
    loss: Loss = Field(
        default="l1",
        description="l2: Euclidean norm per atom, averaged by structure (forces); binary labels use cross-entropy",
    )
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="how atoms make up a structure's value; for binary labels, mean by default"
    )
    class_weights: ClassWeights = CLASS_WEIGHTS
    references: bool | str | None = Field(
        default=None,
        description="per-element energies, subtracted first. none: by e0s for energies, else no; true: fitted; "
        "false: no, but a mean per structure, so energies are not additive; the name of another task of the run: "
        "fitted close to that one's",
    )
    mean: float | None = Field(default=None, description="none: fitted on the training set")
    std: float | None = Field(default=None, gt=0, description="none: fitted on the training set")

    @model_validator(mode="before")
    @classmethod
    def _of_labels(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("kind") == "binary":
            return {"loss": "cross-entropy", "reduction": "mean", **given}
        return given

    @model_validator(mode="after")
    def _sensible(self) -> "TargetOptions":
        if (self.loss == "cross-entropy") != (self.kind == "binary"):
            raise ValueError(
                f"loss {self.loss} is not for {self.kind}: cross-entropy goes with binary labels, and only with them"
            )
        if self.kind == "binary" and (self.references or self.mean is not None or self.std is not None):
            raise ValueError("labels of 0 and 1 have no references, mean or std: leave them out")
        if self.class_weights != "none" and self.kind != "binary":
            raise ValueError(f"class_weights are for labels of 0 and 1 (kind binary), not for {self.kind}")
        if self.loss == "l2" and self.kind not in {"direct_forces", "conservative_forces", "stress"}:
            raise ValueError(f"loss l2 is for forces and stress: choose l1, mse or huber for {self.kind}")
        return self


E0s = str | dict[str | int, float]
"""Per-element reference energies: a rule, a table, or the name of a file, see `train.targets`."""

E0S = Field(
    default="",
    description="reference energy per element. empty: isolated atoms of the data, else fitted close to the model's; "
    "fit, isolated, model: only that; a table such as H=-13.6,C=-1029.5 or a file of one (JSON, YAML, or structures of "
    "one atom); mean: none, so energies are not additive",
)


class SplitOptions(_Options):
    """Which structures are for training, validation and test."""

    train: int | float | None = Field(default=None, description="number or fraction; none: as in the original")
    validation: int | float | None = None
    test: int | float | None = Field(default=None, description="none: the rest")
    by: Literal["structure", "group", "scaffold"] = Field(
        default="structure",
        description="group: keep groups together; scaffold: the same, large groups for training, rare ones for test",
    )
    file: Path | None = Field(default=None, description="a split saved earlier")
    seed: int = 42

    @model_validator(mode="after")
    def _complete(self) -> "SplitOptions":
        if (self.train is None) != (self.validation is None):
            raise ValueError("give the sizes of both training and validation set, or of neither")
        if any(size is not None and size < 0 for size in (self.train, self.validation, self.test)):
            raise ValueError("sizes of sets are numbers of structures or fractions of them, not negative")
        return self


CUTOFF = "Å; none: the model's, or else the dataset's"
NEIGHBOURS = (
    "base number k, or smooth K: no cap, but a range per atom that includes about K; none: the model's, or "
    "else the dataset's"
)

Neighbours = Annotated[int, Field(ge=1, le=MOST)] | Annotated[str, Field(pattern=r"^smooth [0-9]{1,4}(\.[0-9]+)?$")]
"""A cap on neighbours, or a smooth graph."""


class TaskOptions(_Options):
    """A dataset and what is learned from it."""

    name: Name = Field(default="", description="name of the task; empty: the dataset's")
    data: str = Field(default="", description="dataset, as in rmd17:aspirin")
    validation_data: str = Field(default="", description="another dataset, all of it for validation")
    validation_limit: int | None = Field(
        default=None, ge=1, description="at most this many structures of the validation set, evenly spaced"
    )
    train_limit: int | None = Field(
        default=None, ge=1, description="at most this many structures of the training set, evenly spaced"
    )
    test_data: str = Field(default="", description="another dataset, all of it for the test")
    options: dict[str, str] = Field(default_factory=dict, description="options of its reader")
    targets: dict[Name, TargetOptions] = Field(default_factory=dict, description="empty: those of the data")
    forces: Literal["conservative", "direct"] | None = Field(
        default=None,
        description="if targets is empty: direct or conservative forces, required if set; "
        "none: conservative, if the data has forces",
    )
    class_weights: ClassWeights = CLASS_WEIGHTS
    e0s: E0s = E0S
    split: SplitOptions = SplitOptions()
    cutoff: float | None = Field(default=None, gt=0, le=LONGEST_CUTOFF, description=CUTOFF)
    neighbours: Neighbours | None = Field(default=None, description=NEIGHBOURS)

    @model_validator(mode="after")
    def _weights_once(self) -> "TaskOptions":
        require_weights_once(self.class_weights, self.targets)
        return self


def require_weights_once(class_weights: ClassWeights, targets: Mapping[str, TargetOptions]) -> None:
    """Raise ValueError for weights of classes beside targets, each of which has its own."""
    if class_weights != "none" and targets:
        raise ValueError("class_weights beside targets: set it for each target (targets.NAME.class_weights)")


class RunOptions(_Options):
    """Everything about training that is not data or model."""

    budget: Duration | None = Field(default=None, description="wall-clock time of training alone, such as 30min")
    steps: int | None = Field(default=None, ge=1, description="stop after this many steps")
    epochs: float | None = Field(default=None, gt=0, description="stop after this many passes over the data")
    batch_size: int = Field(default=4, ge=1, description="structures in a batch, over all processes")
    batch_cost: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        default=None, description="edges in a batch (instead of structures); auto: memory decides"
    )
    memory_share: float = Field(default=0.8, gt=0, le=1, description="with batch_cost auto: fraction of free memory")
    temperature: float = Field(default=2.0, ge=1, description="of sampling: probability of a dataset ∝ size^(1/T)")
    optimiser: OptimiserOptions = OptimiserOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of averaged weights; none: no averaging")
    precision: Precision = Field(default="32", description="bf16, fp16: mixed; direct forces and scalars only")
    validate_every: Duration = Field(default=parse_duration("1 epoch"), description="also in steps, or % of the run")
    checkpoint_every: Duration = Field(default=parse_duration("5min"), description="also in steps")
    patience: int | None = Field(
        default=None, ge=1, description="stop after this many validations without a better one"
    )
    free_atoms_only: bool = Field(default=True, description="leave fixed atoms out of force losses and metrics")
    log_every: int = Field(default=50, ge=1, description="steps between rows of the metrics")
    tensorboard: bool = Field(default=False, description="also write the metrics for TensorBoard")
    wandb: bool = Field(default=False, description="the same for Weights & Biases; WANDB_MODE=offline keeps them here")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of order, fresh heads and dropout")
    checkpoint_blocks: bool = Field(
        default=False, description="recompute blocks in the backward pass: less memory, more time"
    )
    workers: int = Field(default=0, ge=0, description="processes that read data and build graphs")
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    devices: int = Field(default=1, ge=1, description="processes per machine")
    nodes: int = Field(default=1, ge=1, description="machines")
    dropout: float | None = Field(default=None, ge=0, lt=1, description="none: the model's")
    edge_dropout: float | None = Field(default=None, ge=0, lt=1, description="none: the model's")

    @model_validator(mode="after")
    def _ends(self) -> "RunOptions":
        if not self.limits:
            raise ValueError("say how long to train: budget, steps or epochs")
        if self.budget is not None and self.budget.unit != "seconds":
            raise ValueError(f"budget {self.budget}: give a time such as 30min, or use steps or epochs")
        for name, duration in (("budget", self.budget), ("checkpoint_every", self.checkpoint_every)):
            if duration is not None and not duration.amount:
                raise ValueError(f"{name} {duration}: give a time above 0")
        if not self.validate_every.amount:
            raise ValueError(f"validate_every {self.validate_every}: give more than 0")
        if self.validate_every.unit == "seconds":
            raise ValueError(f"validate_every {self.validate_every}: give steps, epochs or a percentage of the run")
        if self.checkpoint_every.unit not in {"seconds", "steps"}:
            raise ValueError(f"checkpoint_every {self.checkpoint_every}: give a time or steps")
        return self

    @property
    def max_cost(self) -> int | None:
        """Edges in a batch; raises ConfigError if not measured yet (`train.dataloaders`)."""
        if self.batch_cost == "auto":
            raise ConfigError("batch_cost auto: is not available for this operation: give a number")
        return self.batch_cost

    @property
    def boards(self) -> dict[str, bool]:
        """Where else the metrics go."""
        return {"tensorboard": self.tensorboard, "wandb": self.wandb}

    @property
    def limits(self) -> tuple[Duration, ...]:
        """What ends the run."""
        texts = [
            None if self.steps is None else f"{self.steps} steps",
            None if self.epochs is None else f"{self.epochs:f} epochs",
        ]
        counted = [parse_duration(text) for text in texts if text]
        return tuple(counted if self.budget is None else [self.budget, *counted])


class RoundOptions(RunOptions):
    """Options of a run that may be one of several rounds."""

    rounds: int = Field(
        default=1, ge=1, le=20, description="number of cuts, each a part of the way, with training after each"
    )


Options = TypeVar("Options", bound=BaseModel)


def validated(kind: type[Options], values: dict[str, Any]) -> Options:
    """Check options; raises ConfigError with the first problem in one line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"options: {problem_of(error, kind)}") from error
