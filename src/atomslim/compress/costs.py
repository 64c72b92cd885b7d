"""What one prediction of a model costs, in the unit of a target: weights, FLOPs, measured time or measured memory."""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from ase import Atoms

from atomslim.atoms import from_ase
from atomslim.compress.choose import flops
from atomslim.errors import ConfigError
from atomslim.memory import peak_memory
from atomslim.models.block_model import BlockModel
from atomslim.models.modes import parameter_count

Counted = Literal["parameters", "FLOPs", "ms", "MB"]

REPEATS = 5
"""Predictions of which the fastest counts, after one to warm up."""


TURNS = 3
"""Predictions of each of two models in turns."""


def cost(model: BlockModel, counted: Counted, structures: Sequence[Atoms]) -> float:
    """Return parameters, or what predictions cost: FLOPs or ms, graphs included, of all, or MB at the largest peak."""
    if counted == "parameters":
        return parameter_count(model)
    if counted == "MB":
        return max(megabytes(model, atoms) for atoms in structures)
    return sum((flops if counted == "FLOPs" else milliseconds)(model, atoms) for atoms in structures)


def milliseconds(model: BlockModel, atoms: Atoms) -> float:
    """Measure the shortest time of a prediction with the model's first task, its graphs included.

    On a CPU it is processor time, so that other programs do not count.
    """
    predict = _prediction(model, atoms)
    predict()
    return 1e3 * min(_taken(predict, next(model.parameters()).device) for _ in range(REPEATS))


def time_share(model: BlockModel, full: BlockModel, structures: Sequence[Atoms]) -> float:
    """Measure a model's time over the full one's, in turns, so that temporary slow-downs affect both."""
    sums = [0.0, 0.0]
    for atoms in structures:
        both = [_prediction(one, atoms) for one in (model, full)]
        for predict in both:
            predict()
        device = next(full.parameters()).device
        turns = [[_taken(predict, device) for predict in both] for _ in range(TURNS)]
        sums = [before + min(times) for before, times in zip(sums, zip(*turns, strict=True), strict=True)]
    return sums[0] / sums[1]


def megabytes(model: BlockModel, atoms: Atoms) -> float:
    """Measure the memory of the weights and of a prediction at its peak; ConfigError if the system does not say."""
    predict = _prediction(model, atoms)
    predict()
    added = peak_memory(predict, next(model.parameters()).device)
    if added is None:
        raise ConfigError("memory cannot be measured on this system: give a speed, a time or a number of parameters")
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return (added + weights) / 1e6


def words(value: float, counted: Counted) -> str:
    """Write a cost with its unit."""
    return f"{value:,.0f} {counted}" if counted in ("parameters", "FLOPs") else f"{value:.3g} {counted}"


def _prediction(model: BlockModel, atoms: Atoms) -> Callable[[], object]:
    batch, task = from_ase(atoms).to(next(model.parameters()).device), next(iter(model.tasks))
    model.eval()
    return lambda: model.predict(batch, task)


def _taken(predict: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.process_time()
        predict()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    predict()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start
