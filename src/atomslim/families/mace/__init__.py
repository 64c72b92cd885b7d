"""MACE (package ``mace-torch``): models that the package saved, of any sizes."""

from atomslim.families.mace.family import FAMILY

__all__ = ["FAMILY"]
