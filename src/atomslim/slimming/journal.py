"""What is done of a run, and how long it took: a note that is written anew after every stage.

A stage that is noted is never done again. One that was killed goes on where its own folder says; the time that it had
taken until then is not counted.
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
    """What the run is of: options, structures, teacher."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By stage: seconds, and what later stages need to know of it."""
    tell: Callable[[str], None] = lambda _: None

    @classmethod
    def of(
        cls, folder: Path, plan: Mapping[str, Any], note: Mapping[str, Any], tell: Callable[[str], None]
    ) -> "Journal":
        """Take up the note of a run, or begin one."""
        journal = cls(folder, plan, dict(note.get("stages", {})), tell)
        if not note:
            journal.write()
        return journal

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[dict[str, Any]]:
        """Do a stage and note what the block puts into the given facts; `what` is said before."""
        self.tell(f"{name}: {what}")
        start, facts = time.perf_counter(), dict[str, Any]()
        yield facts
        self.done[name] = {"seconds": round(time.perf_counter() - start, 2), **facts}
        self.write()

    @property
    def seconds(self) -> float:
        """Wall clock of all stages that are done."""
        return float(sum(facts["seconds"] for facts in self.done.values()))

    def write(self) -> None:
        """Write the note."""
        write_note(self.folder / NAME, {**self.plan, "stages": self.done})
