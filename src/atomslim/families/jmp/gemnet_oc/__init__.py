"""GemNet-OC, the backbone of JMP."""

from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig, jmp_l, jmp_s
from atomslim.families.jmp.gemnet_oc.graphs import Edges, Topology, build_topology

__all__ = ["Edges", "GemNetOCConfig", "Topology", "build_topology", "jmp_l", "jmp_s"]
