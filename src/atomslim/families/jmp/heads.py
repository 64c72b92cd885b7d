"""Prediction heads: from the readout's features to numbers of atoms and edges."""

from jaxtyping import Float
from torch import Tensor, nn

from atomslim.families.jmp.gemnet_oc.layers import scaled_silu, standardised_orthogonal_
from atomslim.models.precision import full_precision


class Head(nn.Module):
    """Five linear maps, scaled SiLU between them: width → width (four times) → 1."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        hidden = [nn.Linear(width, width, bias=bias) for _ in range(4)]
        last = nn.Linear(width, 1, bias=False)
        self.layers = nn.ModuleList([*hidden, last])
        for layer in (*hidden, last):
            standardised_orthogonal_(layer.weight, summed=(1,))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"]:
        """Return one number for each row, in the weights' dtype under any precision, since sums are made of them."""
        *hidden, last = self.layers
        for layer in hidden:
            x = scaled_silu(layer(x))
        with full_precision(x.device):
            return last(x.to(next(last.parameters()).dtype)).squeeze(-1)


def forces_on_atoms(
    values: Float[Tensor, " E"], direction: Float[Tensor, "E 3"], atom: Tensor, num_atoms: int
) -> Float[Tensor, "n 3"]:
    """Return F_a = Σ_{edges s→a} value · v, with v the unit vector from s to a."""
    along = values[:, None] * direction.to(values.dtype)
    return along.new_zeros(num_atoms, 3).index_add(0, atom, along)
