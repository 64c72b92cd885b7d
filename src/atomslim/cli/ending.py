"""How a command ends: with its result as JSON where `--json` asks for that, and with the command that comes next."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from atomslim.errors import printable
from atomslim.parsing import parse_json
from atomslim.terminal import say

Json = Annotated[bool, Parameter(name="--json", negative=())]
"""`--json`: the result is printed for programs."""


def say_json(content: Any) -> None:
    """Print a result as JSON: paths are texts, and what is no finite number is null."""
    say(json.dumps(_plain(content), indent=2, ensure_ascii=False))


def next_step(*words: str | Path) -> None:
    """Say on stderr which command is a natural one to go on with; words in capitals are for the user to fill in."""
    from atomslim.inference.process import process_of

    if not process_of(os.environ)[0]:  # one process of several says it
        print(printable(f"Next: atomslim {shlex.join(map(str, words))}"), file=sys.stderr)


def with_data(data: tuple[str, ...], tasks: int = 1) -> list[str]:
    """Return data as they were named, or what stands for them where none were."""
    return list(data) or (["DATA"] if tasks == 1 else ["TASK=DATA"])


def say_run(folder: Path, what: str, *, json: bool) -> None:
    """Say where a training's best model is, or print the run's summary as JSON."""
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
