"""How much each block matters, from its features and the gradient of the loss with respect to them.

| symbol | variable | meaning |
|---|---|---|
| f_i | features[i] | features of block i (0: the embedding) for the readout, (rows, d): one row per atom, or per edge |
| ∂L₀/∂f_i | gradients[i] | gradient of the loss on labelled data |

Each function gives one number for each block.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from atomslim.models.family import Change

Features = Sequence[Float[Tensor, "rows d"]]


def gradcam(features: Features, gradients: Features) -> Float[Tensor, " blocks"]:
    """Return the mean over features and rows of ReLU(f_i ⊙ ∂L₀/∂f_i) (arXiv 2504.19538, Fig. 2)."""
    return torch.stack([torch.relu(f * g).mean() for f, g in zip(features, gradients, strict=True)])


def taylor(features: Features, gradients: Features) -> Float[Tensor, " blocks"]:
    """Return the mean over rows of |Σ f_i · ∂L₀/∂f_i|.

    To first order, the change of each row's loss when its features of block i become zero (arXiv 1611.06440).
    """
    return torch.stack([(f * g).sum(-1).abs().mean() for f, g in zip(features, gradients, strict=True)])


def influence(features: Features) -> Float[Tensor, " blocks"]:
    """Return the mean over rows of 1 − cos(f_{i−1}, f_i): how far block i rotates the features (arXiv 2403.03853).

    NaN for the embedding, which has no input. The narrower of two blocks is padded with zeros.
    """
    turned = [1 - functional.cosine_similarity(*_as_wide(one, two), dim=-1).mean() for one, two in pairwise(features)]
    return torch.stack([features[0].new_tensor(torch.nan), *turned])


def unit_scores(
    changes: Sequence[Change], gradients: Sequence[Tensor], atoms: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return GradCAM's score and Taylor's of the change that a finer unit makes, per atom.

    As of blocks, but with the change x − x⁰ that the unit makes, which is what leaving it out undoes, in place of
    features; rows (bonds, say) are summed, and divided by the number of atoms. Components that rotate with the
    structure are summed first, so that scores are invariant.
    """
    products = [_product(change, slope) for change, slope in zip(changes, gradients, strict=True)]
    relevance = torch.stack([torch.relu(product).mean(-1).sum() for product in products]).sum()
    first_order = torch.stack([product.sum(-1).abs().sum() for product in products]).sum()
    return relevance / atoms, first_order / atoms


def _product(change: Change, slope: Tensor) -> Float[Tensor, "rows channels"]:
    after = change.after.detach()
    product = (after if change.before is None else after - change.before.detach()) * slope
    product = product.sum(1) if change.turning else product
    return product[:, None] if product.dim() == 1 else product


def _as_wide(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Add zeros to the narrower of two tensors of features."""
    width = max(one.shape[-1], two.shape[-1])
    return functional.pad(one, (0, width - one.shape[-1])), functional.pad(two, (0, width - two.shape[-1]))
