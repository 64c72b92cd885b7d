"""AdamW with a rate for every part of a model, and parts that stay frozen."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.train.options import OptimiserOptions


def rate_of_part(part: str, model: BlockModel, options: OptimiserOptions) -> float:
    """Return the factor on the learning rate for ``embedding``, ``block 2``, ``readout`` or ``head NAME``.

    Rates know blocks by their number in the original model, so that a cut model keeps the rates of what is left.
    """
    rates = options.rates
    if rates is None:
        rates = dict(model.family.rates) if model.family is not None else {}
    if part.startswith("block "):
        part = f"block {model.block_ids[int(part.removeprefix('block ')) - 1]}"
    return rates.get(part, 1.0)


def make_optimiser(
    model: BlockModel, options: OptimiserOptions, others: Sequence[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """Freeze the parts that are to be, and return AdamW with one group of parameters per trainable part.

    ``others`` are weights that are trained along and belong to no part of the model. Every group has its factor under
    ``rate``. Raises ConfigError for a part that does not exist, or nothing to train.
    """
    parts = model.parts()
    for name in options.freeze:
        _freeze(name, parts)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "name": part, "rate": rate_of_part(part, model, options)}
        for part, modules in parts.items()
        if (parameters := [weight for weight in _parameters(modules) if weight.requires_grad])
    ]
    if not groups:
        raise ConfigError("all parts of the model are frozen: leave one to train")
    if others:
        groups.append({"params": list(others), "name": "objective", "rate": 1.0})
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay)


def set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its learning rate: ``rate`` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]


def _freeze(name: str, parts: dict[str, list[nn.Module]]) -> None:
    if name not in parts:
        near = get_close_matches(name, parts, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(parts)}"
        raise ConfigError(f"freeze {name!r}: the model has no such part ({hint})")
    for weight in _parameters(parts[name]):
        weight.requires_grad_(False)


def _parameters(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    for module in modules:
        yield from module.parameters()
