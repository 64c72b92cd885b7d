"""State dicts and inputs of the golden data, and the keys and shapes of a JMP checkpoint of any size."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.bases import State
from reference.enumerate import Graph, Inputs

GOLDEN = Path(os.environ.get("ATOMSLIM_GOLDEN", Path(__file__).parents[2].parent / "shared" / "golden"))
GRAPHS = {"main": "main_sym", "a2a": "a2a", "a2ee2a": "a2ee2a", "qint": "qint"}

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def gaussian_offsets(number: int) -> Tensor:
    """Centres of the Gaussians, float32: s i below the middle, 1 - s (R - 1 - i) from it on, s = float32(1 / (R - 1)).

    Each bracket is formed in float64 from the float32 s and rounded once; library linspaces differ in the last bit.
    """
    step = float(np.float32(1) / np.float32(number - 1))
    values = [step * i if i < number / 2 else 1 - step * (number - 1 - i) for i in range(number)]
    return torch.tensor(values, dtype=torch.float64).float()


def _shapes(source: Path | dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes from a model config, a `*_weights_check.json` or a key list [[key, shape, dtype], ...]."""
    content = source if isinstance(source, dict) else json.loads(Path(source).read_text())
    if isinstance(content, list):
        return {key: tuple(shape) for key, shape, _ in content}
    if "emb_size_atom" in content:
        return dict(keys_from_config(content))
    return {key: tuple(entry[0]) for key, entry in content.items()}


def golden_state(source: Path | dict[str, Any], dtype: torch.dtype = torch.float64, folder: Path = GOLDEN) -> State:
    """Weights by the golden recipe (float32 values, then cast) for the keys of a config, a check file or a key list."""
    recipe = runpy.run_path(str(folder / "recipe.py"))["recipe_array"]
    state = {}
    for key, shape in _shapes(source).items():
        array = recipe(key, shape)
        if array is not None:
            state[key] = torch.from_numpy(array).to(dtype)
        elif key.endswith(".rbf.offset"):
            state[key] = gaussian_offsets(*shape).to(dtype)
    return state


def golden_inputs(arrays: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> Inputs:
    """Positions and topology of a golden structure file."""
    graphs = {}
    for name, prefix in GRAPHS.items():
        source, target = torch.from_numpy(arrays[f"{prefix}_edge_index"].astype(np.int64))
        graphs[name] = Graph(source, target, torch.from_numpy(arrays[f"{prefix}_cell_offset"].astype(np.int64)))
    numbers, batch, reverse = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("Z", "batch", "id_swap"))
    positions, cell = (torch.from_numpy(arrays[name]).to(dtype) for name in ("pos", "cell"))
    return Inputs(positions, numbers, cell, batch, graphs, reverse)


def _residual(prefix: str, number: int, width: int, first: int = 0) -> Shapes:
    for j in range(first, first + number):
        yield f"{prefix}.{j}.dense_mlp.0.linear.weight", (width, width)
        yield f"{prefix}.{j}.dense_mlp.1.linear.weight", (width, width)


def _dense_residual(prefix: str, number: int, width_in: int, width: int) -> Shapes:
    if width_in != width:
        yield f"{prefix}.0.linear.weight", (width, width_in)
    yield from _residual(prefix, number, width, int(width_in != width))


def _basis_shapes(c: dict[str, Any]) -> Shapes:
    r, s, rbf = c["num_radial"], c["num_spherical"], c["emb_size_rbf"]
    for name in ("radial_basis", "radial_basis_aeaint", "radial_basis_aint"):
        yield f"backbone.bases.{name}.rbf.offset", (r,)
    for name in ("cbf_basis_qint", "sbf_basis_qint", "cbf_basis_aeint", "cbf_basis_eaint", "cbf_basis_tint"):
        yield f"backbone.bases.{name}.radial_basis.rbf.offset", (r,)
    for name in ("qint", "aeint", "eaint", "tint", "h", "out"):
        yield f"backbone.bases.mlp_rbf_{name}.linear.weight", (rbf, r)
    yield "backbone.bases.mlp_rbf_aint.weight", (rbf, r)
    for name in ("qint", "aeint", "eaint", "tint"):
        yield f"backbone.bases.mlp_cbf_{name}.weight", (r, s, c["emb_size_cbf"])
    yield "backbone.bases.mlp_sbf_qint.weight", (r, s * s, c["emb_size_sbf"])
    yield "backbone.bases.edge_emb.dense.linear.weight", (c["emb_size_edge"], 2 * c["emb_size_atom"] + r)


def _path_shapes(c: dict[str, Any], prefix: str, name: str) -> Shapes:
    """Keys of one triplet or quadruplet path; name is trip, quad, atom_edge or edge_atom."""
    p, quad = f"{prefix}.{name}_interaction", name == "quad"
    d_in = c["emb_size_atom"] if name == "atom_edge" else c["emb_size_edge"]
    d_out = c["emb_size_atom"] if name == "edge_atom" else c["emb_size_edge"]
    t_in, t_out = (c[f"emb_size_{'quad' if quad else 'trip'}_{end}"] for end in ("in", "out"))
    basis = "sbf" if quad else "cbf"
    yield f"{p}.{'dense_db' if quad else 'dense_ba'}.linear.weight", (d_in, d_in)
    yield f"{p}.mlp_rbf.linear.weight", (d_in, c["emb_size_rbf"])
    yield f"{p}.scale_rbf.scale_factor", ()
    if quad:
        yield f"{p}.mlp_cbf.linear.weight", (t_in, c["emb_size_cbf"])
        yield f"{p}.scale_cbf.scale_factor", ()
    yield f"{p}.mlp_{basis}.bilinear.linear.weight", (t_out, t_in * c[f"emb_size_{basis}"])
    yield f"{p}.scale_{basis}_sum.scale_factor", ()
    yield f"{p}.down_projection.linear.weight", (t_in, d_in)
    for direction in ("ca",) if name == "edge_atom" else ("ca", "ac"):
        yield f"{p}.up_projection_{direction}.linear.weight", (d_out, t_out)


def _atom_path_shapes(c: dict[str, Any], p: str) -> Shapes:
    t_in, t_out, d = c["emb_size_aint_in"], c["emb_size_aint_out"], c["emb_size_atom"]
    yield f"{p}.bilinear.linear.weight", (t_out, t_in * c["emb_size_rbf"])
    yield f"{p}.scale_rbf_sum.scale_factor", ()
    yield f"{p}.down_projection.linear.weight", (t_in, d)
    yield f"{p}.up_projection.linear.weight", (d, t_out)


def _block_shapes(c: dict[str, Any], p: str) -> Shapes:
    a, e = c["emb_size_atom"], c["emb_size_edge"]
    yield f"{p}.dense_ca.linear.weight", (e, e)
    for name in ("trip", "quad", "atom_edge", "edge_atom"):
        yield from _path_shapes(c, p, name)
    yield from _atom_path_shapes(c, f"{p}.atom_interaction")
    yield from _residual(f"{p}.layers_before_skip", c["num_before_skip"], e)
    yield from _residual(f"{p}.layers_after_skip", c["num_after_skip"], e)
    yield from _residual(f"{p}.atom_emb_layers", c["num_atom_emb_layers"], a)
    yield f"{p}.atom_update.dense_rbf.linear.weight", (e, c["emb_size_rbf"])
    yield f"{p}.atom_update.scale_sum.scale_factor", ()
    yield from _dense_residual(f"{p}.atom_update.layers", c["num_atom"], e, a)
    yield f"{p}.concat_layer.dense.linear.weight", (e, 2 * a + e)
    yield from _residual(f"{p}.residual_m", c["num_concat"], e)


def _output_shapes(c: dict[str, Any], p: str) -> Shapes:
    a, e = c["emb_size_atom"], c["emb_size_edge"]
    yield f"{p}.dense_rbf.linear.weight", (e, c["emb_size_rbf"])
    yield f"{p}.scale_sum.scale_factor", ()
    yield from _dense_residual(f"{p}.layers", c["num_atom"], e, a)
    yield from _dense_residual(f"{p}.seq_energy_pre", c["num_atom"], e, a)
    yield from _residual(f"{p}.seq_energy2", c["num_output_afteratom"], a)
    if c["direct_forces"]:
        yield f"{p}.scale_rbf_F.scale_factor", ()
        yield from _residual(f"{p}.seq_forces", c["num_atom"], e)
        yield f"{p}.dense_rbf_F.linear.weight", (e, c["emb_size_rbf"])


def _readout_shapes(c: dict[str, Any], tasks: int) -> Shapes:
    branches = [("E", "energy", c["emb_size_atom"])] + [("F", "forces", c["emb_size_edge"])] * c["direct_forces"]
    for branch, name, width in branches:
        prefix = f"backbone.out_mlp_{branch}.out_mlp"
        yield from _dense_residual(prefix, c["num_global_out_layers"], width * (c["num_blocks"] + 1), width)
        for task in range(tasks):
            for layer in (0, 2, 4, 6):
                yield f"output.out_{name}.{task}.{layer}.weight", (width, width)
                yield f"output.out_{name}.{task}.{layer}.bias", (width,)
            yield f"output.out_{name}.{task}.8.weight", (1, width)


def keys_from_config(config: dict[str, Any], tasks: int = 4) -> Shapes:
    """Keys and shapes of a pre-training checkpoint with a golden config's sizes (`*.temps` and counters left out)."""
    yield "embedding.atom_embedding.weight", (config["num_elements"], config["emb_size_atom"])
    yield from _basis_shapes(config)
    for i in range(config["num_blocks"]):
        yield from _block_shapes(config, f"backbone.int_blocks.{i}")
    for i in range(config["num_blocks"] + 1):
        yield from _output_shapes(config, f"backbone.out_blocks.{i}")
    yield from _readout_shapes(config, tasks)
