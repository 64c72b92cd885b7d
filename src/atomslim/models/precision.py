"""Number formats of predictions.

| policy | on the CPU | on CUDA |
|---|---|---|
| highest | float32 | float32 |
| high | float32 | TF32, where the device has it: matrix products use 10 of the 23 mantissa bits |
| fast | dense layers in bfloat16 | dense layers in bfloat16 |

Whatever the policy, edge vectors are computed in the dtype of the positions (float64), and bases, angular sums, the
last layer of every head, sums over atoms and energies in float32 or wider (`full_precision`): forces are derivatives of
the geometry, and a sum loses the digits that its terms do not have. Weights stay as they are stored.

Names of number formats (fp32, tf32, bf16, fp16) ask for exactly this format on any device; benchmarks use them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from atomslim.errors import ConfigError

Policy = Literal["highest", "high", "fast"]
Format = Literal["fp64", "fp32", "tf32", "bf16", "fp16"]
Precision = Literal["highest", "high", "fast", "fp32", "tf32", "bf16", "fp16"]

DEFAULT: Policy = "highest"
"""On every device; see docs/performance.md for what the others cost in accuracy."""

NARROW: dict[Format, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of dense layers by format, where it is not that of the weights."""

_FORMATS: dict[str, Format] = {"highest": "fp32", "high": "tf32", "fast": "bf16"}


def format_of(precision: str | None, weight: Tensor) -> Format:
    """Return the format of a policy (None: the default) for weights of this dtype on this device.

    Weights in float64 are used in float64 under the policy ``highest``, and under no other.
    Raises ConfigError for an unknown name, and for a format that the weights or the device do not allow.
    """
    if precision is not None and precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r}: choose from {', '.join(get_args(Policy))}")
    problem = refusal(precision, weight)
    if problem:
        raise ConfigError(f"precision {precision}: {problem}: use highest")
    return _format(precision, weight)


def refusal(precision: str | None, weight: Tensor) -> str | None:
    """Say why the weights or their device do not allow a precision, or None."""
    found = _format(precision, weight)
    if found != "fp64" and weight.dtype == torch.float64:
        return "the weights are float64, not float32"
    if not _lacks(found, weight.device):
        return None
    name = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "this CPU"
    return f"{name} has no {found} arithmetic"


def _format(precision: str | None, weight: Tensor) -> Format:
    name = precision or DEFAULT
    if name == "highest" and weight.dtype == torch.float64:
        return "fp64"
    if name == "high" and _lacks("tf32", weight.device):
        return "fp32"
    return _FORMATS.get(name, name)  # type: ignore[arg-type]


def _lacks(number_format: Format, device: torch.device) -> bool:
    on_cuda = device.type == "cuda"
    if number_format == "fp16":
        return not on_cuda and not _has_fp16()
    recent = on_cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    return not recent and (number_format == "tf32" or (number_format == "bf16" and on_cuda))


def _has_fp16() -> bool:
    """Say whether the CPU multiplies float16 natively: if not, torch is a hundred times slower than in float32."""
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return asked is not None and bool(asked())


@contextmanager
def computing(number_format: Format, device: torch.device) -> Iterator[None]:
    """Let dense layers compute in a format."""
    narrow = NARROW.get(number_format)
    narrowed = nullcontext() if narrow is None else torch.autocast(device.type, narrow)
    with _tf32(allowed=number_format == "tf32"), narrowed:
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the dtypes of the operands, whatever the policy: for geometry, angular sums and other sums.

    Where nothing is narrowed this does nothing at all, so that a traced program holds no trace of it.
    """
    with _tf32(allowed=False) if _tf32_allowed() else nullcontext(), without_autocast(device):
        yield


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Leave autocast, where it is on: derivatives have the dtypes of their inputs."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


_NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")
"""Whether torch is 2.9 or newer: its old setting raises errors in programs that use the new one."""


def _tf32_allowed() -> bool:
    setting = torch.backends.cuda.matmul
    return str(setting.fp32_precision) == "tf32" if _NEW else bool(setting.allow_tf32)


@contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    """Set whether CUDA may round the operands of products of float32 matrices, and put it back afterwards."""
    name, value = ("fp32_precision", "tf32" if allowed else "ieee") if _NEW else ("allow_tf32", allowed)
    before = getattr(torch.backends.cuda.matmul, name)
    setattr(torch.backends.cuda.matmul, name, value)
    try:
        yield
    finally:
        setattr(torch.backends.cuda.matmul, name, before)
