"""A preparation that is killed again and again: preparer.py SOURCE OUTPUT PROCESSES KILLS ROWS.

It prints how many rows there were each time. It is killed at random moments after a commit, and once more where all
ROWS are read and the parts are joined. It is forks that are killed, which need not import anything anew.
"""

import json
import random
import sys
import time
from multiprocessing import get_context
from pathlib import Path

from atomslim.cli.main import main
from atomslim.data.staging import rows_written, staging_folder


def kill(source: str, output: Path, processes: str, rows: int, delay: float) -> int:
    """Go on with a preparation, kill it a moment after so many rows are there, and return how many then are."""
    line = ["data", "prepare", source, "-o", str(output), "--processes", processes]
    process = get_context("fork").Process(target=main, args=(line,))
    process.start()
    while process.is_alive() and written(output) < rows:
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    return written(output)


def written(output: Path) -> int:
    return sum(rows_written(staging_folder(output), part) for part in range(2))


if __name__ == "__main__":
    given, made, workers, kills, whole = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    moments, progress = random.Random(int(workers)), [0]
    for _ in range(kills):
        progress.append(kill(given, made, workers, progress[-1] + 1, moments.uniform(0, 0.3)))
    if made.exists():
        sys.exit("it has come to its end before it was killed often enough")
    kill(given, made, workers, whole, 0.0)
    sys.stdout.write(json.dumps(progress) + "\n")
