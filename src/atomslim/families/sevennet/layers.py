"""The layers of a SevenNet block, on states that are one tensor for each irrep: (atoms, components, channels).

All weights are the effective ones: the scale factors that e3nn puts beside its weights are part of them, so that a cut
is a choice of rows and columns. See `atomslim.families.sevennet.checkpoint` for the conversion from and to e3nn's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.geometry import Graph, coupling
from atomslim.families.sevennet.irreps import SCALAR, TensorPath, channels, gated_irreps, read_paths
from atomslim.models.precision import full_precision

PSEUDOSCALAR = Irrep("0o")

State: TypeAlias = dict[Irrep, Float[Tensor, "n components channels"]]


def shifted_softplus(x: Tensor) -> Tensor:
    """Return log((1 + eˣ)/2)."""
    return functional.softplus(x) - math.log(2.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "ssp": shifted_softplus,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
}


@lru_cache(maxsize=16)
def scale_of(activation: str) -> float:
    """Return e3nn's factor by which an activation of normal numbers has mean square 1."""
    with torch.device("cpu"):
        found = normalize2mom(ACTIVATIONS[activation])
    return 1.0 if found._is_id else found.cst  # noqa: SLF001 - e3nn leaves factors near 1 out, and says so here only


def activate(activation: str, x: Tensor) -> Tensor:
    """Apply an activation with e3nn's factor."""
    return ACTIVATIONS[activation](x) * scale_of(activation)


@dataclass(frozen=True)
class EdgeTerms:
    """Inputs of blocks from edges: (E, radial) and, by degree, (E, components)."""

    radial: Float[Tensor, "E radial"]
    harmonics: list[Float[Tensor, "E components"]]


class IrrepsLinear(nn.Module):
    """A linear map of the channels of each irrep; even scalars may have a bias, or one for each level of theory."""

    def __init__(self, source: Irreps, out: Irreps, *, bias: bool = False, modalities: int = 0) -> None:
        super().__init__()
        given, made = channels(source), channels(out)
        self.weights = nn.ParameterDict(
            {str(kind): drawn(given[kind], mul) for kind, mul in made.items() if kind in given}
        )
        self.bias = nn.Parameter(torch.zeros(made[SCALAR])) if bias else None
        self.modality = nn.Parameter(torch.zeros(modalities, made[SCALAR])) if modalities else None

    def forward(self, state: State, modality: Tensor) -> State:
        """Return the irreps of both state and output."""
        made = {kind: x @ self.weights[str(kind)] for kind, x in state.items() if str(kind) in self.weights}
        for extra in (self.bias, None if self.modality is None else self.modality[modality][:, None]):
            if extra is not None:
                made[SCALAR] = made[SCALAR] + extra
        return made


class ElementLinear(nn.Module):
    """A linear map of the channels of each irrep, one for each element."""

    def __init__(self, source: Irreps, out: Irreps, num_elements: int) -> None:
        super().__init__()
        given, made = channels(source), channels(out)
        self.weights = nn.ParameterDict(
            {
                str(kind): nn.Parameter(torch.stack([drawn(given[kind], mul) for _ in range(num_elements)]).detach())
                for kind, mul in made.items()
                if kind in given
            }
        )

    def forward(self, state: State, graph: Graph) -> State:
        """Return the irreps of both state and output."""
        counts = [count for _, count in graph.kinds]
        made = {}
        for kind, x in state.items():
            if str(kind) in self.weights:
                weights = self.weights[str(kind)]
                parts = x.index_select(0, graph.by_kind).split(counts)
                mapped = [part @ weights[element] for part, (element, _) in zip(parts, graph.kinds, strict=True)]
                made[kind] = torch.cat(mapped).index_select(0, graph.kind_rank)
        return made


class Convolution(nn.Module):
    """Messages m_k = Σ_edges w_u(r) C_ijk x_ui Y_j(r̂) over the neighbours of an atom, by path.

    | symbol | variable | meaning |
    |---|---|---|
    | w | weights | radial weights of each channel u of a path, from the radial basis by a small network |
    | x | state | the neighbours' state |
    | Y | harmonics | spherical harmonics of the edge |
    | C | coupling | 3j symbols · √(2l₃+1) |

    Edges are summed over before components are coupled, as one product of matrices for each atom: (Y ⊗ w x) has far
    fewer numbers by atom than by edge.
    """

    denominator: Tensor

    def __init__(self, config: SevenNetConfig, paths: Sequence[TensorPath]) -> None:
        super().__init__()
        self.paths = tuple(paths)
        self.activation = config.act_radial
        widths = (config.num_radial, *config.radial_hidden)
        self.hidden = nn.ParameterList(drawn(a, b) for a, b in pairwise(widths))
        self.last = drawn(widths[-1], sum(path.channels for path in paths))
        self.register_buffer("denominator", torch.ones(1))

    def forward(self, state: State, graph: Graph, edges: EdgeTerms) -> State:
        """Return the messages' sum, the channels of all paths to an irrep side by side."""
        read = {path.source for path in self.paths}
        neighbours = {kind: x.index_select(0, graph.source) for kind, x in state.items() if kind in read}
        weights = self._radial(edges.radial).split([path.channels for path in self.paths], dim=1)
        harmonics = [graph.by_atom(values) for values in edges.harmonics]
        summed: dict[Irrep, list[Tensor]] = {}
        with full_precision(graph.source.device):
            for path, weight in zip(self.paths, weights, strict=True):
                weighted = (neighbours[path.source] * weight[:, None, :]).flatten(1)
                outer = graph.products(harmonics[path.edge.l], weighted.to(edges.radial.dtype))
                summed.setdefault(path.message, []).append(self._coupled(outer, path))
            return {kind: torch.cat(parts, dim=-1).index_select(0, graph.rank) for kind, parts in summed.items()}

    def _radial(self, x: Float[Tensor, "E radial"]) -> Float[Tensor, "E weights"]:
        for weight in self.hidden:
            x = activate(self.activation, x @ weight)
        return x @ (self.last / self.denominator)

    @staticmethod
    def _coupled(outer: Float[Tensor, "n d2 columns"], path: TensorPath) -> Float[Tensor, "n d3 channels"]:
        degrees = path.source.l, path.edge.l, path.message.l
        if degrees[0] == 0:  # then C is 1 where j = k
            return outer
        tensor = coupling(*degrees, outer.dtype, outer.device)
        by_component = outer.reshape(len(outer), outer.shape[1] * path.source.dim, path.channels)
        return tensor.transpose(0, 1).flatten(0, 1).T @ by_component


class Gate(nn.Module):
    """Scalars through an activation, other irreps times their own activated even scalars."""

    def __init__(self, config: SevenNetConfig, out: Irreps) -> None:
        super().__init__()
        self.out = out
        self.scalar, self.gate = config.act_scalar, config.act_gate["e"]

    def forward(self, state: State) -> tuple[Float[Tensor, "n scalars"], State]:
        """Return the block's even scalars, and its whole output, which is made of the very same tensor."""
        gated = [entry for entry in self.out if entry.ir.l > 0]
        even = channels(self.out)[SCALAR]
        before, *gates = state[SCALAR].split([even, *(entry.mul for entry in gated)], dim=-1)
        scalars = activate(self.scalar["e"], before).squeeze(1)
        made = {SCALAR: scalars[:, None]}
        if PSEUDOSCALAR in state:
            made[PSEUDOSCALAR] = activate(self.scalar["o"], state[PSEUDOSCALAR])
        for entry, gate in zip(gated, gates, strict=True):
            if entry.ir in state:
                made[entry.ir] = state[entry.ir] * activate(self.gate, gate)
        return scalars, made


class Block(nn.Module):
    """x → gate(connection(x) + second(convolution(first(x))))."""

    def __init__(self, config: SevenNetConfig, index: int, paths: Sequence[TensorPath]) -> None:
        super().__init__()
        source, out = (Irreps(config.irreps[at]) for at in (index, index + 1))
        inner = gated_irreps(out)
        modalities = config.modality
        count = len(modalities.names)
        messages = Irreps([(path.channels, path.message) for path in paths]).regroup()
        self.connection: IrrepsLinear | ElementLinear = (
            IrrepsLinear(source, inner)
            if config.self_connection[index] == "linear"
            else ElementLinear(source, inner, len(config.species))
        )
        self.first = IrrepsLinear(source, source, bias=config.biases, modalities=count * modalities.intro)
        self.convolution = Convolution(config, paths)
        self.second = IrrepsLinear(messages, inner, bias=config.biases, modalities=count * modalities.outro)
        self.gate = Gate(config, out)

    def forward(self, state: State, graph: Graph, edges: EdgeTerms) -> tuple[Float[Tensor, "n scalars"], State]:
        """Return the even scalars and the whole state after the block."""
        connection = self.connection
        kept = connection(state, graph.modality if isinstance(connection, IrrepsLinear) else graph)
        messages = self.convolution(self.first(state, graph.modality), graph, edges)
        return self.gate(_sum(kept, self.second(messages, graph.modality)))


def block_of(config: SevenNetConfig, index: int) -> Block:
    """Return block ``index`` (from 0) of a configuration, with fresh weights."""
    return Block(config, index, read_paths(config, index))


def _sum(first: Mapping[Irrep, Tensor], second: Mapping[Irrep, Tensor]) -> State:
    """Add two states of which either may lack an irrep."""
    both = {kind: first[kind] + second[kind] for kind in first if kind in second}
    return {**first, **second, **both}


def drawn(fan_in: int, fan_out: int) -> nn.Parameter:
    """Return fresh weights (inputs, outputs) that preserve the scale of normal numbers."""
    return nn.Parameter(torch.randn(fan_in, fan_out) / math.sqrt(max(fan_in, 1)))
