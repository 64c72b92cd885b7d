"""What a run says in the end."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import atomslim
from atomslim.train.reporting import Summary
from samples import DIRECT
from small_models import jmp
from train.water import waters


@pytest.mark.parametrize(("limit", "said"), [({"steps": 2}, False), ({"steps": 2, "budget": "1h"}, True)])
def test_a_budget_of_wall_clock_is_told_in_steps(limit: dict[str, Any], said: bool, tmp_path: Path) -> None:
    split = {"train": 4, "validation": 2}
    atomslim.finetune(
        jmp(DIRECT, num_blocks=0), waters(6), output=tmp_path, progress=False, batch_size=2, split=split, **limit
    )
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["budget"] == ("1h" if said else "")
    assert content["rows"][0]["mean_baseline"]["mae"] > 0
    console = Console(width=200)
    with console.capture() as shown:
        console.print(Summary(**{**content, "rows": []}))
    assert ("1h were 2 steps here: steps=2 repeats the run at any speed." in shown.get()) is said
