"""Orb (package ``orb-models``): weights that the package's trainer saved, of any sizes."""

from atomslim.families.orb.family import FAMILY

__all__ = ["FAMILY"]
