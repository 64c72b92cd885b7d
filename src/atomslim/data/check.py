"""Checks of a dataset: counts, missing and impossible values, units, signs, duplicates."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from atomslim.atoms.batch import validate
from atomslim.atoms.sample import Sample, to_batch
from atomslim.data.check_labels import (
    FEWEST_PAIRS,
    TOLERANCE,
    EnergySeen,
    ForcesSeen,
    Level,
    StressSeen,
    meaning,
    nearest_pairs,
    slope,
)
from atomslim.data.dataset import Dataset, PreparedDataset, RawDataset
from atomslim.data.info import DatasetInfo
from atomslim.data.readers._units import require_total
from atomslim.data.splits import Split
from atomslim.data.survey import HOW, Survey, described
from atomslim.errors import AtomslimError, DataError, StructureError
from atomslim.progress import tracked
from atomslim.words import number_of

_FRAMES = 300
"""Frames of one molecule among which neighbouring ones are looked for when consecutive ones are too far apart."""

_SAME = 1e-4
"""Å: structures whose atoms agree to this are the same."""

_LARGE_FORCE = 15.0
"""eV/Å: root mean square of forces beyond what sampled or relaxed structures have."""

_BONDS = {"nm": (0.05, 0.3), "bohr": (1.65, 2.4)}
"""Distance between a hydrogen atom and the atom it is bound to (0.7 to 1.3 Å), in other units."""


@dataclass(frozen=True)
class Finding:
    """One result: `what` was checked, and the outcome."""

    level: Level
    what: str
    text: str


@dataclass
class Report:
    """All findings."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, level: Level, what: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, what, text))

    @property
    def problems(self) -> list[Finding]:
        """The findings that make a dataset unfit."""
        return [finding for finding in self.findings if finding.level == "problem"]

    @property
    def verdict(self) -> str:
        """What follows from the findings, in one line."""
        if self.problems:
            return f"not fit for training: {_number(len(self.problems), 'problem')}: {_listed(self.problems)}"
        notes = [finding for finding in self.findings if finding.level == "note"]
        return (
            f"fit for training, with {_number(len(notes), 'note')}: {_listed(notes)}" if notes else "fit for training"
        )

    def __str__(self) -> str:
        """One line for each finding, and the verdict."""
        lines = [f"{finding.level:8} {finding.what:22} {finding.text}" for finding in self.findings]
        return "\n".join([*lines, f"verdict  {self.verdict}"])


def check(
    samples: Iterable[Sample],
    expected: int | None = None,
    targets: Sequence[str] = (),
    *,
    split: Split | None = None,
    against: Iterable[Sample] | None = None,
) -> Report:
    """Check every structure once.

    Args:
        samples: the dataset.
        expected: number of structures that it should have.
        targets: names of the targets that each structure should have.
        split: its sets, which should not share a structure.
        against: another dataset, with which it should not share one either.

    """
    report = Report()
    seen = _Seen(energy_unit_given=energy_unit_given(samples))
    try:
        for sample in tracked(samples, "check", expected):
            seen.look(sample)
    except (DataError, StructureError) as error:
        report.add("problem", "reading", str(error))
    _report_count(report, seen, expected)
    if not seen.count:
        return report
    _report_labels(report, seen, samples)
    _report_structures(report, seen)
    _report_targets(report, seen, targets, getattr(samples, "info", None))
    _report_units(report, seen)
    _report_consistency(report, seen)
    _report_duplicates(report, seen)
    if split is not None:
        _report_split(report, seen, split)
    if against is not None:
        _report_overlap(report, seen, against)
    return report


def unit_problems(dataset: Dataset, numbers: Sequence[int]) -> list[Finding]:
    """Report wrong units and signs in the first few hundred of ``numbers``; empty if all seems well."""
    report, seen = Report(), _Seen(energy_unit_given=energy_unit_given(dataset))
    for sample in map(dataset.__getitem__, numbers[:_FRAMES]):
        seen.look(sample)
    _report_units(report, seen)
    _report_consistency(report, seen)
    return report.problems


def energy_unit_given(samples: Iterable[Sample]) -> bool:
    """Whether the dataset was opened or prepared with the option energy_unit, which settles the unit."""
    options = samples.source.options if isinstance(samples, RawDataset) else {}
    if isinstance(samples, PreparedDataset):
        options = samples.container.metadata.get("options", {})
    return bool(options.get("energy_unit"))


def same_structure_key(sample: Sample) -> int:
    """Give a number that is equal for structures whose atoms, in the same order, agree to 1e-4 Å."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(sample.numbers.tobytes())
    for array in (sample.positions, sample.cell):
        digest.update((np.rint(array / _SAME) + 0.0).tobytes())  # adding 0 makes zeros of negative zeros
    digest.update(sample.pbc.tobytes())
    return int.from_bytes(digest.digest(), "little")


class _Seen:
    """Statistics of one pass over a dataset."""

    def __init__(self, *, energy_unit_given: bool) -> None:
        self.energy_unit_given = energy_unit_given
        self.count = 0
        self.keys: list[int] = []
        self.targets: Counter[str] = Counter()
        self.nonzero: Counter[str] = Counter()
        self.bad: list[str] = []
        self.units: list[str] = []
        self.consecutive: list[tuple[Sample, Sample]] = []
        self.alike: list[Sample] = []
        self.bonds: list[float] = []
        self.force_squares, self.force_count, self.largest_force = 0.0, 0, 0.0
        self.stress, self.forces, self.energy = StressSeen(), ForcesSeen(), EnergySeen()
        self.survey = Survey("the data")
        self._last: Sample | None = None

    def look(self, sample: Sample) -> None:
        self.keys.append(same_structure_key(sample))
        self.targets.update(sample.targets.keys())
        self.nonzero.update(name for name, values in sample.targets.items() if values.any())
        self._look_for_impossible(sample)
        self.survey.add(sample)
        for one in (self.stress, self.forces, self.energy):
            one.look(sample)
        if self.count < _FRAMES:
            self._look_at_units(sample)
        if {"energy", "forces"} <= sample.targets.keys():
            self._look_at_forces(sample)
        self.count += 1

    def _look_for_impossible(self, sample: Sample) -> None:
        try:
            validate(to_batch([sample]))
        except StructureError as error:
            self.bad.append(f"{sample.name}: {str(error).removeprefix('structure 0').lstrip(',: ')}")
        for name, values in sample.targets.items():
            if not np.isfinite(values).all():
                self.bad.append(f"{sample.name}: {name} is not finite")

    def _look_at_units(self, sample: Sample) -> None:
        if "energy" in sample.targets and not sample.pbc.any():
            try:
                require_total(float(sample.targets["energy"]), sample.numbers, "eV", sample.name or "a structure")
            except DataError as error:
                self.units.append(str(error))
        if (bond := _hydrogen_bond_length(sample)) is not None:
            self.bonds.append(bond)

    def _look_at_forces(self, sample: Sample) -> None:
        forces = sample.targets["forces"]
        self.force_squares += float((forces**2).sum())
        self.force_count += forces.size
        self.largest_force = max(self.largest_force, float(np.abs(forces).max(initial=0.0)))
        if self._last is not None and len(self.consecutive) < _FRAMES and _comparable(self._last, sample):
            self.consecutive.append((self._last, sample))
        if len(self.alike) < _FRAMES and (not self.alike or _comparable(self.alike[0], sample)):
            self.alike.append(sample)
        self._last = sample


def _report_count(report: Report, seen: _Seen, expected: int | None) -> None:
    if not seen.count:
        report.add("problem", "number of structures", "there are none")
    elif expected not in {None, seen.count}:
        report.add("problem", "number of structures", f"{seen.count}, where {expected} are expected")
    else:
        report.add("ok", "number of structures", str(seen.count))


def _report_labels(report: Report, seen: _Seen, samples: Iterable[Sample]) -> None:
    """List the labels first."""
    found = described(seen.survey, samples)
    level: Level = "ok" if not found.remarks.unused and not found.remarks.left_out else "note"
    text = found.line() if found.counts else f"{found.line()}: {HOW}"
    report.findings.insert(0, Finding(level if found.counts else "problem", "labels", text))


def _report_structures(report: Report, seen: _Seen) -> None:
    if seen.bad:
        report.add("problem", "impossible values", f"in {len(seen.bad)} structures, first {seen.bad[0]}")
    else:
        report.add(
            "ok", "impossible values", "none: all numbers are finite, all elements known, all cells have a volume"
        )


def _report_targets(report: Report, seen: _Seen, expected: Sequence[str], info: DatasetInfo | None) -> None:
    for name in dict.fromkeys([*expected, *seen.targets]):
        number, nonzero = seen.targets[name], seen.nonzero[name]
        labels = info is not None and info.is_label(name)
        if not number and seen.count:
            report.add("problem", name, "no structure has it")
        elif number < seen.count:
            level: Level = "problem" if name in expected and not labels else "note"
            report.add(level, name, f"{seen.count - number} of {seen.count} structures do not have it")
        elif number and not nonzero and not labels:
            report.add("problem", name, "zero in all structures")
        if number and labels:
            text = f"yes (1) for {nonzero} of {number} labels, {nonzero / number:.1%}"
            one = nonzero in {0, number}
            report.add("problem" if one else "ok", name, text + (": there is nothing to distinguish" if one else ""))


def _report_units(report: Report, seen: _Seen) -> None:
    if seen.units and seen.energy_unit_given:
        report.add("note", "unit of the energy", "as the option energy_unit says, although another would fit better")
    elif seen.units:
        report.add("problem", "unit of the energy", seen.units[0])
    bond = float(np.median(seen.bonds)) if seen.bonds else None
    for unit, (low, high) in _BONDS.items():
        if bond is not None and low < bond < high:
            text = f"hydrogen is {bond:.2f} from its nearest atom: the positions look like {unit}"
            report.add("problem", "unit of the positions", text)
    if (totals := seen.energy.finding()) is not None:
        report.add("note", "size of the energies", totals)
    if seen.stress.numbers:
        report.add(*seen.stress.finding())
    if not seen.force_count:
        return
    size = float(np.sqrt(seen.force_squares / seen.force_count))
    text = f"root mean square {size:.3g}, largest component {seen.largest_force:.3g} eV/Å"
    if size > _LARGE_FORCE:
        report.add("problem", "unit of the forces", f"{text}: this looks like kcal/mol/Å")
    else:
        report.add("ok", "size of the forces", text)
    if 0 < seen.forces.zero < seen.forces.structures:
        report.add("note", "forces", seen.forces.finding())


def _report_consistency(report: Report, seen: _Seen) -> None:
    if not seen.force_count:
        return
    what = "energy and forces"
    number, value, correlation = slope(seen.consecutive)
    if number < FEWEST_PAIRS:
        number, value, correlation = slope(nearest_pairs(seen.alike))
    text = f"slope {value:.3g}, correlation {correlation:.2f} over {number} pairs of neighbouring frames"
    if number < FEWEST_PAIRS:
        report.add("note", what, "cannot be compared: no two frames of one molecule are close enough")
    elif abs(correlation) < 0.6:
        report.add("note", what, f"{text}: too noisy to compare")
    elif abs(value - 1) < TOLERANCE:
        report.add("ok", what, f"belong together: {text} (1 is right)")
    else:
        report.add("problem", what, f"do not belong together: {text} (1 is right){meaning(value)}")


def _report_duplicates(report: Report, seen: _Seen) -> None:
    first: dict[int, int] = {}
    copies = [(number, first[key]) for number, key in enumerate(seen.keys) if first.setdefault(key, number) != number]
    if copies:
        text = f"{number_of(len(copies), 'structure')} seen before, first: {copies[0][0]} is {copies[0][1]} (from 0)"
        report.add("note", "duplicates", text)
    else:
        report.add("ok", "duplicates", "none")


def _report_split(report: Report, seen: _Seen, split: Split) -> None:
    if split.count != seen.count:
        report.add("problem", "split", f"is made for {number_of(split.count, 'structure')}, there are {seen.count}")
        return
    train = {seen.keys[number] for number in split.train}
    for name, numbers in (("validation", split.validation), ("test", split.test)):
        shared = [number for number in numbers if seen.keys[number] in train]
        if shared:
            text = f"{number_of(len(shared), 'structure')} of the {name} set also in training, first {shared[0]}"
            report.add("problem", "split", text)
        else:
            report.add("ok", "split", f"training and {name} sets share no structure")


def _report_overlap(report: Report, seen: _Seen, against: Iterable[Sample]) -> None:
    keys = {key: number for number, key in reversed(list(enumerate(seen.keys)))}
    shared = [(keys[key], sample.name) for sample in against if (key := same_structure_key(sample)) in keys]
    if shared:
        text = f"{number_of(len(shared), 'structure')} in both, first: {shared[0][0]} is {shared[0][1]}"
        report.add("problem", "the other dataset", text)
    else:
        report.add("ok", "the other dataset", "shares no structure")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(finding.what for finding in findings))


def _comparable(a: Sample, b: Sample) -> bool:
    """Whether two frames are of one molecule or system, in one cell."""
    same_system = a.group == b.group and np.array_equal(a.numbers, b.numbers)
    return same_system and np.array_equal(a.cell, b.cell) and np.array_equal(a.pbc, b.pbc)


def _hydrogen_bond_length(sample: Sample) -> float | None:
    """Median distance of hydrogen atoms from their nearest atom, in a molecule of moderate size."""
    hydrogen = np.flatnonzero(sample.numbers == 1)
    if not len(hydrogen) or not 2 < len(sample) < 500 or sample.pbc.any():
        return None
    distance = np.linalg.norm(sample.positions[hydrogen][:, None] - sample.positions[None], axis=2)
    distance[np.arange(len(hydrogen)), hydrogen] = np.inf
    return float(np.median(distance.min(axis=1)))


def require_fit(report: Report, name: str) -> None:
    """Raise AtomslimError, in one line, when problems were found."""
    if report.problems:
        first = report.problems[0]
        raise AtomslimError(
            f"{name}: {_number(len(report.problems), 'problem')}, first {first.what}: {first.text}; "
            "mend the data before training"
        )
