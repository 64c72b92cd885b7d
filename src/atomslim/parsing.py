"""JSON and YAML from files and command lines: whatever is wrong with a text, nesting included, is a ValueError."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atomslim.errors import ConfigError, one_line


def parse_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return what a JSON text holds; raises ValueError for one that is damaged or nested too deeply."""
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds; raises ValueError for one that is none, or nested too deeply."""
    import yaml  # noqa: PLC0415 -- not needed at the start

    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        # 2020-99-99 looks like a date and is none, !!int x like a number
        raise ValueError(one_line(error)) from error


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; raises ConfigError for one that is none."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of its letters, too
        raise ConfigError(f"{path}: is not YAML: {one_line(error)}") from error
