"""Progress of labelling, and structures without labels; shared by the threads that ask."""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from atomslim.errors import AtomslimError
from atomslim.files import atomic_write
from atomslim.parsing import parse_json
from atomslim.progress import Advance


@dataclass(frozen=True)
class Skipped:
    """A structure without labels."""

    number: int
    name: str
    reason: str


@dataclass
class Tally:
    """Counts structures; raises AtomslimError once too many have no labels."""

    teacher: str
    total: int
    share: float
    """Fraction of structures that may have no labels."""
    done: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    advance: Advance | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, skipped: Skipped | None = None) -> None:
        """Count a structure."""
        with self._lock:
            self.done += 1
            self.skipped += [] if skipped is None else [skipped]
            if self.advance is not None:
                self.advance(self.done, note=f"{len(self.skipped)} skipped" if self.skipped else "")
            self.require_few(self.skipped)

    def require_few(self, skipped: Sequence[Skipped]) -> None:
        """Raise AtomslimError if there are too many."""
        if len(skipped) > self.share * self.total:
            raise AtomslimError(
                f"{self.teacher}: no labels for {skipped[0].name}: {skipped[0].reason} ({len(skipped)} of "
                f"{self.total} structures failed, a fraction of {self.share:.3g} may): mend the teacher, remove the "
                "structures, or let more be skipped (--skip)"
            )

    def ordered(self) -> list[Skipped]:
        """Give those without labels in the order of the structures."""
        return sorted(self.skipped, key=lambda one: one.number)


def read_skipped(folder: Path, part: int) -> list[Skipped]:
    """Read which structures of a part have no labels."""
    path = _path(folder, part)
    return [Skipped(**one) for one in parse_json(path.read_bytes())] if path.exists() else []


def write_skipped(folder: Path, part: int, skipped: Iterable[Skipped]) -> None:
    """Note which structures of a part have no labels."""
    with atomic_write(_path(folder, part)) as temporary:
        temporary.write_text(json.dumps([asdict(one) for one in skipped]), encoding="utf-8")


def _path(folder: Path, part: int) -> Path:
    return folder / f"{part:06d}.json"
