"""Checks of the tensors of a file, messages for what is wrong with them, and writing an archive of tensors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, Protocol

import torch
from torch import Tensor

from atomslim.errors import CheckpointError


class Shaped(Protocol):
    """A tensor, in memory or still in its file."""

    @property
    def shape(self) -> torch.Size:
        """Lengths of its axes."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its numbers."""


def require_fit(where: str, expected: Mapping[str, Sequence[int]], tensors: Mapping[str, Shaped], *more: str) -> None:
    """Raise CheckpointError unless a file has exactly the tensors of these names and shapes, of floating point.

    ``where`` is the file's name, ``more`` are further complaints, empty if there is none.
    """
    both = [(name, tensors[name]) for name in expected if name in tensors]
    problems = [
        listed("missing", [name for name in expected if name not in tensors]),
        listed("not part of the model", [name for name in tensors if name not in expected]),
        listed("of another shape", [misfit(name, tensor, expected[name]) for name, tensor in both]),
        listed("no floating-point numbers", [name for name, tensor in both if not tensor.dtype.is_floating_point]),
        *more,
    ]
    if any(problems):
        raise CheckpointError(
            f"{where}: the tensors are not those of a complete model: {'; '.join(filter(None, problems))}"
        )


def misfit(name: str, tensor: Shaped, shape: Sequence[int]) -> str:
    """Say how a tensor's shape is wrong; nothing if it is right."""
    return "" if tuple(tensor.shape) == tuple(shape) else f"{name} {tuple(tensor.shape)} instead of {tuple(shape)}"


def listed(what: str, names: Iterable[object]) -> str:
    """Name the first few that are wrong; empty if none are."""
    found = [str(name) for name in names if name != ""]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{what}: {', '.join(found[:3])}{more}" if found else ""


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def save_archive(content: object, stream: BinaryIO) -> None:
    """Write what `torch.save` writes; raises OSError when the system refuses to (a full disk)."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        # closing the archive fails in its own way after the system has refused to write
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
