"""Options of a study: which model, which cuts, what is distilled and fine-tuned, with which seeds."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from atomslim.arguments import problem_of
from atomslim.errors import ConfigError
from atomslim.models.registry import located
from atomslim.parsing import read_yaml
from atomslim.train.distill import DistillOptions
from atomslim.train.finetune import FinetuneOptions
from atomslim.train.options import RunOptions, TaskOptions, validated
from atomslim.validation.checks import chosen_checks

Realign = Literal["sliced", "random", "least-squares", "least-squares-forces", "hand-over", "hand-over-forces"]
Start = Literal["sliced", "least-squares", "least-squares-forces", "hand-over", "hand-over-forces"]
Strategy = Literal[
    "full",
    "sliced",
    "random",
    "least-squares",
    "least-squares-forces",
    "hand-over",
    "hand-over-forces",
    "distilled",
    "least-squares-distilled",
    "least-squares-forces-distilled",
    "hand-over-distilled",
    "hand-over-forces-distilled",
]

DISTILLED: dict[Start, Strategy] = {
    "sliced": "distilled",
    "least-squares": "least-squares-distilled",
    "least-squares-forces": "least-squares-forces-distilled",
    "hand-over": "hand-over-distilled",
    "hand-over-forces": "hand-over-forces-distilled",
}
"""What a student starts from → its strategy."""

STARTS: dict[Strategy, Start] = {strategy: start for start, strategy in DISTILLED.items()}

FITS: dict[Strategy, tuple[Literal["sliced", "least-squares", "least-squares-forces"], bool]] = {
    "least-squares": ("least-squares", False),
    "least-squares-forces": ("least-squares-forces", False),
    "hand-over": ("sliced", True),
    "hand-over-forces": ("least-squares-forces", True),
}
"""Strategies that use calibration structures → how they re-align the readout, and whether they hand over."""

_BLOCK = re.compile(r"block (\d+)")


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class DistillationOptions(BaseModel):
    """How the full model is distilled into the cut ones: every option of distillation, and where they start."""

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True)

    start: tuple[Start, ...] = Field(
        default=("sliced",), min_length=1, description="the cut that students start from; several: each of them"
    )

    structures: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        description="numbers of training structures of each task for a learning curve: of the first start and the "
        "first cut that it is for, beside that on all structures",
    )

    @field_validator("start", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def run(self) -> dict[str, Any]:
        """Options of the run."""
        return dict(self.model_extra or {})

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The strategies that it gives."""
        return tuple(DISTILLED[start] for start in self.start)


class DownstreamOptions(_Options):
    """A dataset that every variant of the model is fine-tuned on."""

    name: str = Field(description="name in tables and figures, and of the cells' folders", pattern=r"^[\w-]+$")
    data: str = Field(description="dataset, as in rmd17:aspirin")
    target: str = Field(default="forces", description="target whose error is shown")
    strategies: tuple[Strategy, ...] = Field(default=("full", "sliced", "random", "distilled"), min_length=1)
    finetune: dict[str, Any] = Field(description="options of fine-tuning, the budget among them")


class SpeedOptions(_Options):
    """How the efficiency table is measured."""

    structures: str = Field(default="mof5", description="a built-in structure, or a file, of which the first is used")
    task: str | None = Field(default=None, description="task whose graphs and heads are used; none: the model's first")
    mode: Literal["energy", "forces"] = Field(default="forces", description="energy: predictions without forces")
    repeats: int = Field(default=10, ge=1)


class ValidateOptions(_Options):
    """How the physics of every variant is checked, the full model alone and the others against it."""

    checks: tuple[str, ...] = Field(default=("quick",), min_length=1, description="quick, full, or names of checks")
    structures: tuple[str, ...] = Field(default=(), description="files or datasets; none: built-in ones")
    task: str | None = Field(default=None, description="task whose energy is checked; none: the model's first")

    @field_validator("checks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            chosen_checks(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value


class StudyOptions(_Options):
    """One study: a grid of cells."""

    title: str = Field(default="Block reduction", description="title of the report")
    model: str = Field(description="file of the full model; $NAME stands for an environment variable")
    mix: tuple[TaskOptions, ...] = Field(default=(), description="the model's pre-training tasks with their datasets")
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(5, 4, 3, 2), min_length=1, description="blocks that are kept, from the first"
    )
    without: tuple[str, ...] = Field(
        default=(),
        description="cuts by what they leave out: finer units with all blocks, as in angles 2, or blocks by their "
        "numbers, as in block 3; several of one cut: block 3,angles 1",
    )
    cutoffs: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(), description="shorter cutoffs in Å with all blocks, not re-aligned, possibly distilled"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(default=(0,), min_length=1)
    realign: tuple[Realign, ...] = Field(default=("sliced", "random", "least-squares"), min_length=1)
    calibration: int = Field(default=256, ge=1, description="structures of each task for least squares")
    relevance: int = Field(default=128, ge=0, description="structures of each task for relevance; 0: none")
    distill: DistillationOptions | None = Field(default=None, description="none: no distillation")
    downstream: tuple[DownstreamOptions, ...] = Field(default=())
    speed: SpeedOptions | None = Field(default=SpeedOptions(), description="none: no efficiency table")
    validate_physics: ValidateOptions | None = Field(default=None, description="none: the physics is not checked")
    accelerator: Literal["cpu", "gpu", "auto"] = Field(default="cpu", description="device of all cells")

    @model_validator(mode="after")
    def _consistent(self) -> "StudyOptions":
        self._require_mix()
        for part in self.downstream:
            self._require_distilled(part)
            _require_options(f"downstream {part.name}, finetune", FinetuneOptions, part.finetune)
        if self.distill is not None:
            _require_options("distill", DistillOptions, self.distill.run)
        for cut in self.without:
            if not all(units_of(cut)):
                raise ValueError(f"without {cut!r}: name units, with commas between those of one cut")
        self._require_gaps()
        names = [part.name for part in self.downstream]
        if len(set(names)) < len(names):
            raise ValueError(f"two downstream datasets have one name: {', '.join(names)}")
        return self

    def _require_gaps(self) -> None:
        distilled = () if self.distill is None else self.distill.start
        for strategy in (*self.realign, *distilled):
            if not any(is_for(strategy, cut) for cut in ("", *self.without)):
                raise ValueError(f"{strategy}: is for cuts without a block of the middle, as in without: [block 3]")

    def _require_mix(self) -> None:
        fitted = any(strategy in FITS for part in self.downstream for strategy in part.strategies)
        if (self.distill is not None or self.relevance or fitted) and not self.mix:
            raise ValueError(
                "relevance, distillation and least squares need data: name the model's tasks and datasets under mix"
            )

    def _require_distilled(self, part: DownstreamOptions) -> None:
        known = () if self.distill is None else self.distill.strategies
        for strategy in part.strategies:
            if strategy in DISTILLED.values() and strategy not in known:
                raise ValueError(f"downstream {part.name}: strategy {strategy} needs distill with that start")

    @property
    def of_cutoffs(self) -> tuple[Strategy, ...]:
        """The strategies of shorter cutoffs: unchanged and, with distillation, distilled from that."""
        return ("sliced",) if self.distill is None else ("sliced", "distilled")

    @property
    def learning_curve(self) -> tuple[Strategy, int | None, str]:
        """The student of the learning curve: its strategy, and the first cut that it is for."""
        student: Strategy = "distilled" if self.distill is None else self.distill.strategies[0]
        if is_for(student, ""):
            return student, self.blocks[0], ""
        return student, None, next(cut for cut in self.without if is_for(student, cut))

    @property
    def model_path(self) -> Path:
        """Where the full model is."""
        return located(Path(os.path.expandvars(self.model)).expanduser())[0]


def units_of(cut: str) -> list[str]:
    """Return the units that a cut leaves out, blocks among them."""
    return [name.strip() for name in cut.split(",")]


def blocks_of(cut: str) -> list[int]:
    """Return the numbers of the blocks that a cut leaves out."""
    return [int(found[1]) for name in units_of(cut) if (found := _BLOCK.fullmatch(name))]


def finer_units_of(cut: str) -> list[str]:
    """Return the units finer than blocks that a cut leaves out."""
    return [name for name in units_of(cut) if name and not _BLOCK.fullmatch(name)]


def is_for(strategy: Strategy, cut: str) -> bool:
    """Say whether a strategy fits a cut: a hand-over is for those that leave out blocks by their numbers."""
    return not FITS.get(STARTS.get(strategy, strategy), ("sliced", False))[1] or bool(blocks_of(cut))


def _require_options(where: str, kind: type[RunOptions], values: dict[str, Any]) -> None:
    try:
        validated(kind, values)
    except ConfigError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('options: ')}") from error


def read_study(path: Path) -> StudyOptions:
    """Read a study's YAML; raises ConfigError with the first problem in one line."""
    try:
        return StudyOptions.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {problem_of(error, StudyOptions)}") from error
