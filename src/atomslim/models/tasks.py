"""What a model predicts: tasks, their targets, and how a head's raw numbers become physical ones."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator
from torch import nn

from atomslim.arguments import ExplainedModel
from atomslim.models.graph_settings import GraphSettings

TargetKind = Literal["energy", "direct_forces", "conservative_forces", "scalar", "r2", "binary"]

PROBABILITY = "probability"
"""Unit of predictions for binary labels, and the suffix of their names in files of predictions."""


class Target(BaseModel, metaclass=ExplainedModel):
    """One quantity of a task.

    Physical value = ``std`` · raw + ``mean`` + Σ_atoms ``references[Z]``. Conservative forces (and stress) have no
    numbers of their own: they are derivatives of the task's physical energy. For binary labels, this is the
    logit z, and the prediction is the probability of 1, 1/(1 + e^−z).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="key of the prediction: energy, forces, or the property's name")
    kind: TargetKind = Field(description="which head computes it")
    reduction: Literal["sum", "mean"] = Field(default="sum", description="how atoms make up the structure's value")
    unit: str = Field(default="eV", description="unit of the physical value")
    mean: float = Field(default=0.0, description="added to the scaled raw value")
    std: float = Field(default=1.0, gt=0, description="multiplies the raw value")
    references: dict[int, float] = Field(default_factory=dict, description="energy of one atom of each element")
    base_rate: float | None = Field(
        default=None, gt=0, lt=1, description="fraction of ones among the training labels, for a binary target"
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return plain_name(name)

    @property
    def output_name(self) -> str:
        """The name of its prediction in files: for a binary label, NAME_probability."""
        return f"{self.name}_{PROBABILITY}" if self.kind == "binary" else self.name


class Task(BaseModel, metaclass=ExplainedModel):
    """A named set of targets that a dataset defines, with the settings of its graphs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="name by which the task is chosen")
    targets: tuple[Target, ...] = Field(min_length=1, description="what is predicted")
    graph: SerializeAsAny[GraphSettings] = Field(description="cutoff of its graphs, and further settings of the family")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        return plain_name(name)

    @model_validator(mode="after")
    def _consistent(self) -> "Task":
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"task {self.name}: two targets have one name: {names}")
        if self.conservative and self.of_kind("energy") is None:
            raise ValueError(f"task {self.name}: conservative forces need an energy target to be the derivative of")
        return self

    def of_kind(self, kind: TargetKind) -> Target | None:
        """Return the first target of this kind, or None."""
        return next((target for target in self.targets if target.kind == kind), None)

    @property
    def labels(self) -> list[str]:
        """Names of the binary targets."""
        return [target.name for target in self.targets if target.kind == "binary"]

    @property
    def conservative(self) -> bool:
        """Whether forces are the negative gradient of the energy."""
        return self.of_kind("conservative_forces") is not None

    @property
    def direct(self) -> bool:
        """Whether forces come from a separate head, which does not conserve energy."""
        return self.of_kind("direct_forces") is not None


def energy_and_forces(
    name: str,
    *,
    forces: Literal["direct", "conservative"],
    graph: GraphSettings,
    energy_std: float = 1.0,
    force_std: float = 1.0,
) -> Task:
    """Return a task with the targets ``energy`` (eV) and ``forces`` (eV/Å)."""
    kind: TargetKind = "direct_forces" if forces == "direct" else "conservative_forces"
    targets = (
        Target(name="energy", kind="energy", std=energy_std),
        Target(name="forces", kind=kind, unit="eV/Å", std=force_std if forces == "direct" else 1.0),
    )
    return Task(name=name, targets=targets, graph=graph)


def matching(target: Target, old: Task | None) -> Target | None:
    """Return the target of a task whose head gives this one, or None: of the same kind, and the same name if one is."""
    candidates = [other for other in old.targets if other.kind == target.kind] if old else []
    same = [other for other in candidates if other.name == target.name]
    return next(iter(same or candidates), None)


def task_name(name: str) -> str:
    """Return a valid task name for a name in another package's file: without dots and slashes."""
    return re.sub(r"[./\\]", "_", name)


def plain_name(name: str) -> str:
    """Return the name of a task or target; raises ValueError for one with a meaning in files or to torch."""
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"name {name[:60]!r}: give one without a dot (it separates names in files) that torch does not use"
        )
    if not name.isprintable() or "/" in name or "\\" in name:
        raise ValueError(f"name {name[:60]!r}: give one without / and \\, for files are named after it")
    return name
