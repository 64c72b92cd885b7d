"""Sharded prediction that is killed again and again: predictor.py MODEL FOLDER KILLS STRUCTURES….

FOLDER/killed is what comes of it, FOLDER/whole what comes of a run that nobody disturbs. It is forks that are killed,
which need not import torch anew.
"""

import random
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import torch

from atomslim.inference.shards import predict_shards

ALL = 38
"""Shards in all."""


def predict(model: str, folder: Path, structures: list[str]) -> None:
    predict_shards(model, structures, folder, shard_size=4, batch_size=30, resume=True, progress=False)


def kill(model: str, folder: Path, structures: list[str], more: int, delay: float) -> bool:
    """Go on with a prediction, and kill it a moment after so many more shards; tell whether it was still running."""
    process = get_context("fork").Process(target=predict, args=(model, folder, structures))
    wanted = written(folder) + more
    process.start()
    while process.is_alive() and written(folder) < wanted:
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def written(folder: Path) -> int:
    return len(list(folder.glob("part-*")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, index, kills, *files = sys.argv[1:]
    moments, count = random.Random(1), 0
    while count < int(kills):
        count += kill(name, Path(index) / "killed", files, moments.randrange(5), moments.uniform(0, 0.05))
        if count < int(kills) and written(Path(index) / "killed") >= ALL:
            sys.exit("it has come to its end before it was killed often enough")
    for run in ("killed", "whole"):
        predict(name, Path(index) / run, files)
