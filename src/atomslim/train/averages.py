"""Exponential averages of the weights over training, which are what is validated and saved."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Averages:
    """a ← d a + (1 − d) w after every step, for every trainable weight w."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        for name, weight in model.named_parameters():
            self.values[name].lerp_(weight, 1 - self.decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averages for a while; its own weights come back bit for bit."""
        own = {name: weight.data for name, weight in model.named_parameters()}
        for name, weight in model.named_parameters():
            weight.data = self.values[name]
        try:
            yield
        finally:
            for name, weight in model.named_parameters():
                weight.data = own[name]

    def state(self) -> dict[str, Tensor]:
        """All averages by the weight's name."""
        return self.values

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over saved averages."""
        for name, value in state.items():
            self.values[name].copy_(value)
