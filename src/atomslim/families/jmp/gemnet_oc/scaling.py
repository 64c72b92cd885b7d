"""Scale factors for training from scratch: fitted once on data, then kept."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp.gemnet_oc.layers import ScaleFactor
from atomslim.models.block_model import BlockModel
from atomslim.models.modes import evaluating


def scale_factors(model: nn.Module) -> dict[str, ScaleFactor]:
    """Return the model's scale factors by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ScaleFactor)}


def unfitted_scale_factors(model: nn.Module) -> list[str]:
    """Return the names of the scale factors that are zero, "not fitted", and act as one."""
    return [name for name, module in scale_factors(model).items() if not bool(module.factor)]


@torch.no_grad()
def fit_scale_factors(model: BlockModel, batch: AtomsBatch, topology: object) -> list[str]:
    """Set every factor to sqrt(var_in/var_out) of its step, each with all earlier ones in force.

    Variances are per feature over the rows of the batch (atoms, edges), averaged over features. One pass is enough:
    where it reaches a factor, all earlier ones are set, and the step's output is scaled before the pass goes on. Its
    memory is that of a prediction for the batch, whose edges bound it; some ten thousand edges give good factors.

    Overwrites factors that were fitted before. Returns the names of those that the batch does not reach or whose step
    gives zero: they stay unfitted (quadruplets of a data set of diatomics, say).
    """
    factors = scale_factors(model).values()
    for module in factors:
        module.factor.zero_()
        module.observer = _fitting(module)
    try:
        with evaluating(model):
            model.features(batch, topology)
    finally:
        for module in factors:
            module.observer = None
    return unfitted_scale_factors(model)


def _fitting(module: ScaleFactor) -> Callable[[Tensor, Tensor], Tensor | None]:
    def fit(before: Tensor, after: Tensor) -> Tensor | None:
        if len(before) < 2 or len(after) < 2:
            return None
        ratio = _variance(before) / _variance(after)
        if not 0 < float(ratio) < torch.inf:
            return None
        module.factor.copy_(ratio.sqrt())
        return module.factor

    return fit


def _variance(x: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    return x.double().var(dim=0, unbiased=False).mean()
