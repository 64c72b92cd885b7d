"""Reads the sizes of a model off the shapes of a JMP checkpoint's tensors.

Most sizes show in many tensors, and the majority decides: a single wrong tensor is then found to be the wrong one.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig

Shapes = Mapping[str, Sequence[int]]

_BLOCK = r"backbone\.int_blocks\.\d+\."
_OUTPUT = r"backbone\.out_blocks\.\d+\."
_UP = r"up_projection_(?:ca|ac)"
# Which sizes the axes of these tensors have; two sizes of one axis are multiplied.
_AXES = {
    r"embedding\.(?:atom_embedding\.)?weight": ("num_elements", "emb_size_atom"),
    r"backbone\.bases\.mlp_rbf_\w+(?:\.linear)?\.weight": ("emb_size_rbf", "num_radial"),
    r"backbone\.bases\.mlp_cbf_\w+\.weight": ("num_radial", "num_spherical", "emb_size_cbf"),
    r"backbone\.bases\.mlp_sbf_\w+\.weight": ("num_radial", "num_spherical num_spherical", "emb_size_sbf"),
    _BLOCK + r"(?:dense_ca|(?:layers_\w+_skip|residual_m)\.\d+\..*)\.linear\.weight": ("emb_size_edge",) * 2,
    _BLOCK + r"(?:trip|quad|edge_atom)_interaction\.dense_\w+\.linear\.weight": ("emb_size_edge",) * 2,
    _BLOCK + r"(?:atom_emb_layers|atom_update\.layers)\.\d+\.dense_mlp\..*\.weight": ("emb_size_atom",) * 2,
    _OUTPUT + r"(?:layers|seq_energy_pre|seq_energy2)\.\d+\.dense_mlp\..*\.weight": ("emb_size_atom",) * 2,
    _OUTPUT + r"dense_rbf(?:_F)?\.linear\.weight": ("emb_size_edge", "emb_size_rbf"),
    _BLOCK + r"(?:trip|edge_atom)_interaction\.down_projection\.linear\.weight": ("emb_size_trip_in", "emb_size_edge"),
    _BLOCK + rf"(?:trip|atom_edge)_interaction\.{_UP}\.linear\.weight": ("emb_size_edge", "emb_size_trip_out"),
    _BLOCK + r"quad_interaction\.down_projection\.linear\.weight": ("emb_size_quad_in", "emb_size_edge"),
    _BLOCK + r"quad_interaction\.mlp_cbf\.linear\.weight": ("emb_size_quad_in", "emb_size_cbf"),
    _BLOCK + rf"quad_interaction\.{_UP}\.linear\.weight": ("emb_size_edge", "emb_size_quad_out"),
    _BLOCK + r"quad_interaction\.mlp_sbf\.bilinear\.linear\.weight": (
        "emb_size_quad_out",
        "emb_size_sbf emb_size_quad_in",
    ),
    _BLOCK + r"atom_interaction\.down_projection\.linear\.weight": ("emb_size_aint_in", "emb_size_atom"),
    _BLOCK + r"atom_interaction\.up_projection\.linear\.weight": ("emb_size_atom", "emb_size_aint_out"),
    _BLOCK + r"atom_interaction\.bilinear\.linear\.weight": ("emb_size_aint_out", "emb_size_aint_in emb_size_rbf"),
}
_LAYER = r"(?P<layer>\d+)\.dense_mlp\..*"
# Where the residual layers stand that these sizes count.
_LAYERS = {
    "num_before_skip": rf"(?P<path>{_BLOCK}layers_before_skip)\.{_LAYER}",
    "num_after_skip": rf"(?P<path>{_BLOCK}layers_after_skip)\.{_LAYER}",
    "num_concat": rf"(?P<path>{_BLOCK}residual_m)\.{_LAYER}",
    "num_atom_emb_layers": rf"(?P<path>{_BLOCK}atom_emb_layers)\.{_LAYER}",
    "num_atom": rf"(?P<path>(?:{_BLOCK}atom_update\.|{_OUTPUT})layers)\.{_LAYER}",
    "num_output_afteratom": rf"(?P<path>{_OUTPUT}seq_energy2)\.{_LAYER}",
    "num_global_out_layers": rf"(?P<path>backbone\.out_mlp_[EF]\.out_mlp)\.{_LAYER}",
}


def read_sizes(shapes: Shapes) -> GemNetOCConfig:
    """Return the sizes of the model whose tensors have these names and shapes.

    A size that shows nowhere gets a small value: either it does not matter (the widths inside blocks of a model without
    blocks), or the tensors that would show it are found to be missing.
    """
    widths = dict.fromkeys((size for axes in _AXES.values() for axis in axes for size in axis.split()), 2)
    layers = {size: _num_layers(shapes, pattern) for size, pattern in _LAYERS.items()}
    return GemNetOCConfig(
        num_blocks=_num_blocks(shapes),
        direct_forces=_has_force_branch(shapes),
        **layers,
        **(widths | _widths(shapes)),
    )


def _has_force_branch(shapes: Shapes) -> bool:
    return any(
        name.startswith("backbone.out_mlp_F.") or re.match(r"(?:output\.)?out_forces\.", name) for name in shapes
    )


def _num_blocks(shapes: Shapes) -> int:
    blocks = {int(match[1]) for match in _matches(r"backbone\.int_blocks\.(\d+)\..*", shapes)}
    outputs = {int(match[1]) for match in _matches(r"backbone\.out_blocks\.(\d+)\..*", shapes)}
    return max(len(blocks), len(outputs) - 1)


def _num_layers(shapes: Shapes, pattern: str) -> int:
    layers = defaultdict(set)
    for match in _matches(pattern, shapes):
        layers[match["path"]].add(match["layer"])
    return _majority(len(found) for found in layers.values()) if layers else 0


def _widths(shapes: Shapes) -> dict[str, int]:
    """Take a vote on every size: first by axes that it has alone, then also by those where it is multiplied."""
    axes = [
        (axis.split(), length)
        for pattern, names in _AXES.items()
        for match in _matches(pattern, shapes)
        if len(shapes[match.string]) == len(names)
        for axis, length in zip(names, shapes[match.string], strict=True)
    ]
    votes = defaultdict(list)
    for sizes, length in axes:
        if len(sizes) == 1:
            votes[sizes[0]].append(length)
    alone = {size: _majority(lengths) for size, lengths in votes.items()}
    for sizes, length in axes:
        if len(sizes) == 2 and sizes[0] != sizes[1] and alone.get(sizes[1]):
            votes[sizes[0]].append(length // alone[sizes[1]])
    return {size: _majority(lengths) for size, lengths in votes.items()}


def _majority(values: Iterable[int]) -> int:
    return Counter(values).most_common(1)[0][0]


def _matches(pattern: str, shapes: Shapes) -> list[re.Match[str]]:
    compiled = re.compile(pattern)
    return [match for match in map(compiled.fullmatch, shapes) if match]
