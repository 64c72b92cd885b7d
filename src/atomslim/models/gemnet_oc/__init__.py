"""GemNet-OC, the backbone of JMP."""

from atomslim.models.gemnet_oc.config import GemNetOCConfig, jmp_l, jmp_s
from atomslim.models.gemnet_oc.graphs import Edges, GraphSettings, Topology, build_topology

__all__ = ["Edges", "GemNetOCConfig", "GraphSettings", "Topology", "build_topology", "jmp_l", "jmp_s"]
