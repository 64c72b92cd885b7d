"""JMP: GemNet-OC with a linear readout over all blocks, and heads for energies, forces and scalars."""

from atomslim.families.jmp.gemnet_oc import GemNetOCConfig, jmp_l, jmp_s
from atomslim.families.jmp.model import JMP

__all__ = ["JMP", "GemNetOCConfig", "jmp_l", "jmp_s"]
