"""Scale factors for training from scratch: fitted once on data, then kept."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.models.block_model import BlockModel
from atomslim.models.gemnet_oc.layers import ScaleFactor


class _Reached(Exception):  # noqa: N818 - no error: it ends a pass that has seen what it is for
    pass


def scale_factors(model: nn.Module) -> dict[str, ScaleFactor]:
    """Return the model's scale factors by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ScaleFactor)}


def unfitted_scale_factors(model: nn.Module) -> list[str]:
    """Return the names of the scale factors that are zero, "not fitted", and act as one."""
    return [name for name, module in scale_factors(model).items() if not bool(module.factor)]


def fit_scale_factors(model: BlockModel, batches: Iterable[tuple[AtomsBatch, object]]) -> list[str]:
    """Set every factor to sqrt(var_in/var_out) of its step, one after the other in order of execution.

    ``batches`` are structures with their topologies; variances are per feature over the rows of all batches (atoms,
    edges), averaged over features. Each factor is measured with all earlier ones in force, so this takes as many
    partial passes as there are factors. Overwrites factors that were fitted before. Returns the names of those that
    no batch reached or whose step gives zero: they stay unfitted (quadruplets of a data set of diatomics, say).
    """
    data = list(batches)
    factors = scale_factors(model)
    for module in factors.values():
        module.factor.zero_()
    was_training = model.training
    model.eval()
    with torch.no_grad():
        order = _order_of_execution(model, data, factors)
        for name in order:
            variances = _variances(model, data, factors[name])
            if variances is not None and variances[0] > 0 and variances[1] > 0:
                factors[name].factor.fill_((variances[0] / variances[1]) ** 0.5)
    model.train(was_training)
    return unfitted_scale_factors(model)


def _order_of_execution(
    model: BlockModel, data: Sequence[tuple[AtomsBatch, object]], factors: dict[str, ScaleFactor]
) -> list[str]:
    order: dict[str, None] = {}
    for name, module in factors.items():
        module.observer = lambda _before, _after, name=name: order.setdefault(name)
    for batch, topology in data:
        model.features(batch, topology)
    for module in factors.values():
        module.observer = None
    return list(order)


def _variances(
    model: BlockModel, data: Sequence[tuple[AtomsBatch, object]], factor: ScaleFactor
) -> tuple[float, float] | None:
    """Return the variances of the step's input and output over all batches."""
    seen: list[tuple[int, Tensor]] = []

    def observe(before: Tensor, after: Tensor) -> None:
        if len(before) > 1 and len(after) > 1:
            seen.append((len(after), torch.stack([_variance(before), _variance(after)])))
        raise _Reached

    factor.observer = observe
    for batch, topology in data:
        try:
            model.features(batch, topology)
        except _Reached:
            continue
    factor.observer = None
    if not seen:
        return None
    rows = sum(count for count, _ in seen)
    before, after = (sum(count * float(pair[side]) for count, pair in seen) / rows for side in (0, 1))
    return before, after


def _variance(x: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    return x.double().var(dim=0, unbiased=False).mean()
