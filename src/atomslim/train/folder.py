"""The folder of a run: options, versions, splits, normalisation, metrics, models, and the state to resume from.

| file | what |
|---|---|
| config.yaml | all options, defaults filled in |
| versions.json | versions of the programs, seed |
| split.TASK.json, normalisation.TASK.json | sets and scales of each task |
| metrics.jsonl, metrics.csv | one row for every logged step and every validation |
| tensorboard/ | the same for TensorBoard, if asked for |
| best.safetensors, last.safetensors | the model with the best validation, and the last one |
| state.pt | everything needed to go on; loaded without running code (`weights_only`) |
| summary.json | baselines, results, times |
| learning_curve.png | validation errors against steps and training time |
"""

import csv
import importlib.metadata
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from atomslim.errors import CheckpointError, ConfigError
from atomslim.files import atomic_write, naming
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import save
from atomslim.models.tensors import save_archive
from atomslim.train.tensorboard import Board

_PROGRAMS = ("atomslim", "torch", "lightning", "numpy", "ase", "vesin")

_LIMITS = ("budget", "steps", "epochs", "workers", "devices", "nodes", "accelerator", "memory_share", "tensorboard")
"""Options that may change when a run is continued."""


def begun(folder: str | os.PathLike[str], *, resume: bool) -> Path | None:
    """Return the file of options of a run that is to go on, or None if there is none yet."""
    run = RunFolder(folder)
    return run.path / "config.yaml" if resume and run.has_run else None


class RunFolder:
    """Writes a run's files, each of them whole or not at all; metrics are added line by line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._columns: list[str] = []
        self._board: Board | None = None

    @property
    def has_state(self) -> bool:
        """Whether there is something to resume from."""
        return (self.path / "state.pt").is_file()

    @property
    def has_run(self) -> bool:
        """Whether a run got as far as to have baselines; one that failed before leaves nothing of use."""
        return self.has_state or (self.path / "summary.json").is_file()

    def create(self, config: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder and note the options.

        Raises ConfigError if it holds a run that is not to be resumed, or one with other options.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        noted = self.path / "config.yaml"
        if noted.is_file() and self.has_run:
            self._require_same(config, resume=resume)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self._write(noted, text)
        versions = {name: importlib.metadata.version(name) for name in _PROGRAMS} | {
            "python": platform.python_version()
        }
        self._write(self.path / "versions.json", json.dumps(versions | {"seed": config.get("seed")}, indent=1))

    def _require_same(self, config: Mapping[str, Any], *, resume: bool) -> None:
        if not resume:
            raise ConfigError(f"{self.path}: holds a run already: resume it, or name another folder")
        before = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        for key in before:  # an option that only a later version of this program has keeps its default
            if key not in _LIMITS and config.get(key) != before.get(key):
                raise ConfigError(
                    f"{self.path}: cannot resume: {key} was {before.get(key)} and is now {config.get(key)}: give the "
                    "same options, or name another folder"
                )

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write what a run needs to go on."""
        with atomic_write(self.path / "state.pt") as temporary, temporary.open("wb") as stream:
            save_archive(dict(state), stream)

    def load_state(self) -> dict[str, Any]:
        """Read it; raises CheckpointError if the file is damaged."""
        path = self.path / "state.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever its readers of zip and pickle do
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: cannot be read ({reason}): start the run anew") from error
        return state

    def save_model(self, model: BlockModel, name: str) -> Path:
        """Write a model beside the metrics and return its path."""
        path = self.path / f"{name}.safetensors"
        save(model, path)
        return path

    def begin_metrics(self, columns: Sequence[str], steps: int, *, tensorboard: bool = False) -> None:
        """Start the metrics, or cut them back to what was logged up to a step that is resumed from (−1: none)."""
        if tensorboard:
            self._board = Board(self.path, steps)
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
        if self._board is not None:
            self._board.log(row)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                rows.append(json.loads(line))
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
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
