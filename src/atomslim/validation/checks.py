"""The checks of `checks.yaml`: what each measures, and how its numbers are judged."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any, Literal, TypeAlias, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from atomslim.errors import ConfigError
from atomslim.validation.measurement import Contrast, Measure, Measurement
from atomslim.validation.structures import Kind

Set = Literal["quick", "full"]

SETS = get_args(Set)

Made = Kind | Literal["labels", "end points"]
"""What a check applies to: a kind of structure, labelled structures, or two end points."""

OTHER_KINDS = frozenset(("labels", "end points"))
"""Subjects that are not a kind of structure."""


class Bar(BaseModel):
    """The bar of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str = Field(description="of the number")
    bar: float | None = Field(default=None, ge=0, description="the number, or its difference, must not be above it")
    at_least: float | None = Field(default=None, description="the number must not be below it")
    against: Literal["relative", "absolute", "contrast"] | None = Field(default=None, description="the reference")


class Check(BaseModel):
    """One check, as in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    measure: str = Field(description="module and function that measures")
    contrast: str | None = Field(default=None, description="module and function that compares two measurements")
    kinds: tuple[Made, ...]
    only: str | None = Field(default=None, description="the one built-in structure it applies to")
    definition: str
    means: str
    source: str
    settings: dict[str, Any]
    quick: dict[str, Any] | None = None
    full: dict[str, Any] | None = None
    numbers: dict[str, Bar]

    def function(self) -> Measure:
        """Return the function that measures."""
        return cast("Measure", _found(self.measure))

    def differences(self, model: Measurement, reference: Measurement) -> dict[str, float]:
        """Return the numbers that need two measurements."""
        return {} if self.contrast is None else cast("Contrast", _found(self.contrast))(model, reference)

    @property
    def needs_reference(self) -> bool:
        """Whether any of its numbers is compared with a reference's."""
        return any(bar.against is not None for bar in self.numbers.values())

    def settings_of(self, chosen: Set) -> dict[str, Any]:
        """Return the settings of a set."""
        return self.settings | ((self.quick if chosen == "quick" else self.full) or {})

    def is_in(self, chosen: Set) -> bool:
        """Say whether the check belongs to a set."""
        return (self.quick if chosen == "quick" else self.full) is not None


class Verdict(BaseModel):
    """One number of one check on one structure, judged if there is a bar; ``passed`` is None without one."""

    model_config = ConfigDict(frozen=True)

    check: str
    structure: str
    number: str
    value: float
    unit: str
    reference: float | None = None
    difference: float | None = None
    bar: float | None = None
    passed: bool | None = None
    relative: bool = False
    """Whether difference and bar are relative to the reference."""

    def amounts(self, digits: int = 3) -> tuple[str, str]:
        """Return the judged value and its bar, in per cent if they are relative."""
        value = self.value if self.difference is None else self.difference
        factor, unit = (100, " %") if self.relative and self.difference is not None else (1, "")
        return f"{factor * value:.{digits}g}{unit}", f"{factor * (self.bar or 0.0):g}{unit}"


@cache
def checks() -> dict[str, Check]:
    """Return all checks by name, in the file's order."""
    text = files("atomslim.validation").joinpath("checks.yaml").read_text(encoding="utf-8")
    return {name: Check(name=name, **content) for name, content in yaml.safe_load(text).items()}


Chosen: TypeAlias = tuple[Check, Set]
"""A check, and the set whose settings it uses."""


def chosen_checks(names: str | Sequence[str]) -> list[Chosen]:
    """Return the checks of sets, quick or full, and those of these names with full settings, each once.

    Raises ConfigError for an unknown name, or for none.
    """
    found: dict[str, Chosen] = {}
    for name in (names,) if isinstance(names, str) else names:
        if name in SETS:
            which = cast("Set", name)
            some = [(check, which) for check in checks().values() if check.is_in(which)]
        elif name in checks():
            some = [(checks()[name], "full")]
        else:
            raise ConfigError(f"check {name!r}: there are quick, full, {', '.join(checks())}")
        found |= {check.name: (check, which) for check, which in some}
    if not found:
        raise ConfigError("no checks: name quick, full, or some")
    return list(found.values())


def judge(check: Check, structure: str, model: Measurement, reference: Measurement | None) -> list[Verdict]:
    """Compare the numbers of a check with their bars."""
    numbers = dict(model.numbers)
    if reference is not None:
        numbers |= check.differences(model, reference)
    return [
        _judged(check, structure, name, value, None if reference is None else reference.numbers.get(name))
        for name, value in numbers.items()
    ]


def _judged(check: Check, structure: str, name: str, value: float, reference: float | None) -> Verdict:
    bar = check.numbers.get(name, Bar(unit=""))
    difference = None
    if reference is not None and bar.against in {"relative", "absolute"}:
        difference = abs(value - reference)
        if bar.against == "relative":
            difference /= max(abs(reference), 1e-12)
    judged = value if bar.against in {None, "contrast"} else difference
    outcomes = [judged <= bar.bar] if bar.bar is not None and judged is not None else []
    outcomes += [value >= bar.at_least] if bar.at_least is not None else []
    return Verdict(
        check=check.name,
        structure=structure,
        number=name,
        value=value,
        unit=bar.unit,
        reference=reference,
        difference=difference,
        bar=bar.bar if judged is not None and bar.bar is not None else bar.at_least,
        passed=all(outcomes) if outcomes else None,
        relative=bar.against == "relative",
    )


def _found(name: str) -> Any:
    module, _, function = name.partition(".")
    return getattr(import_module(f"atomslim.validation.{module}"), function)
