"""The finished stages of a run with their times: a note that is rewritten after every stage.

A noted stage is never repeated. A killed one continues from its own folder; the time before it was killed is not
counted.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomslim.labelling.folder import write_note

NAME = "slim.json"


@dataclass
class Journal:
    """The note of a run."""

    folder: Path
    plan: Mapping[str, Any]
    """The run's inputs: options, structures, teacher."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By stage: seconds, and facts that later stages need."""
    tell: Callable[[str], None] = lambda _: None

    @classmethod
    def of(
        cls, folder: Path, plan: Mapping[str, Any], note: Mapping[str, Any], tell: Callable[[str], None]
    ) -> "Journal":
        """Continue the note of a run, or start one."""
        journal = cls(folder, plan, dict(note.get("stages", {})), tell)
        if not note:
            journal.write()
        return journal

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[dict[str, Any]]:
        """Run a stage and note the facts that the block fills in; `what` is printed first."""
        self.tell(f"{name}: {what}")
        start, facts = time.perf_counter(), dict[str, Any]()
        yield facts
        self.done[name] = {"seconds": round(time.perf_counter() - start, 2), **facts}
        self.write()

    @property
    def seconds(self) -> float:
        """Wall-clock time of all finished stages."""
        return float(sum(facts["seconds"] for facts in self.done.values()))

    def write(self) -> None:
        """Write the note."""
        write_note(self.folder / NAME, {**self.plan, "stages": self.done})
