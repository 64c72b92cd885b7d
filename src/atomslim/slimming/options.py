"""What a run from structures to a fast student can be told."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atomslim.slimming.target import Target
from atomslim.train.options import Duration, parse_duration

Positive = Annotated[float, Field(gt=0)]


class SlimOptions(BaseModel):
    """Options of `atomslim slim`: the same fields in YAML, on the command line and in Python."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    structures: tuple[str, ...] = Field(default=(), description="files, folders, containers or datasets")
    teacher: str = Field(default="", description="a model's file or name, or ase:MODULE:CLASS?NAME=VALUE")
    task: str | None = Field(default=None, description="whose heads answer, where the teacher has several")
    teacher_python: str | None = Field(default=None, description="the Python that the teacher is installed in")
    speedup: Positive | None = Field(default=None, description="times the steps of the teacher; 10 by default")
    ms_per_step: Positive | None = Field(default=None, description="milliseconds that a step may take")
    ns_per_day: Positive | None = Field(default=None, description="nanoseconds of dynamics in a day")
    student: str = Field(default="", description="a model to train; empty: one is chosen by its speed")
    start: Literal["trained", "random"] = Field(
        default="trained", description="the weights that training starts with; random: random ones, as a control"
    )
    labels_of: str = Field(
        default="", description="a run whose student, pools and labels are taken; empty: they are made"
    )
    budget: Duration = Field(default=parse_duration("1h"), description="wall clock of all stages but the validation")
    forces: Literal["conservative", "direct"] = "conservative"
    temperatures: tuple[Positive, ...] = Field(
        default=(300.0, 600.0, 1200.0), min_length=1, description="K, that the student is for"
    )
    size: int = Field(default=200, ge=10, description="structures of the pool, at most")
    width: float = Field(default=0.0, ge=0, description="Å: cells are repeated until their faces are so far apart")
    features: str = Field(
        default="", description="a model by which structures are told apart, or distances; empty: the student"
    )
    rounds: int = Field(default=3, ge=0, description="of dynamics by the student, at most")
    runs: int = Field(default=10, ge=1, description="starts of dynamics in each round")
    picoseconds: Positive = Field(default=10.0, description="of each run, where the budget allows it")
    force_bar: Positive = Field(default=4.0, description="% of the rms force that errors on held-out frames may have")
    energy_bar: Positive = Field(default=2.0, description="meV an atom, likewise")
    learning_rate: Positive = Field(default=5e-4, description="of training; a third of it in rounds")
    distil_features: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="fraction of the first training in which a cut of the teacher also learns the teacher's features",
    )
    energies: float = Field(
        default=0.0, ge=0, description="weight of energies of atoms (mean error in eV), if the teacher gives them"
    )
    steps: int | None = Field(default=None, ge=1, description="of each training; none: as many as the budget allows")
    batch_size: int = Field(default=4, ge=1, description="structures in a batch")
    checks: tuple[str, ...] = Field(default=("quick",), description="of the validation: sets, or names of checks")
    package: bool = Field(default=False, description="also compile a package")
    processes: int = Field(default=1, ge=1, description="structures that are labelled at once")
    timeout: Positive | None = Field(default=None, description="seconds that the teacher may take for a structure")
    skip: float = Field(default=0.05, ge=0, lt=1, description="fraction of structures that may have no labels")
    reader: dict[str, str] = Field(default_factory=dict, description="options of the structures' readers")
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("structures", "temperatures", "checks", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """Take one for a list of one."""
        return (value,) if isinstance(value, str | float | int) else value

    @model_validator(mode="after")
    def _sensible(self) -> "SlimOptions":
        if sum(value is not None for value in (self.speedup, self.ms_per_step, self.ns_per_day)) > 1:
            raise ValueError("give one of speedup, ms_per_step and ns_per_day")
        if self.distil_features and self.student:
            raise ValueError("distil_features: a named student is not known as a cut of the teacher: leave it out")
        if self.budget.unit != "seconds" or self.budget.amount <= 0:
            raise ValueError(f"budget {self.budget}: give a time above 0, such as 30min")
        return self

    @property
    def target(self) -> Target:
        """How fast the student is to be."""
        if self.ms_per_step is None and self.ns_per_day is None:
            return Target.of(speedup=self.speedup or 10.0)
        return Target.of(ms_per_step=self.ms_per_step, ns_per_day=self.ns_per_day)

    @property
    def seconds(self) -> float:
        """The budget."""
        return float(self.budget.amount)
