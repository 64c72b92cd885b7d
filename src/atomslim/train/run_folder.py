"""The folder of a run: options, versions, splits, normalisation, metrics, models, and the state to resume from.

| file | what |
|---|---|
| config.yaml | all options, defaults filled in |
| versions.json | versions of the programs, checksum of this one's source, seed |
| origin.json | checksums of the models and data that the run started from |
| split.TASK.json, normalisation.TASK.json | sets and scales of each task |
| metrics.jsonl, metrics.csv | one row for every logged step and every validation |
| tensorboard/, wandb/ | the same for TensorBoard and Weights & Biases, if asked for |
| best.safetensors, last.safetensors | the model with the best validation, and the last one |
| state.pt | everything needed to resume; loaded without running code (`weights_only`) |
| summary.json | baselines, results, times |
| learning_curve.png | validation errors against steps and training time |
| round-1/, round-2/, … | the runs of a distillation in rounds, see `atomslim.train.rounds` |

While a training runs, it holds a lock on its folder, which ends with its process.
"""

import csv
import errno
import importlib.metadata
import io
import json
import os
import platform
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from atomslim.data.normalise import Normalisation
from atomslim.data.splits import Split
from atomslim.errors import AtomslimWarning, CheckpointError, ConfigError
from atomslim.files import atomic_write, locked, naming, new_folder, tidy
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import save
from atomslim.models.tensors import save_archive
from atomslim.parsing import parse_json, read_yaml
from atomslim.report.cells import plain_cell
from atomslim.train.boards import Board, boards
from atomslim.train.run_state import code_digest
from atomslim.train.tasks import LearningTask

_PROGRAMS = ("atomslim", "torch", "lightning", "numpy", "ase", "vesin")

_LIMITS = (
    *("budget", "steps", "epochs", "workers", "devices", "nodes", "accelerator", "memory_share", "tensorboard"),
    "wandb",
)
"""Options that may change when a run is continued."""

_BY_CONTENT = ("model", "student", "teacher", "data", "validation_data", "test_data")
"""Options that name files; what the files hold is compared, see `atomslim.train.run_state`."""

OWN = (
    *("config.yaml", "versions.json", "origin.json", "split.*.json", "normalisation.*.json", "metrics.jsonl"),
    *("metrics.csv", "tensorboard", "wandb", "best.safetensors", "best.md", "last.safetensors", "state.pt"),
    *("summary.json", "learning_curve.png", "teacher.answers"),
)
"""Patterns of the names of a run's files."""

ROUND = "round-"
"""Prefix of the folders of rounds."""

_ENDINGS = {".safetensors", ".pt", ".pth", ".ckpt", ".json", ".yaml", ".yml", ".xyz", ".extxyz", ".samples"}
"""Suffixes of names that can only mean a file."""


def begun(folder: str | os.PathLike[str], *, resume: bool) -> Path | None:
    """Return the options file of a run to resume, or None if there is none yet."""
    run = RunFolder(folder)
    return run.path / "config.yaml" if resume and run.has_run else None


class RunFolder:
    """Writes a run's files, each of them whole or not at all; metrics are added line by line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._columns: list[str] = []
        self._boards: list[Board] = []

    @property
    def has_state(self) -> bool:
        """Whether there is something to resume from."""
        return (self.path / "state.pt").is_file()

    @property
    def has_run(self) -> bool:
        """Whether a run got as far as its baselines; one that failed before left nothing useful."""
        first = self.path / f"{ROUND}1"
        return any((folder / name).is_file() for folder in (self.path, first) for name in ("state.pt", "summary.json"))

    @contextmanager
    def claimed(self, *, resume: bool, first: bool = True) -> Iterator[None]:
        """Lock the folder for this run while the block runs; a run that fails before its baselines leaves nothing.

        Of a training's processes, only the ``first`` does so.

        Raises:
            ConfigError: another process is training there, there is a run that is not to be resumed, or there are files
                of a run's names that are none.

        """
        if not first:
            yield
            return
        if self.path.suffix.lower() in _ENDINGS and not self.path.is_dir():
            raise ConfigError(f"{self.path}: is the name of a file: name a folder for the run's files")
        with new_folder(self.path), _locked(self.path) as held:
            if not held:
                raise ConfigError(
                    f"{self.path}: another process is training there: wait for it, end it, or name another folder"
                )
            require_own(self.path, OWN)
            if self.has_run and not resume:
                raise ConfigError(f"{self.path}: holds a run already: resume it, or name another folder")
            tidy(self.path)
            models = set(self.path.glob("*.safetensors"))
            if not self.has_run:  # leftovers of a killed run
                self._clear(models)
            try:
                yield
            except BaseException:
                if not self.has_run:
                    self._clear(models)
                raise

    def create(self, config: Mapping[str, Any], *, resume: bool, origin: Mapping[str, Any] | None = None) -> None:
        """Make the folder and note the options, the versions of programs, and what is learned from.

        Raises ConfigError if it holds a run that is not to be resumed, or one with other options, models or data.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        noted = self.path / "config.yaml"
        if noted.is_file() and self.has_run:
            self._require_same(config, resume=resume)
            if origin is not None:
                self._require_same_names(origin)
                self.require_origin(origin)
                self._say_renamed(config)
        self._note_versions(config.get("seed"))
        self._write(noted, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        if origin is not None:
            self.write_json("origin.json", origin)

    def require_origin(self, origin: Mapping[str, Any]) -> None:
        """Raise ConfigError if a resumed run started from other models or data, of those that are named."""
        before = _read_json(self.path / "origin.json") if self.has_run else {}
        for kind in before.keys() & origin.keys():
            for name in before[kind].keys() & origin[kind].keys():
                if before[kind][name] != origin[kind][name]:
                    raise ConfigError(f"{self.path}: cannot resume: {_changed(kind, name, before, origin)}")

    def _require_same_names(self, origin: Mapping[str, Any]) -> None:
        before = _read_json(self.path / "origin.json")
        if not before:
            text = f"{self.path}: the run did not note its models and data: make sure that they are the same"
            warnings.warn(text, AtomslimWarning, stacklevel=2)
        for kind, known in before.items():
            if known.keys() != origin[kind].keys():
                raise ConfigError(
                    f"{self.path}: cannot resume: {kind} were {', '.join(known) or 'none'} and are now "
                    f"{', '.join(origin[kind]) or 'none'}: give the same, under the same names, or {_OTHER}"
                )

    def _note_versions(self, seed: Any) -> None:
        """Note the versions of programs; warns if a resumed run had others."""
        now: dict[str, Any] = {name: importlib.metadata.version(name) for name in _PROGRAMS}
        now |= {"python": platform.python_version(), "source": code_digest(), "seed": seed}
        before = _read_json(self.path / "versions.json")
        others = [
            f"{name} {before[name]} (now {now[name]})" for name in now if before.get(name, now[name]) != now[name]
        ]
        if others:
            text = f"{self.path}: begun with {', '.join(others)}: results may differ from an uninterrupted run"
            warnings.warn(text, AtomslimWarning, stacklevel=2)
        self._write(self.path / "versions.json", json.dumps(now, indent=1))

    def _clear(self, kept: Collection[Path]) -> None:
        """Remove the files of a run except some; no other files have their names, see `require_own`."""
        for path in [path for path in _matching(self.path, OWN) if path not in kept]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _require_same(self, config: Mapping[str, Any], *, resume: bool) -> None:
        if not resume:
            raise ConfigError(f"{self.path}: holds a run already: resume it, or name another folder")
        before = read_yaml(self.path / "config.yaml")
        if not isinstance(before, dict):
            raise ConfigError(f"{self.path / 'config.yaml'}: holds no options: name another folder")
        for key in before:  # an option that only a later version of this program has keeps its default
            was, now = before.get(key), config.get(key)
            if key in _LIMITS or _without_names({key: was}) == _without_names({key: now}):
                continue
            raise ConfigError(
                f"{self.path}: cannot resume: {key} was {was} and is now {now}: give the same options, or name another "
                "folder"
            )

    def _say_renamed(self, config: Mapping[str, Any]) -> None:
        """Say which models and data have another name than before; their contents have been compared."""
        before = read_yaml(self.path / "config.yaml")
        renamed = [key for key in _BY_CONTENT if before.get(key) and config.get(key) and before[key] != config[key]]
        for key in renamed:
            text = f"{self.path}: {key} was {before[key]} and is now {config[key]}, of the same content"
            warnings.warn(text, AtomslimWarning, stacklevel=2)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write what a run needs to resume."""
        with atomic_write(self.path / "state.pt") as temporary, temporary.open("wb") as stream:
            save_archive(dict(state), stream)

    def load_state(self) -> dict[str, Any]:
        """Read it; raises CheckpointError if the file is damaged."""
        path = self.path / "state.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever its readers of zip and pickle do
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: cannot be read ({reason}): start a new run") from error
        return state

    def save_model(self, model: BlockModel, name: str) -> Path:
        """Write a model beside the metrics and return its path."""
        path = self.path / f"{name}.safetensors"
        save(model, path)
        return path

    def begin_metrics(self, columns: Sequence[str], steps: int, **chosen: bool) -> None:
        """Start the metrics, or truncate them after the step that is resumed from (−1: none).

        They also go to the ``chosen`` boards, as in wandb=True.
        """
        self._boards = boards(chosen, self.path, steps)
        self._columns = ["step", *columns]
        rows = [row for row in self.metrics() if row["step"] <= steps]
        self._write(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self._write(self.path / "metrics.csv", self._csv(rows, header=True))

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row to the metrics."""
        for name, line in (
            ("metrics.jsonl", json.dumps(row) + "\n"),
            ("metrics.csv", self._csv([row], header=False)),
        ):
            path = self.path / name
            with naming(path), path.open("a", encoding="utf-8") as file:
                file.write(line)
        for board in self._boards:
            board.log(row)

    def end_metrics(self) -> None:
        """Close the boards."""
        while self._boards:
            self._boards.pop().close()

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                rows.append(parse_json(line))
            except ValueError:
                break
        return rows

    def write_json(self, name: str, content: Any) -> None:
        """Write anything as JSON."""
        self._write(self.path / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _csv(self, rows: Sequence[Mapping[str, Any]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writerow({name: plain_cell(name) for name in self._columns})
        writer.writerows(rows)
        return text.getvalue()

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock as `locked` does; warn if the file system has none, and continue."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(locked(folder))
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}:
                raise
            text = f"{folder}: this file system has no locks: make sure that no other training writes there"
            warnings.warn(text, AtomslimWarning, stacklevel=2)
            held = True
        yield held


def require_no_path(task: str) -> None:
    """Raise ConfigError for the name of a task that could be a path."""
    if not task.isprintable() or "/" in task or "\\" in task:
        raise ConfigError(f"task {task!r}: its name goes into names of files: leave out / and \\, or give another")


def task_file(kind: str, task: str) -> str:
    """Name a file of a task; raises ConfigError for a task whose name is a path."""
    require_no_path(task)
    return f"{kind}.{task}.json"


def note_task(folder: RunFolder, task: LearningTask) -> None:
    """Keep the split and the normalisation with the run."""
    task.split.save(folder.path / task_file("split", task.name))
    task.normalisation.save(folder.path / task_file("normalisation", task.name))


def noted(folder: RunFolder, name: str) -> tuple[Split | None, Normalisation | None]:
    """Return split and normalisation of a task that a run noted, or None."""
    split, scales = (folder.path / task_file(kind, name) for kind in ("split", "normalisation"))
    return (Split.load(split) if split.is_file() else None, Normalisation.load(scales) if scales.is_file() else None)


def require_own(folder: Path, patterns: Sequence[str]) -> None:
    """Raise ConfigError if there are files of these names, but none that shows that a run of ours wrote them."""
    found = _matching(folder, patterns)
    if found and "atomslim" not in _read_json(folder / "versions.json"):
        raise ConfigError(
            f"{folder}: holds {found[0].name}, which belongs to no run, and a run would replace it: name another folder"
        )


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _read_json(path: Path) -> dict[str, Any]:
    """Return a file's dictionary; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _without_names(options: Any) -> Any:
    """Leave names of files out of options, those of tasks included."""
    if isinstance(options, list):
        return [_without_names(one) for one in options]
    if not isinstance(options, dict):
        return options
    return {key: _without_names(value) for key, value in options.items() if key not in _BY_CONTENT}


def _changed(kind: str, name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which model or data has changed."""
    if kind == "models":
        return (
            f"the {name} has changed since the run began (other weights, blocks or tasks): give the same, or " + _OTHER
        )
    counts = [of["data"][name]["structures"] for of in (before, now)]
    what = f"{counts[0]} structures, now {counts[1]}" if counts[0] != counts[1] else "other structures or labels"
    return f"the data of {name} has changed since the run began ({what}): give the same, or {_OTHER}"


_OTHER = "name another folder"
