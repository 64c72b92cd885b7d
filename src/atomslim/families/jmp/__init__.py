"""JMP: GemNet-OC with a linear readout over all blocks, and heads for energies, forces and scalars."""

from atomslim.families.jmp.family import FAMILY, JMPConfig
from atomslim.families.jmp.gemnet_oc import GemNetOCConfig, jmp_l, jmp_s
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.families.jmp.model import JMP

__all__ = ["FAMILY", "JMP", "GemNetOCConfig", "JMPConfig", "JMPGraphSettings", "jmp_l", "jmp_s"]
