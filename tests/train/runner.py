"""A fine-tuning in a process of its own, to be killed or run twice side by side: runner.py FOLDER STEPS."""

import json
import os
import sys
from pathlib import Path

import torch

from atomslim.train.finetune import finetune
from samples import small_model
from train.water import waters

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    extra = json.loads(os.environ.get("RUNNER_OPTIONS", "{}"))
    finetune(
        small_model().float(),
        waters(36),
        output=folder,
        resume=True,
        progress=False,
        steps=steps,
        batch_size=4,
        split={"train": 24, "validation": 6, "test": 6},
        cutoff=4.5,
        log_every=1,
        checkpoint_every="2 steps",
        ema=0.9,
        **extra,
    )
