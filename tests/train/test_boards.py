import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atomslim.errors import ConfigError
from atomslim.train.boards import require_tensorboard, require_wandb
from atomslim.train.run_folder import RunFolder

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

    def close(self) -> None:
        self.written.append("closed")


class Run:
    """Stands for a run of Weights & Biases, which the tests do without."""

    def __init__(self, **options: Any) -> None:
        self.options, self.rows, self.ended = options, list[Any](), False

    def define_metric(self, *_: Any, **axis: str) -> None:
        assert axis == {"step_metric": "step"}

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.ended = True


def fake_wandb(runs: list[Run], error: Exception | None = None) -> ModuleType:
    """Return a module in place of the package, which notes its runs or refuses them."""
    module: Any = ModuleType("wandb")

    def init(**options: Any) -> Run:
        if error is not None:
            raise error
        runs.append(Run(**options))
        return runs[-1]

    module.init, module.Settings, module.errors = init, dict, ModuleType("errors")
    module.errors.Error = RuntimeError
    return module


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
    folder.end_metrics()
    assert Writer.written == [("tensorboard", 5), *scalars, "closed"]


def test_rows_go_to_one_run_of_wandb_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = list[Run]()
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(runs))
    (tmp_path / "config.yaml").write_text("steps: 9\n", encoding="utf-8")
    for steps in (-1, 4, -1):
        folder = RunFolder(tmp_path)
        folder.begin_metrics(["seconds", "loss"], steps, wandb=True)
        folder.log({"step": steps + 1, "seconds": 1.5, "loss": 0.25})
        folder.end_metrics()
    begun, resumed, anew = (run.options["id"] for run in runs)
    assert begun == resumed != anew
    assert runs[0].options["config"] == {"steps": 9}
    assert [run.rows for run in runs[:2]] == [[{"step": step, "clock/seconds": 1.5, "loss": 0.25}] for step in (0, 5)]
    assert all(run.ended for run in runs)


def test_without_a_login_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb([], RuntimeError("api_key not configured")))
    (tmp_path / "config.yaml").write_text("steps: 9\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"wandb: .*api_key not configured.*WANDB_MODE=offline"):
        RunFolder(tmp_path).begin_metrics(["loss"], -1, wandb=True)


def test_wandb_itself_writes_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "config.yaml").write_text("steps: 9\n", encoding="utf-8")
    folder = RunFolder(tmp_path)
    folder.begin_metrics(["loss"], -1, wandb=True)
    folder.log({"step": 0, "loss": 0.5})
    folder.end_metrics()
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.stat().st_size


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, required in ((MODULE, require_tensorboard), ("wandb", require_wandb)):
        monkeypatch.setitem(sys.modules, module, None)
        name = module.rpartition(".")[2]
        with pytest.raises(ConfigError, match=rf"{name}: is not installed: pip install 'atomslim\[{name}\]'"):
            required()


def test_tensorboard_itself_reads_it_back(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    folder = RunFolder(tmp_path)
    folder.begin_metrics(["loss"], -1, tensorboard=True)
    for step in (0, 5):
        folder.log({"step": step, "loss": 0.5 / (1 + step)})
    found = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, round(event.value, 6)) for event in found.Scalars("loss")] == [(0, 0.5), (5, 0.083333)]
