"""A distillation in a process of its own, to be run by several side by side: distill_runner.py FOLDER STEPS."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from atomslim.compress.prune import keep_blocks
from atomslim.train.distill import distill
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters

SPLIT = {"train": 12, "validation": 2, "test": 2}

if __name__ == "__main__":
    torch.set_num_threads(1)
    options: dict[str, Any] = json.loads(os.environ.get("RUNNER_OPTIONS", "{}"))
    teacher = jmp(DIRECT, CONSERVATIVE, num_blocks=2, sum_scale=1.0).float()
    distill(
        keep_blocks(teacher, 1),
        teacher,
        {name: waters(16, seed=root) for root, name in enumerate(teacher.tasks)},
        output=Path(sys.argv[1]),
        progress=False,
        steps=int(sys.argv[2]),
        batch_size=4,
        tasks=[{"name": name, "split": SPLIT} for name in teacher.tasks],
        log_every=1,
        **options,
    )
