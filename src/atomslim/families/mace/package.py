"""The package's own layers, made without compiling, and without changing torch's settings."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it warns that cuequivariance is missing
    warnings.simplefilter("ignore")  # e3nn 0.4.4 reads and compiles by what torch 2.13 calls deprecated
    import mace  # noqa: F401 - before e3nn, which it makes importable with torch 2.6 or later

    import e3nn  # isort: skip
    from e3nn import o3
    from e3nn.math import normalize2mom
    from e3nn.util.codegen import CodeGenMixin
    from mace.modules import blocks, models, radial

__all__ = ["addresses", "blocks", "building", "models", "normalize2mom", "o3", "radial", "tidied"]


@contextmanager
def building(*, compiled: bool = False) -> Iterator[None]:
    """Make layers in float64, so that constants are exact; keep torch's generator and defaults.

    Layers that are not compiled are copied quickly, and have no slow first calls.
    """
    dtype, before = torch.get_default_dtype(), e3nn.get_optimization_defaults()["jit_script_fx"]
    torch.set_default_dtype(torch.float64)
    e3nn.set_optimization_defaults(jit_script_fx=compiled)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(jit_script_fx=before)


def tidied(module: nn.Module) -> nn.Module:
    """Return a module whose copies need no compiler, and whose state files can hold."""
    for one in module.modules():
        if isinstance(one, CodeGenMixin) and hasattr(one, "__codegen__"):
            setattr(one, "__codegen__", [])  # noqa: B010 - what is listed is compiled when it is copied
        for name, buffer in one.named_buffers(recurse=False):
            if not buffer.is_floating_point():
                one._non_persistent_buffers_set.add(name)  # noqa: SLF001 - there is no other way to say so later
        for name, weight in list(one.named_parameters(recurse=False)):
            if type(weight) is not nn.Parameter:  # weights of paths that are zero, of a class that cannot be copied
                one._parameters[name] = nn.Parameter(weight.data.clone())  # noqa: SLF001 - lists take no names
    return module


def irreps(text: str) -> Any:
    """Return irreps of the package's e3nn."""
    return o3.Irreps(text)


def scalars(text: str) -> int:
    """Return the number of even scalars at the start of irreps."""
    first = o3.Irreps(text)[0]
    return int(first.mul) if first.ir == o3.Irrep(0, 1) else 0


def addresses() -> dict[str, str]:
    """Return where the package would download each of its foundation models for materials, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mace.calculators import foundations_models  # noqa: PLC0415 - it imports the package's calculators

    return dict(foundations_models.mace_mp_urls)
