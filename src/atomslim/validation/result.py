"""The result of a validation: plain data, and sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atomslim.report.shown import Shown
from atomslim.validation.checks import Verdict
from atomslim.validation.measurement import Measurement


@dataclass(frozen=True, repr=False)
class Validation(Shown):
    """All verdicts, what could not be done, and the curves behind them."""

    model: str
    against: str | None
    verdicts: tuple[Verdict, ...]
    not_done: tuple[tuple[str, str, str], ...]
    """Check, structure and reason."""
    curves: Mapping[tuple[str, str], tuple[Measurement, Measurement | None]] = field(repr=False)
    """Measurements of model and reference by check and structure."""
    notes: tuple[str, ...] = ()
    """Notes."""
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Wall-clock time by check, of model and reference together; relaxations count for the first check."""
    incomplete: tuple[str, ...] = ()
    """Checks that apply to a structure but could not be done on it, or not compared."""

    @property
    def failed(self) -> list[Verdict]:
        """Verdicts that exceed their bars."""
        return [verdict for verdict in self.verdicts if verdict.passed is False]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def words(self) -> list[str]:
        """Summarise it in a sentence, then check by check."""
        return [self.sentence(), *self.lines()]

    def lines(self) -> list[str]:
        """Return one line for each check, passed, or what exceeds its bar, or why it was not done; then the notes."""
        found = []
        for check in dict.fromkeys([v.check for v in self.verdicts] + [name for name, _, _ in self.not_done]):
            ours = [verdict for verdict in self.verdicts if verdict.check == check]
            found.append(f"{check}: {_outcome(ours, [n for n in self.not_done if n[0] == check])}")
        return [*found, *self.notes]

    def sentence(self) -> str:
        """Summarise it in one sentence."""
        judged = {verdict.check for verdict in self.verdicts if verdict.passed is not None}
        broken = dict.fromkeys(verdict.check for verdict in self.failed)
        missing = f" Not done everywhere: {', '.join(self.incomplete)}." if self.incomplete else ""
        if not judged:
            return f"Nothing was judged: give a reference with against, or structures that checks fit.{missing}"
        if not broken:
            what = f"all {len(judged)} checks that were judged" if len(judged) > 1 else "the one check that was judged"
            return f"{self.model} passes {what}.{missing}"
        passed = f"{self.model} passes {len(judged) - len(broken)} of {len(judged)} checks"
        return f"{passed}; it fails {', '.join(broken)}.{missing}"


def _outcome(verdicts: Sequence[Verdict], not_done: Sequence[tuple[str, str, str]]) -> str:
    broken = [verdict for verdict in verdicts if verdict.passed is False]
    judged = [verdict for verdict in verdicts if verdict.passed is not None]
    parts = []
    if broken:
        worst = broken[0]
        value, bar = worst.amounts()
        what = f"{worst.number} {value} {'' if worst.relative else worst.unit}".strip()
        parts.append(f"FAILED ({worst.structure}: {what}, bar {bar}; {len(broken)} of {len(judged)} numbers)")
    elif judged:
        parts.append(f"passed ({len(judged)} numbers)")
    elif verdicts:
        parts.append(f"measured, no bar without a reference ({len(verdicts)} numbers)")
    parts += [f"not done for {structure}: {reason}" for _, structure, reason in not_done[:2]]
    if len(not_done) > 2:
        parts.append(f"nor for {len(not_done) - 2} others")
    return "; ".join(parts)
