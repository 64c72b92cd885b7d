"""Interaction block, output block, readout, heads, and the whole model."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from reference.bases import Bases, State, compute_bases, sum_to
from reference.enumerate import Graph, Inputs
from reference.interactions import (
    act,
    atom_to_atom,
    atom_to_edge,
    dense,
    edge_to_atom,
    edge_to_edge,
    quadruplet,
    scale,
)


def residual_layers(state: State, prefix: str, x: Tensor, first: int = 0) -> Tensor:
    """Apply x <- (x + act(W_2 act(W_1 x))) / sqrt 2 for every `prefix`.{j} there is, from j = first on."""
    j = first
    while f"{prefix}.{j}.dense_mlp.0.linear.weight" in state:
        layer = f"{prefix}.{j}.dense_mlp"
        x = (x + dense(state, f"{layer}.1", dense(state, f"{layer}.0", x))) / math.sqrt(2)
        j += 1
    return x


def dense_then_residual(state: State, prefix: str, x: Tensor) -> Tensor:
    """act(W x) by `prefix`.0 where that is a plain map (absent where widths agree), then residual layers."""
    if f"{prefix}.0.linear.weight" not in state:
        return residual_layers(state, prefix, x)
    return residual_layers(state, prefix, dense(state, f"{prefix}.0", x), 1)


def atom_update(state: State, prefix: str, radial: Tensor, m: Tensor, main: Graph, number: int) -> Float[Tensor, "n a"]:
    """Sum m * (W_rbf rad) over the edges into each atom, times scale_sum, then act(W .) and residual layers."""
    messages = m * linear(radial, state[f"{prefix}.dense_rbf.linear.weight"])
    x = sum_to(messages, main.target, number) * scale(state, f"{prefix}.scale_sum")
    return dense_then_residual(state, f"{prefix}.layers", x)


def edge_features(h: Tensor, last: Tensor, main: Graph) -> Tensor:
    """[h_s ; h_t ; last] of every main edge s->t."""
    return torch.cat([h[main.source], h[main.target], last], -1)


def interaction_paths(
    state: State, prefix: str, bases: Bases, inputs: Inputs, h: Tensor, m: Tensor
) -> dict[str, Tensor]:
    """Outputs of the skip and of the five interaction paths of a block, by JMP's names; all read the block's input."""
    graphs, reverse = inputs.graphs, inputs.reverse
    ae = graphs["a2ee2a"]
    return {
        "dense_ca": dense(state, f"{prefix}.dense_ca", m),
        "trip_interaction": edge_to_edge(state, f"{prefix}.trip_interaction", bases, m, reverse),
        "quad_interaction": quadruplet(state, f"{prefix}.quad_interaction", bases, m, reverse),
        "atom_edge_interaction": atom_to_edge(state, f"{prefix}.atom_edge_interaction", bases, h, ae, reverse),
        "edge_atom_interaction": edge_to_atom(state, f"{prefix}.edge_atom_interaction", bases, m, ae, len(h)),
        "atom_interaction": atom_to_atom(state, f"{prefix}.atom_interaction", bases, h, graphs["a2a"]),
    }


def combine_paths(
    state: State, prefix: str, bases: Bases, main: Graph, h: Tensor, m: Tensor, paths: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Combine what the paths say into the block's output atom and edge embeddings (h, m)."""
    x = (paths["dense_ca"] + paths["trip_interaction"] + paths["quad_interaction"] + paths["atom_edge_interaction"]) / 2
    h = (h + paths["edge_atom_interaction"] + paths["atom_interaction"]) / math.sqrt(3)
    x = residual_layers(state, f"{prefix}.layers_before_skip", x)
    m = residual_layers(state, f"{prefix}.layers_after_skip", (m + x) / math.sqrt(2))
    h = residual_layers(state, f"{prefix}.atom_emb_layers", h)
    update = atom_update(state, f"{prefix}.atom_update", bases.atom_update, m, main, len(h))
    h = (h + update) / math.sqrt(2)
    concat = dense(state, f"{prefix}.concat_layer.dense", edge_features(h, m, main))
    return h, (m + residual_layers(state, f"{prefix}.residual_m", concat)) / math.sqrt(2)


def interaction_block(
    state: State, prefix: str, bases: Bases, inputs: Inputs, h: Tensor, m: Tensor
) -> tuple[Float[Tensor, "n a"], Float[Tensor, "e d"], dict[str, Tensor]]:
    """One block: new h (n, d_a), new m (E, d_e), and the outputs of its paths."""
    paths = interaction_paths(state, prefix, bases, inputs, h, m)
    return *combine_paths(state, prefix, bases, inputs.graphs["main"], h, m, paths), paths


def output_block(
    state: State, prefix: str, bases: Bases, main: Graph, h: Tensor, m: Tensor
) -> tuple[Float[Tensor, "n a"], Float[Tensor, "e d"] | None]:
    """Node features (n, d_a), and edge features (E, d_e) where the model has its direct-force branch."""
    x = atom_update(state, prefix, bases.output, m, main, len(h))
    node = residual_layers(state, f"{prefix}.seq_energy2", (x + h) / math.sqrt(2))
    if f"{prefix}.dense_rbf_F.linear.weight" not in state:
        return node, None
    edge = residual_layers(state, f"{prefix}.seq_forces", m)
    radial = linear(bases.output, state[f"{prefix}.dense_rbf_F.linear.weight"])
    return node, edge * radial * scale(state, f"{prefix}.scale_rbf_F")


def final_mlp(state: State, prefix: str, features: list[Tensor]) -> Tensor:
    """Readout g: act(W_1 [f_1 ; ... ; f_b+1]), then residual layers. The prefix ends in .out_mlp."""
    return dense_then_residual(state, prefix, torch.cat(features, -1))


def head(state: State, prefix: str, x: Tensor) -> Float[Tensor, " x"]:
    """Five linear maps `prefix`.{0, 2, 4, 6, 8}, biases where they exist, act between them; one number per row."""
    for layer in (0, 2, 4, 6, 8):
        x = linear(x, state[f"{prefix}.{layer}.weight"], state.get(f"{prefix}.{layer}.bias"))
        x = act(x) if layer < 8 else x
    return x.squeeze(-1)


def head_prefixes(state: State, name: str) -> list[str]:
    """Where the heads called out_energy or out_forces are: one per task in pre-training, one in fine-tuning."""
    if f"{name}.0.weight" in state:
        return [name]
    tasks = {key.split(".")[2] for key in state if key.startswith(f"output.{name}.")}
    return [f"output.{name}.{task}" for task in sorted(tasks, key=int)]


def embed(state: State, bases: Bases, inputs: Inputs) -> tuple[Float[Tensor, "n a"], Float[Tensor, "e d"]]:
    """h_0 = element table row Z - 1; m_0 = act(W_e [h_s ; h_t ; rbf])."""
    name = "embedding.atom_embedding.weight" if "embedding.atom_embedding.weight" in state else "embedding.weight"
    h = state[name][inputs.numbers - 1]
    m = dense(state, "backbone.bases.edge_emb.dense", edge_features(h, bases.rbf, inputs.graphs["main"]))
    return h, m


def number_of_blocks(state: State) -> int:
    """Count the interaction blocks by their keys."""
    return len({key.split(".")[2] for key in state if key.startswith("backbone.int_blocks.")})


def backbone(state: State, inputs: Inputs, bases: Bases) -> dict[str, Tensor]:
    """Embeddings h{i}, m{i} and features xE{i}, xF{i} of every depth, paths b{i}_<name>, out_mlp_E, out_mlp_F."""
    result: dict[str, Tensor] = {}
    h, m = embed(state, bases, inputs)
    number = number_of_blocks(state)
    for i in range(number + 1):
        if i:
            h, m, paths = interaction_block(state, f"backbone.int_blocks.{i - 1}", bases, inputs, h, m)
            result |= {f"b{i}_{name}": value for name, value in paths.items()}
        node, edge = output_block(state, f"backbone.out_blocks.{i}", bases, inputs.graphs["main"], h, m)
        result |= {f"h{i}": h, f"m{i}": m, f"xE{i}": node} | ({} if edge is None else {f"xF{i}": edge})
    for branch in "EF":
        features = [result[f"x{branch}{i}"] for i in range(number + 1) if f"x{branch}{i}" in result]
        if features:
            result[f"out_mlp_{branch}"] = final_mlp(state, f"backbone.out_mlp_{branch}.out_mlp", features)
    return result


def forward(state: State, inputs: Inputs, straight_tolerance: float = 1e-5) -> dict[str, Tensor]:
    """Everything `backbone` gives, and E (b, tasks), F (n, 3, tasks) where the checkpoint has such heads.

    E = sum over atoms of head(x_node); F_a = sum over main edges s->a of head(x_edge) v. The per-atom values of a
    scalar head ft_mlp_<target> are in ft_mlp_<target> (n,), for the caller to sum or average. state and
    inputs.positions share one dtype.
    """
    bases = compute_bases(state, inputs, straight_tolerance)
    result = backbone(state, inputs, bases)
    if prefixes := head_prefixes(state, "out_energy"):
        node = torch.stack([head(state, prefix, result["out_mlp_E"]) for prefix in prefixes], -1)
        result["E"] = sum_to(node, inputs.batch, len(inputs.cell))
    if prefixes := head_prefixes(state, "out_forces"):
        edge = torch.stack([head(state, prefix, result["out_mlp_F"]) for prefix in prefixes], -1)
        main = inputs.graphs["main"]
        result["F"] = sum_to(bases.vector[:, :, None] * edge[:, None], main.target, len(inputs.positions))
    for key in state:
        if key.startswith("graph_outputs.") and key.endswith(".0.weight"):
            result[key.split(".")[2]] = head(state, key.removesuffix(".0.weight"), result["out_mlp_E"])
    return result
