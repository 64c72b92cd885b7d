"""Tiny JMP models that tests share: all widths differ, so that a transposed or mixed-up axis shows."""

import torch

from atomslim.families.jmp import JMP, JMPConfig, JMPGraphSettings
from atomslim.families.jmp.gemnet_oc.layers import ScaleFactor
from atomslim.models import Task, energy_and_forces

SIZES: dict[str, object] = {
    "num_blocks": 2,
    "num_spherical": 5,
    "num_radial": 12,
    "emb_size_atom": 14,
    "emb_size_edge": 18,
    "emb_size_trip_in": 8,
    "emb_size_trip_out": 10,
    "emb_size_quad_in": 6,
    "emb_size_quad_out": 9,
    "emb_size_aint_in": 7,
    "emb_size_aint_out": 11,
    "emb_size_rbf": 5,
    "emb_size_cbf": 4,
    "emb_size_sbf": 3,
    "num_before_skip": 1,
    "num_after_skip": 1,
    "num_concat": 1,
    "num_atom": 1,
    "num_output_afteratom": 1,
    "num_atom_emb_layers": 1,
    "num_global_out_layers": 1,
}
DIRECT = energy_and_forces("direct", forces="direct", graph=JMPGraphSettings())
CONSERVATIVE = energy_and_forces("conservative", forces="conservative", graph=JMPGraphSettings())


def config(**changes: object) -> JMPConfig:
    return JMPConfig.model_validate(SIZES | changes)


def jmp(*tasks: Task, seed: int = 0, sum_scale: float = 0.1, **changes: object) -> JMP:
    """Return a float64 model in evaluation mode whose sums are scaled down, as fitted factors would."""
    torch.manual_seed(seed)
    model = JMP(config(**changes), tasks or (DIRECT, CONSERVATIVE)).double().eval()
    for name, module in model.named_modules():
        if isinstance(module, ScaleFactor):
            module.factor.fill_(sum_scale if "sum" in name or name.endswith("scale") else 1.1)
    return model


def all_neighbours(cutoff: float = 6.0) -> JMPGraphSettings:
    """Settings that trim no neighbour of a small structure."""
    return JMPGraphSettings(cutoff=cutoff, main=1000, atom=1000, atom_edge=1000, quad=1000)
