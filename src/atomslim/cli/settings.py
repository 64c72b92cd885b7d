"""Options of a run from a YAML file, with overrides by dotted name: `--set optimiser.learning_rate=1e-4`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomslim.errors import ConfigError

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel


def read_settings(path: Path | None, overrides: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a YAML file, then those of ``overrides``, then those ``given`` that are not None.

    Raises ConfigError for a file that holds something else, or an override that is not NAME=VALUE.
    """
    settings = {} if path is None else _read(path)
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {override}: write NAME=VALUE, as in optimiser.learning_rate=1e-4")
        _put(settings, name.split("."), _value(text))
    return settings | {name: value for name, value in given.items() if value is not None}


def nothing_named(usage: str, output: Path, *, resume: bool) -> ConfigError:
    """Return the error for a command line that says neither what to do nor, with --resume, in a folder that does."""
    return ConfigError(f"{output}: holds no run to go on with: {usage}" if resume else usage)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no options: write NAME: VALUE in every line")
    return content


def _put(settings: dict[str, Any], names: list[str], value: Any) -> None:
    *groups, last = names
    for name in groups:
        inner = settings.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {'.'.join(names)}: {name} is one value, not a group of options")
        settings = inner
    settings[last] = value


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def tasked(texts: Sequence[str]) -> str | dict[str, str]:
    """Understand NAME (data of a model's only task) or TASK=NAME, once for each task.

    Raises ConfigError for a task named twice, or both forms at once.
    """
    pairs = [text.partition("=") for text in texts]
    if len(texts) == 1 and not pairs[0][1]:
        return texts[0]
    found = {task: name for task, separator, name in pairs if separator}
    if len(found) < len(texts):
        raise ConfigError(f"data {' '.join(texts)}: write TASK=NAME, once for each task")
    return found


def parts(text: str) -> list[str]:
    """Understand a list with commas, as in mof5,slab; each name once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def whole_numbers(option: str, text: str) -> list[int]:
    """Understand a list of numbers with commas, as in 6,5,4; raises ConfigError for anything else."""
    try:
        return [int(part) for part in parts(text)]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write whole numbers with commas between them, as in 6,5,4") from error


def byte_count(option: str, text: str) -> int:
    """Understand an amount of memory, as in 16GiB, 500MB or 8e9; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*(?:([kmgt]?)(i?)b)?", text.strip().lower())
    if match is None:
        raise ConfigError(f"{option} {text}: write an amount of memory, as in 16GiB or 500MB")
    power = "kmgt".find(match[2]) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def on_device(path: Path, device: str) -> "BlockModel":
    """Read a model file onto a device; raises ConfigError for cuda where there is none."""
    import torch

    from atomslim.models.model_file import load

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: no CUDA device is available to torch here: use cpu")
    return load(path, device=device)
