"""Options of a study: which model, which cuts, what is distilled and fine-tuned, with which seeds."""

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atomslim.errors import ConfigError
from atomslim.models.checkpoint.metadata import first_problem
from atomslim.train.options import TaskOptions

Realign = Literal["sliced", "random", "least-squares"]
Strategy = Literal["full", "sliced", "random", "least-squares", "distilled"]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DownstreamOptions(_Options):
    """A dataset that every variant of the model is fine-tuned on."""

    name: str = Field(description="name in tables and figures, and of the cells' folders", pattern=r"^[\w.]+$")
    data: str = Field(description="dataset, as in rmd17:aspirin")
    target: str = Field(default="forces", description="target whose error is shown")
    strategies: tuple[Strategy, ...] = Field(default=("full", "sliced", "random", "distilled"), min_length=1)
    finetune: dict[str, Any] = Field(description="options of fine-tuning, the budget among them")


class SpeedOptions(_Options):
    """How the efficiency table is measured."""

    structures: str = Field(default="mof5", description="a built-in structure, or a file")
    repeats: int = Field(default=5, ge=1)


class StudyOptions(_Options):
    """One study: a grid of cells."""

    title: str = Field(default="Block reduction", description="title of the report")
    model: str = Field(description="file of the full model; $NAME stands for an environment variable")
    mix: tuple[TaskOptions, ...] = Field(default=(), description="the model's pre-training tasks with their datasets")
    blocks: tuple[int, ...] = Field(
        default=(5, 4, 3, 2), min_length=1, description="blocks that are kept, from the first"
    )
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    realign: tuple[Realign, ...] = Field(default=("sliced", "random", "least-squares"), min_length=1)
    calibration: int = Field(default=256, ge=1, description="structures of each task for least squares")
    relevance: int = Field(default=128, ge=0, description="structures of each task for relevance; 0: none")
    distill: dict[str, Any] | None = Field(default=None, description="options of distillation; none: no distillation")
    downstream: tuple[DownstreamOptions, ...] = Field(default=())
    speed: SpeedOptions | None = Field(default=SpeedOptions(), description="none: no efficiency table")

    @model_validator(mode="after")
    def _consistent(self) -> "StudyOptions":
        if self.distill is None and any("distilled" in part.strategies for part in self.downstream):
            raise ValueError("downstream strategies name distilled, and there are no options distill")
        if (self.distill is not None or self.relevance) and not self.mix:
            raise ValueError("relevance and distillation need data: name the model's tasks and datasets under mix")
        names = [part.name for part in self.downstream]
        if len(set(names)) < len(names):
            raise ValueError(f"two downstream datasets have one name: {', '.join(names)}")
        return self

    @property
    def model_path(self) -> Path:
        """Where the full model is."""
        return Path(os.path.expandvars(self.model)).expanduser()


def read_study(path: Path) -> StudyOptions:
    """Read a study's YAML; raises ConfigError with the first problem in one line."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return StudyOptions.model_validate(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error).removeprefix(': ').replace('Value error, ', '')}") from error
