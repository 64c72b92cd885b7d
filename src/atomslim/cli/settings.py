"""Options of a run from a YAML file, with overrides by dotted name: `--set optimiser.learning_rate=1e-4`."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from atomslim.cli.devices import Device, device_of
from atomslim.errors import ConfigError, one_line
from atomslim.parsing import parse_yaml, read_yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

    from atomslim.data import Dataset
    from atomslim.evaluation.batches import TaskedData
    from atomslim.models.block_model import BlockModel


def read_settings(path: Path | None, overrides: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a YAML file, updated by ``overrides``, then by those ``given`` that are not None.

    Raises ConfigError for a file that holds something else, or an override that is not NAME=VALUE.
    """
    settings = {} if path is None else _read(path)
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {override[:60]}: write NAME=VALUE, as in optimiser.learning_rate=1e-4")
        if given.get(name) is not None:
            raise ConfigError(f"--set {name}: is also given as an option: give it once")
        _put(settings, name.split("."), _value(text))
    return settings | {name: value for name, value in given.items() if value is not None}


_NAMED = ("model", "data", "student", "teacher", "validation_data", "test_data")
"""Options that name a file or a dataset."""


def nothing_named(usage: str, output: Path, *, resume: bool) -> ConfigError:
    """Return the error for a command line without arguments whose folder holds no run to resume either."""
    return ConfigError(f"{output}: holds no run to resume: {usage}" if resume else usage)


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
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
        return parse_yaml(text)
    except ValueError as error:
        if text.lstrip().startswith(("[", "{")):
            raise ConfigError(f"--set …={text[:40]}…: is not a list or table: {one_line(error)}") from error
        return text


def require_options(kind: "type[BaseModel]", options: Mapping[str, Any]) -> None:
    """Raise ConfigError for names that are not options of an operation, or files and datasets that are not texts."""
    from atomslim.arguments import unknown

    for name, value in options.items():
        if name not in kind.model_fields:
            raise ConfigError(f"options: {unknown(name, (name,), kind)}")
        if name in _NAMED and not isinstance(value, str):
            raise ConfigError(f"options: {name}: give the name of a file or dataset")


def tasked(texts: Sequence[str]) -> str | dict[str, str]:
    """Parse NAME (data of a model's only task) or TASK=NAME, once for each task.

    Raises ConfigError for a task named twice, or both forms at once.
    """
    pairs = [text.partition("=") for text in texts]
    if len(texts) == 1 and not pairs[0][1]:
        return texts[0]
    found = {task: name for task, separator, name in pairs if separator}
    if len(found) < len(texts):
        raise ConfigError(f"data {' '.join(texts)}: write TASK=NAME, once for each task")
    return found


def reader_options(pairs: Sequence[str]) -> dict[str, str]:
    """Parse NAME=VALUE, once for each option of a dataset's reader; raises ConfigError for anything else."""
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"option {pair!r}: write it as NAME=VALUE, such as energy_unit=kcal/mol")
    return dict(pair.split("=", 1) for pair in pairs)


Log = Annotated[tuple[Literal["tensorboard", "wandb"], ...], Parameter(name="--log", negative=())]
"""`--log`: where else the metrics of a run go."""


def chosen_boards(log: Sequence[str]) -> dict[str, bool]:
    """Return the run options that `--log` stands for; raises ConfigError where the package is not installed."""
    from atomslim.train.boards import REQUIRED

    for name in log:
        REQUIRED[name]()
    return dict.fromkeys(log, True)


def chosen_device(device: Device | None) -> dict[str, str]:
    """Return the run option that `--device` stands for, if it is given; raises ConfigError as `device_of` does."""
    if device is None:
        return {}
    return {"accelerator": "gpu" if device_of(device) == "cuda" else "cpu"}


def with_reader_options(tasks: Any, option: Sequence[str]) -> Any:
    """Add options of the readers, NAME=VALUE, to those of every task."""
    if not option:
        return tasks
    return [{**task, "options": {**task.get("options", {}), **reader_options(option)}} for task in listed(tasks, set())]


def listed(tasks: Any, needed: set[str]) -> list[dict[str, Any]]:
    """Return the options of tasks as a list; raises ConfigError for anything else, or if a needed one is missing."""
    if not isinstance(tasks, list | tuple) or not all(isinstance(task, dict) and needed <= set(task) for task in tasks):
        raise ConfigError("options: tasks: write a list of options, each with a name")
    return list(tasks)


def opened_data(texts: Sequence[str], options: Sequence[str], *, labelled: bool = True) -> "TaskedData":
    """Open data as `tasked` understands it, with options of its reader; nothing where none is named.

    Prints on stderr which labels there are, if they are asked for.
    """
    given = tasked(texts)
    if isinstance(given, dict):
        return {task: opened_dataset(name, options, labelled=labelled) for task, name in given.items()}
    return opened_dataset(given, options, labelled=labelled)


def opened_dataset(name: str, options: Sequence[str], *, labelled: bool = True) -> "Dataset":
    """Open one dataset with options of its reader, and print its labels on stderr if they are asked for."""
    from atomslim.data.in_memory import opened
    from atomslim.data.survey import survey

    dataset = opened(name, reader_options(options))
    if labelled and (found := survey(dataset)).structures:
        print(found.sentence(), file=sys.stderr)
    return dataset


def parts(text: str) -> list[str]:
    """Parse a list with commas, as in mof5,slab; each name once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def whole_numbers(option: str, text: str) -> list[int]:
    """Parse a list of whole numbers with commas, as in 6,5,4; raises ConfigError for anything else."""
    try:
        return [int(part) for part in parts(text)]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write whole numbers with commas between them, as in 6,5,4") from error


def numbers(option: str, text: str, example: str) -> list[float]:
    """Parse a list of numbers with commas; raises ConfigError for anything else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write numbers, as in {example}") from error


def widths_of(option: str, text: str) -> dict[str, float]:
    """Parse widths with numbers of channels or fractions; raises ConfigError for anything else."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        found = {name.strip(): _size(value) for name, value in pairs}
    except ValueError as error:
        raise ConfigError(f"{option} {text}: write widths and numbers, as in edge=512,atom=0.75") from error
    if len(found) < len(pairs):
        raise ConfigError(f"{option} {text}: names a width twice")
    return found


def _size(text: str) -> float:
    """Parse a number and keep its type: 1 is one channel, and 1.0 may mean all of them."""
    return int(text) if text.strip().removeprefix("-").isdecimal() else float(text)


def byte_count(option: str, text: str) -> int:
    """Parse an amount of memory, as in 16GiB, 500MB or 8e9; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*(?:([kmgt]?)(i?)b)?", text.strip().lower())
    if match is None:
        raise ConfigError(f"{option} {text}: write an amount of memory, as in 16GiB or 500MB")
    power = "kmgt".find(match[2]) + 1 if match[2] else 0
    amount = float(match[1]) * (1024 if match[3] else 1000) ** power
    if amount > 2**63:
        raise ConfigError(f"{option} {text[:40]}: no computer has so much memory")
    return int(amount)


def on_device(path: Path, device: Device) -> "BlockModel":
    """Read a model file onto a device; raises ConfigError as `device_of` does."""
    from atomslim.models.model_file import load

    return load(path, device=device_of(device))
