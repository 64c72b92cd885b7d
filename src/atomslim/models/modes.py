"""Temporary modes of a model, and the number of its weights.

A mode switches dropout off, or says which weights take part in derivatives. Whatever happens meanwhile, every module
and weight is restored afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def parameter_count(model: nn.Module) -> int:
    """Return the number of weights."""
    return sum(weight.numel() for weight in model.parameters())


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Switch dropout off."""
    training = [module for model in models for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def inference(*models: nn.Module) -> Iterator[None]:
    """Switch off dropout and gradients."""
    with evaluating(*models), torch.no_grad():
        yield


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Let losses be differentiated by all weights, with dropout off."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def without_parameter_gradients(module: nn.Module) -> Iterator[None]:
    """Let only positions be differentiated, so that nothing is saved for gradients of weights."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
