"""What all tests share: one thread, fixed seeds, and the folders of reference numbers and real data."""

import os
import random
import signal
from pathlib import Path

import pytest
import torch

BESIDE = Path(__file__).parents[1].parent / "shared"  # a folder beside the repository


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes as often as asked, not until they fill a second."""
    monkeypatch.setattr("atomslim.benchmarking.turns.FILL_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """Hear Ctrl-C, also in what a shell runs in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The reference implementation's outputs; skips where they are absent."""
    return _folder("ATOMSLIM_GOLDEN", BESIDE / "golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Small pieces of the real datasets; skips where they are absent."""
    return _folder("ATOMSLIM_TEST_DATA", BESIDE / "data")


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}, which is not here; {variable} names another folder")
    return folder
