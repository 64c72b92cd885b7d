"""CHGNet (package ``chgnet``): the versions that it ships, and checkpoints of its trainer."""

from atomslim.families.chgnet.family import FAMILY

__all__ = ["FAMILY"]
