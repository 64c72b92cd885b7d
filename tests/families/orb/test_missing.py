"""What is said of Orb's files where its package is missing, or is another than is known. Runs without it."""

from pathlib import Path

import pytest
import torch

import atomslim
from atomslim.errors import ConfigError
from atomslim.families.orb import FAMILY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"model.gnn_stacks.0._receive_attn.weight": torch.zeros(1, 4)}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (None, "Orb models need the package orb-models, which is not installed: pip install 'atomslim\\[orb\\]'"),
        ("0.7.0", "Orb models need orb-models 0.5, and 0.7.0 is installed"),
    ],
)
def test_it_is_one_line(installed: str | None, message: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FAMILY), "installed", lambda _: installed)
    with pytest.raises(ConfigError, match=message) as raised:
        atomslim.load(file)
    assert "\n" not in str(raised.value)
