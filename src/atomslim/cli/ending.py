"""The end of a command: its result as JSON with `--json`, and the next command."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from atomslim.errors import printable
from atomslim.parsing import parse_json
from atomslim.terminal import say

Json = Annotated[bool, Parameter(name="--json", negative=())]
"""`--json`: print the result for programs."""


def say_json(content: Any) -> None:
    """Print a result as JSON: paths are strings, and non-finite numbers null."""
    say(json.dumps(_plain(content), indent=2, ensure_ascii=False))


def next_step(*words: str | Path) -> None:
    """Suggest the next command on stderr; words in capitals are for the user to fill in."""
    from atomslim.inference.process import process_of

    if not process_of(os.environ)[0]:  # one process of several says it
        print(printable(f"Next: atomslim {shlex.join(map(str, words))}"), file=sys.stderr)


def with_data(data: Sequence[str], model: str, tasks: Sequence[str], scores: Path | None = None) -> list[str]:
    """Return data as named, those of scores, those of an embedded model, or a placeholder."""
    return list(data) or _scored(scores) or _embedded(model, tasks) or (["DATA"] if len(tasks) == 1 else ["TASK=DATA"])


def _scored(scores: Path | None) -> list[str]:
    """Name the data that blocks were scored on, by task."""
    path = scores / "relevance.json" if scores is not None and scores.is_dir() else scores
    found = {} if path is None else parse_json(path.read_text(encoding="utf-8")).get("tasks", {})
    return [f"{task}={scored['data']}" for task, scored in found.items() if scored.get("data")]


def _embedded(model: str, tasks: Sequence[str]) -> list[str]:
    """Name the structures that come with an embedded model."""
    from atomslim.data.registry import resolve
    from atomslim.errors import AtomslimError

    name = f"{model.partition('-')[0]}:{tasks[0] if tasks else ''}"  # mini-smooth uses mini's
    try:
        resolve(name)
    except (AtomslimError, OSError):
        return []
    return [f"{tasks[0]}={name}"]


def say_run(folder: Path, what: str, *, json: bool) -> None:
    """Print the path of a run's best model, or its summary as JSON."""
    from atomslim.inference.process import process_of

    if json and process_of(os.environ)[0]:
        return  # one process of several says it
    if json:
        say_json(parse_json((folder / "summary.json").read_text(encoding="utf-8")))
    else:
        say(f"{folder / 'best.safetensors'}: {what}")


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(value) for value in content]
    if hasattr(content, "tolist"):  # numpy's arrays and numbers
        return _plain(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content if content is None or isinstance(content, str | int | float | bool) else str(content)
