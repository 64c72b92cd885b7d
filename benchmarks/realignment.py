"""What re-alignments in closed form bring: errors of cuts against the full model on structures that were not fitted.

    python benchmarks/realignment.py sevennet:7net-0 frames.xyz --keep 1,2,3,5

Prints a row of a table for each re-alignment: mean absolute differences from the full model of energies (meV/atom) and
forces (meV/Å), and the CPU seconds of the cut and its test.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch

import atomslim
from atomslim.atoms import Sample
from atomslim.compress.force_fit import Weights
from atomslim.data.in_memory import opened
from atomslim.evaluation.batches import batches
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of

WAYS: dict[str, dict[str, Any]] = {
    "sliced": {},
    "least squares": {"realign": "least-squares"},
    "least squares with forces, weight 1": {"realign": "least-squares-forces", "weights": Weights(1.0)},
    "least squares with forces, weight 10": {"realign": "least-squares-forces", "weights": Weights(10.0)},
}
HAND_OVER = {f"hand-over, {name}": way | {"hand_over": True} for name, way in WAYS.items()}


def answers(model: BlockModel, task: str, samples: list[Sample]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give energies per atom and forces of each batch."""
    for batch in batches(model, task, samples, 8):
        found = model.predict(batch.atoms, task, batch.topology)
        yield found["energy"] / batch.atoms.natoms, found["forces"]


def differences(ours: list[tuple[torch.Tensor, torch.Tensor]], theirs: list[tuple[torch.Tensor, torch.Tensor]]) -> str:
    """Return mean absolute differences as cells of a table."""
    both = list(zip(ours, theirs, strict=True))
    cells = (torch.cat([(one[part] - two[part]).abs().flatten() for one, two in both]).mean() for part in (0, 1))
    return " | ".join(f"{1000 * float(cell):.0f}" for cell in cells)


def main() -> None:
    """Cut, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("frames", help="structures; every 21st is held out, others are fitted")
    parser.add_argument("--test", help="structures that are held out, in place of every 21st")
    parser.add_argument("--keep", required=True, help="blocks, as in 1,2,3,5")
    parser.add_argument("--calibration", type=int, default=64, help="structures that are fitted")
    parser.add_argument("--task")
    parser.add_argument("--only", help="a part of the names of re-alignments to try")
    options = parser.parse_args()
    full = atomslim.load(options.model)
    task = options.task or next(name for name, one in full.tasks.items() if one.conservative)
    data = opened(options.frames)
    rest = [data[index] for index in range(len(data)) if options.test or index % 21 != 3]
    held_out = opened(options.test) if options.test else [data[index] for index in range(3, len(data), 21)]
    test = [held_out[index] for index in range(len(held_out))]
    calibration = rest[:: len(rest) // options.calibration][: options.calibration]
    whole = list(answers(full, task, test))
    none = torch.cat([forces.abs().flatten() for _, forces in whole]).mean()
    print(f"{options.model}: {len(test)} held out, {len(calibration)} fitted; forces of none: {1000 * float(none):.0f}")
    ways = WAYS | (HAND_OVER if "hand-over" in family_of(full).capabilities else {})
    for name, way in ways.items():
        if options.only is not None and options.only not in name:
            continue
        data_of = {"calibration": {task: calibration}, "limit": len(calibration)} if way else {}
        start = time.process_time()
        small = atomslim.keep_blocks(full, [int(block) for block in options.keep.split(",")], **way, **data_of)
        cells = differences(list(answers(small, task, test)), whole)
        print(f"| {options.keep} | {name} | {cells} | {time.process_time() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
