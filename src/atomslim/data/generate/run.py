"""Generating a data set: groups of structures made by several processes, each a part of its domain's container.

Group k of a domain depends on the seed, the domain and k alone, so that neither the number of processes nor an
interruption changes what comes out. A killed run continues with the unfinished groups.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from atomslim.atoms.sample import Sample
from atomslim.data.container import SUFFIX, Container
from atomslim.data.generate.domains import Domain, domain_of
from atomslim.data.generate.labels import Dropped, Labeller, labels_package
from atomslim.data.staging import Part, Staging, part_paths, remove_staging, staging_folder
from atomslim.data.workers import run_jobs
from atomslim.errors import ConfigError
from atomslim.files import atomic_write
from atomslim.parsing import parse_json

SUMMARY = "generated.json"
"""File beside the containers that says what they hold."""

ATTEMPTS = 5
"""How often a group is redrawn before it is given up."""

_LIMIT = 3
"""An attempt is given up once this many times the group's size has been dropped."""

Advance = Callable[[int, int], None]
"""Called with the number of finished structures, and of all."""


@dataclass
class Made:
    """What happened in one domain, or one group of it."""

    asked: int = 0
    written: int = 0
    groups: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Structures, or attempts to start a group, that were left out, by reason."""
    seconds: float = 0.0
    """Of one core."""

    def add(self, other: "Made") -> None:
        """Add what happened in another group."""
        self.asked += other.asked
        self.written += other.written
        self.groups += other.groups
        self.dropped.update(other.dropped)
        self.seconds += other.seconds

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**vars(self), "dropped": dict(self.dropped)}

    @classmethod
    def read(cls, text: Mapping[str, Any]) -> Self:
        """Return what `as_dict` gave."""
        return cls(**{**text, "dropped": Counter(text["dropped"])})


@dataclass(frozen=True)
class Generated:
    """A finished data set."""

    folder: Path
    domains: dict[str, Made]

    def container(self, name: str) -> Container:
        """Open the container of a domain."""
        return Container(self.folder / f"{name}{SUFFIX}")


def generate(
    folder: Path,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    extremes: float = 0.0,
    processes: int = 1,
    resume: bool = False,
    advance: Advance | None = None,
) -> Generated:
    """Make a container of each domain, and `generated.json` beside them.

    Args:
        folder: where they go.
        counts: number of structures of each domain.
        seed: of all random numbers.
        extremes: fraction of each domain's structures, from 0 to below 1, that are isolated atoms, pairs, squeezed
            structures and strained cells; the others stay what they are without.
        processes: how many groups are made at once.
        resume: continue where an earlier call with the same arguments stopped; without it, the folder must be empty.
        advance: called with the progress.

    Raises:
        ConfigError: something exists already, or is made differently; tblite or RDKit is missing; another process
            is writing here; an unknown domain; a share of extremes below 0 or not below 1.
        OSError: the disk is full.

    """
    if not 0 <= extremes < 1:
        raise ConfigError(f"extremes {extremes:g}: give a fraction from 0 to below 1, such as 0.2")
    domains = [domain_of(name) for name in counts]
    versions = _versions()
    plans = {domain.name: _plan(domain, counts[domain.name], seed, extremes, versions) for domain in domains}
    if not resume:
        _require_nothing(folder, counts)
    _require_own_summary(folder / SUMMARY)
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Made] = {}
    for domain in domains:
        tell = partial(_tell, advance, sum(done.asked for done in made.values()), sum(counts.values()))
        made[domain.name] = _make_domain(folder, domain, plans[domain.name], processes, tell)
    _write_summary(folder, made, plans)
    return Generated(folder, made)


def make_group(domain: Domain, seed: int, number: int, size: int) -> tuple[list[Sample], Made]:
    """Make the structures of a group; it is redrawn if it cannot be started, or too much of it is dropped."""
    made = Made(asked=size, groups=1)
    samples: list[Sample] = []
    start = time.process_time()
    for attempt in range(ATTEMPTS):
        random = np.random.default_rng((seed, domain.stream, number, attempt))
        label = Labeller(domain.method, limit=made.dropped.total() + _LIMIT * size, dropped=made.dropped)
        try:
            # What was given before the group is dropped stays.
            samples.extend(islice(domain.sample(number, random, label), size - len(samples)))
        except Dropped as reason:
            made.dropped[str(reason)] += 1
        if len(samples) == size:
            break
    made.written, made.seconds = len(samples), time.process_time() - start
    return samples, made


def _plan(domain: Domain, count: int, seed: int, extremes: float, versions: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of a container; independent of machine and time."""
    generated = {"seed": seed, "count": count, "method": asdict(domain.method), "versions": dict(versions)}
    return {
        "dataset": f"generated-{domain.name}",
        "title": f"{domain.title}, generated by atomslim",
        "licence": "none needed",
        "citation": _CITATIONS[domain.method.name],
        "level_of_theory": str(domain.method),
        "units": {},
        "options": {},
        "generated": generated | ({"extremes": round(count * extremes)} if extremes else {}),
    }


_CITATIONS = {
    "GFN1-xTB": "Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017)",
    "GFN2-xTB": "Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019)",
}


def _versions() -> dict[str, str]:
    """Versions of what decides the numbers; raises ConfigError where a package is missing."""
    labels_package("tblite")
    labels_package("rdkit")
    return {name: version(name) for name in ("atomslim", "tblite", "rdkit", "ase")}


def _make_domain(
    folder: Path, domain: Domain, plan: Mapping[str, Any], processes: int, tell: Callable[[int], None]
) -> Made:
    """Make a container, unless it exists."""
    path = folder / f"{domain.name}{SUFFIX}"
    if path.exists():
        made = _present(path, plan)
        remove_staging(path)
        return made
    total = Made()
    with Staging(path, plan) as staging:
        groups = _groups(domain, plan["generated"])
        jobs = [partial(_write_group, group, part, staging.folder) for part, group in enumerate(groups)]
        for made in run_jobs(jobs, processes, path):
            total.add(made)
            tell(total.asked)
        staging.merge(len(groups), {**plan, "made": total.as_json() | {"seconds": 0.0}})
    return total


@dataclass(frozen=True)
class _Group:
    """Everything needed to make a group in a separate process."""

    domain: str
    extreme: bool
    seed: int
    number: int
    size: int

    def make(self) -> tuple[list[Sample], Made]:
        domain = domain_of(self.domain)
        return make_group(domain.extreme() if self.extreme else domain, self.seed, self.number, self.size)


def _groups(domain: Domain, generated: Mapping[str, Any]) -> list[_Group]:
    """All groups of a domain: ordinary ones, then extremes, so that a share of these changes none of the others."""
    few = generated.get("extremes", 0)
    return [
        _Group(domain.name, extreme, generated["seed"], number, min(domain.size, count - start))
        for extreme, count in ((False, generated["count"] - few), (True, few))
        for number, start in enumerate(range(0, count, domain.size))
    ]


def _write_group(group: _Group, index: int, folder: Path) -> Made:
    """Write a group as a part, unless it is finished; an unfinished one is started again."""
    note = folder / f"{index:06d}.json"
    if note.exists():
        return Made.read(parse_json(note.read_text(encoding="utf-8")))
    for path in part_paths(folder, index):
        path.unlink(missing_ok=True)
    samples, made = group.make()
    with Part(folder, index) as part:
        for sample in samples:
            part.append(sample)
    with atomic_write(note) as temporary:
        temporary.write_text(json.dumps(made.as_json()), encoding="utf-8")
    return made


def _present(path: Path, plan: Mapping[str, Any]) -> Made:
    """Reuse what exists, if it was made in the same way."""
    found = Container(path).metadata
    if found.get("generated") != json.loads(json.dumps(plan["generated"])):
        raise ConfigError(f"{path}: already exists, made with another seed, count or version: remove it")
    return Made.read(found["made"])


def _require_nothing(folder: Path, names: Iterable[str]) -> None:
    paths = [folder / f"{name}{SUFFIX}" for name in names]
    for path in paths:
        if path.exists() or staging_folder(path).exists():
            raise ConfigError(f"{path}: already exists, or was started: continue with --resume, or remove it")


def _require_own_summary(path: Path) -> None:
    """Raise ConfigError where a file that is none of ours has the name of the summary."""
    try:
        known = not path.exists() or "domains" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        known = False
    if not known:
        raise ConfigError(f"{path}: already exists, and is no summary of generated data: name another folder")


def _tell(advance: Advance | None, before: int, total: int, done: int) -> None:
    if advance is not None:
        advance(before + done, total)


def _write_summary(folder: Path, made: Mapping[str, Made], plans: Mapping[str, Mapping[str, Any]]) -> None:
    domains = {name: {**plans[name], "made": made[name].as_json()} for name in made}
    with atomic_write(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps({"domains": domains}, indent=1, ensure_ascii=False), encoding="utf-8")
