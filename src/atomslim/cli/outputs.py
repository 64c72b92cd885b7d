"""Where a command may write: never over its inputs, and over files of other origin only with --force."""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from atomslim.errors import AtomslimError, ConfigError
from atomslim.files import require_replaceable

_FILES = {".html", ".md", ".csv", ".json", ".png", ".pdf", ".svg", ".safetensors", ".pt", ".ckpt", ".xyz", ".extxyz"}
"""Suffixes that no folder has."""


def require_output(
    output: Path,
    inputs: Iterable[Path],
    *,
    force: bool,
    own: Callable[[Path], bool] = lambda _: False,
) -> None:
    """Require a file that may be written: it is new, or the command's `own` from an earlier call, or `force` is given.

    Raises:
        ConfigError: it is, by whatever name, one of the `inputs`, lies in a folder that is, or is another file.
        OSError: its folder is not there, or it is not a regular file.

    """
    require_replaceable(output.resolve())
    _require_apart(output, inputs)
    if output.exists() and not force and not own(output):
        raise ConfigError(f"{output}: already exists, not from this command: name another file, or give --force")


def require_folder(
    folder: Path, names: Collection[str], inputs: Iterable[Path], *, force: bool, own: Callable[[Path], bool]
) -> None:
    """Require a folder in which files of these `names` may be written; if `own` says so, they are the command's own.

    Raises as `require_output` does, and ConfigError for the name of a file.
    """
    if folder.suffix.lower() in _FILES and not folder.is_dir():
        raise ConfigError(f"{folder}: is the name of a file: name a folder, in which {', '.join(names)} are written")
    if not folder.is_dir():
        return
    mine, known = own(folder), list(inputs)
    for name in names:
        require_output(folder / name, known, force=force or mine)


def require_ending(output: Path, endings: Collection[str], what: str) -> None:
    """Raise ConfigError unless a file has one of the suffixes of its format."""
    if output.suffix.lower() not in endings:
        raise ConfigError(f"{output}: {what} ends in {' or '.join(sorted(endings))}: give it that ending")


def has_report(keys: Collection[str], name: str = "") -> Callable[[Path], bool]:
    """Return a test for a file, or a folder's file `name`: whether it is a JSON report with these keys."""

    def found(path: Path) -> bool:
        try:
            content = json.loads((path / name if name else path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(content, dict) and content.keys() >= set(keys)

    return found


def read_from(*names: str | Path) -> list[Path]:
    """Return the files and folders that models and datasets of these names, perhaps with their tasks, are read from.

    A path is a file or folder, or a run's folder, which stands for its best model; only a str may name a dataset.
    """
    from atomslim.models.registry import BEST

    found: list[Path] = []
    for name in names:
        text = str(name)
        for part in filter(None, [text, *([text.partition("=")[2]] if "=" in text else [])]):
            path = Path(part).expanduser()
            if (path / BEST).is_file():  # a run's folder stands for its best model
                found.append(path / BEST)
                continue
            found += [path, *(_of_dataset(part) if isinstance(name, str) else ())]
    return [path for path in found if path.exists()]


def _of_dataset(name: str) -> list[Path]:
    """Return the files that a dataset is read from; none for what is no dataset, which the command reports itself."""
    from atomslim.data.registry import resolve

    try:
        source = resolve(name)
    except (AtomslimError, OSError):
        return []
    return [source.path, *([source.prepared] if source.prepared else [])]


def is_cut(path: Path) -> bool:
    """Say whether a file is a model as `prune` wrote it: not trained since, so quick to make again."""
    from atomslim.models.model_file import load

    try:
        done = [entry.get("operation") for entry in load(path).history]
    except (AtomslimError, OSError):
        return False
    changes = [operation for operation in done if operation != "read"]
    return changes[-1:] in (["keep blocks"], ["narrow"], ["reduce neighbours"])


def _require_apart(output: Path, inputs: Iterable[Path]) -> None:
    for source in inputs:
        if output.exists() and output.samefile(source):
            raise ConfigError(f"{output}: the command reads this file: name another one to write")
        if source.is_dir() and source.samefile(output.parent):
            raise ConfigError(f"{output}: would be among the files that the command reads: name another file or folder")
