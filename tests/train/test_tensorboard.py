import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atomslim.errors import ConfigError
from atomslim.train.run_folder import RunFolder, require_tensorboard

MODULE = "torch.utils.tensorboard"


class Writer:
    """Stands for torch's, which the tests do without."""

    written: list[Any] = []  # noqa: RUF012 -- of all writers

    def __init__(self, folder: str, purge_step: int) -> None:
        self.written.append((Path(folder).name, purge_step))

    def add_scalar(self, *scalar: Any) -> None:
        self.written.append(scalar)

    def flush(self) -> None:
        pass


def test_rows_of_the_metrics_are_written_for_tensorboard_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(MODULE)
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setattr(Writer, "written", [])
    folder = RunFolder(tmp_path)
    folder.begin_metrics(["seconds", "loss"], 4, tensorboard=True)
    row = {"step": 5, "seconds": 1.5, "loss": 0.25, "water/energy/mae": 0.1}
    folder.log(row)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == row
    scalars = [("clock/seconds", 1.5, 5), ("loss", 0.25, 5), ("water/energy/mae", 0.1, 5)]
    assert Writer.written == [("tensorboard", 5), *scalars]


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(ConfigError, match=r"pip install 'atomslim\[tensorboard\]'"):
        require_tensorboard()


def test_tensorboard_itself_reads_it_back(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    folder = RunFolder(tmp_path)
    folder.begin_metrics(["loss"], -1, tensorboard=True)
    for step in (0, 5):
        folder.log({"step": step, "loss": 0.5 / (1 + step)})
    found = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, round(event.value, 6)) for event in found.Scalars("loss")] == [(0, 0.5), (5, 0.083333)]
