"""Runs the cells of a study, each once: in one process, in several, or as several cluster jobs on one folder.

Every cell has a folder with a lock that the process working on it holds; the lock ends with the process, so that a
killed study continues where it stopped. A finished cell has `result.json`, a failed one `error.txt`; a failure stops no
other cell.

| file | what |
|---|---|
| config.yaml, versions.json | the study |
| cells/NAME/result.json | the cell's result |
| cells/NAME/error.txt | why it failed; it is tried again when the study is started again |
"""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atomslim.errors import AtomslimError
from atomslim.files import atomic_write, locked, tidy
from atomslim.parsing import parse_json
from atomslim.study.cells import Cell
from atomslim.words import number_of

State = Literal["done", "failed", "running", "waiting", "blocked"]

Work = Callable[[Cell, Path], dict[str, Any]]
"""Computes a cell in its folder and returns its result."""

_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Board:
    """The cells of a study in their folder."""

    folder: Path
    cells: Sequence[Cell]

    def folder_of(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.folder / "cells" / cell.name

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Return a cell's result, or None if it is not finished."""
        path = self.folder_of(cell) / "result.json"
        if not path.is_file():
            return None
        found: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        return found

    def error(self, cell: Cell) -> str:
        """Return why a cell failed in one line, or an empty string."""
        path = self.folder_of(cell) / "error.txt"
        return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""

    def state(self, cell: Cell) -> State:
        """Return a cell's state; blocked: the one it needs has failed."""
        if (self.folder_of(cell) / "result.json").is_file():
            return "done"
        if self.error(cell):
            return "failed"
        needs = cell.needs
        if needs is not None and self.state(needs) in {"failed", "blocked"}:
            return "blocked"
        return "waiting" if needs is not None and self.state(needs) != "done" else "running"

    def states(self) -> dict[Cell, State]:
        """Return the state of every cell; cells that nobody has started count as running."""
        return {cell: self.state(cell) for cell in self.cells}

    def forget_errors(self) -> None:
        """Let failed cells be tried again, unless another process is working on them."""
        for cell in self.cells:
            with locked(self.folder_of(cell)) as held:
                if held:
                    (self.folder_of(cell) / "error.txt").unlink(missing_ok=True)


def run_cells(board: Board, work: Work, *, wait: bool = True, say: Callable[[str], None] = print) -> None:
    """Work on cells until every one is done, has failed, or cannot be done.

    If other processes hold all remaining cells, it waits for them, or stops unless ``wait``.
    """
    while True:
        states = board.states()
        if not set(states.values()) & {"running", "waiting"}:
            return
        ready = [cell for cell, state in states.items() if state == "running"]
        if not any(_attempt(board, cell, work, say) for cell in ready):
            if not wait:
                return
            time.sleep(_POLL_SECONDS)


def _attempt(board: Board, cell: Cell, work: Work, say: Callable[[str], None]) -> bool:
    """Compute a cell if nobody else does; return whether it was done here."""
    cell_folder = board.folder_of(cell)
    with locked(cell_folder) as held:
        if not held or board.state(cell) != "running":
            return False
        start = time.perf_counter()
        tidy(cell_folder)
        say(f"{cell.name}: started")
        try:
            result = work(cell, cell_folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other cells continue
            _write(cell_folder / "error.txt", _reason(error))
            say(f"{cell.name}: failed: {_reason(error).partition(chr(10))[0]}")
        else:
            result["seconds"] = round(time.perf_counter() - start, 2)
            _write(cell_folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            steps = f", {number_of(result['steps'], 'step')}" if "steps" in result else ""
            say(f"{cell.name}: done in {result['seconds']:.0f} s{steps}")
    return True


def _reason(error: Exception) -> str:
    first = " ".join(str(error).split()) if isinstance(error, AtomslimError | OSError) else repr(error)
    return f"{first}\n\n{''.join(traceback.format_exception(error))}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
