"""SevenNet (package ``sevenn``): the models that it ships, and checkpoints of its trainer."""

from atomslim.families.sevennet.family import FAMILY

__all__ = ["FAMILY"]
