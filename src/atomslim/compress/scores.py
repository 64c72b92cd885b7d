"""How much each block matters, from its features and the gradient of the loss with respect to them.

| symbol | variable | meaning |
|---|---|---|
| f_i | features[i] | what block i (0: the embedding) gives to the readout, (rows, d): one row per atom, or per edge |
| ∂L₀/∂f_i | gradients[i] | gradient of the loss on labelled data |

Each function gives one number for each block.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Features = Sequence[Float[Tensor, "rows d"]]


def gradcam(features: Features, gradients: Features) -> Float[Tensor, " blocks"]:
    """Return the mean over features and rows of ReLU(f_i ⊙ ∂L₀/∂f_i) (arXiv 2504.19538, Fig. 2)."""
    return torch.stack([torch.relu(f * g).mean() for f, g in zip(features, gradients, strict=True)])


def taylor(features: Features, gradients: Features) -> Float[Tensor, " blocks"]:
    """Return the mean over rows of |Σ f_i · ∂L₀/∂f_i|.

    To first order, what each row's loss changes by when its features of block i become zero (arXiv 1611.06440).
    """
    return torch.stack([(f * g).sum(-1).abs().mean() for f, g in zip(features, gradients, strict=True)])


def influence(features: Features) -> Float[Tensor, " blocks"]:
    """Return the mean over rows of 1 − cos(f_{i−1}, f_i): how far block i turns the features (arXiv 2403.03853).

    The embedding, before which there is nothing, has NaN. Of two widths the narrower counts as zero beyond its own.
    """
    turned = [1 - functional.cosine_similarity(*_as_wide(one, two), dim=-1).mean() for one, two in pairwise(features)]
    return torch.stack([features[0].new_tensor(torch.nan), *turned])


def _as_wide(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Add zeros to the narrower of two tensors of features."""
    width = max(one.shape[-1], two.shape[-1])
    return functional.pad(one, (0, width - one.shape[-1])), functional.pad(two, (0, width - two.shape[-1]))
