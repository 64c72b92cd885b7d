"""A fine-tuning in a process of its own, to be killed or run twice side by side: runner.py FOLDER STEPS [KILLS].

With KILLS, it is first killed so many times, at moments that are the same each time the test is run; it is a fork that
is killed, which need not import torch anew.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from atomslim.train.finetune import finetune
from samples import small_model
from train.water import waters


def tune(folder: Path, steps: int) -> None:
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


def kill(folder: Path, steps: int, rows: int, delay: float) -> None:
    """Start or resume the run, and kill it a moment after so many rows of metrics were written."""
    metrics = folder / "metrics.jsonl"
    process = os.fork()
    if not process:
        tune(folder, steps)
        os._exit(0)
    before = written(metrics)
    while written(metrics) - before < rows and os.waitpid(process, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    if (folder / "summary.json").exists():
        sys.exit("the run ended before it could be killed")


def written(metrics: Path) -> int:
    return len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.is_file() else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, count = Path(sys.argv[1]), int(sys.argv[2])
    generator = random.Random(5)
    for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 0):
        kill(root, count, generator.randint(0, 3), generator.uniform(0.0, 0.2))
    tune(root, count)
