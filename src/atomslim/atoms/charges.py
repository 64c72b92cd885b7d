"""Charges and spins that come with a structure. No model here uses them, so users are told."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

_NEUTRAL = {
    "charge": (0.0,),
    "total_charge": (0.0,),
    "net_charge": (0.0,),
    "molecular_charge": (0.0,),
    "spin": (0.0, 1.0),  # the number of unpaired electrons in some programs, the multiplicity in others
    "total_spin": (0.0,),
    "multiplicity": (0.0, 1.0),
    "spin_multiplicity": (0.0, 1.0),
    "initial_magmom": (0.0,),
    "total_magmom": (0.0,),
}
"""Names in lower case → values that mean neutral or no spin."""

_ARRAYS = {"initial_charges": "initial charges", "initial_magmoms": "initial magnetic moments"}


def charge_or_spin(atoms: Atoms, data: Mapping[str, Any] | None = None) -> str:
    """Say which charge or spin comes with a structure, in `info`, its arrays or other ``data``; empty if none does."""
    found = [
        f"{name} {number:g}"
        for source in (atoms.info, data or {})
        for name, value in source.items()
        if isinstance(name, str) and name.lower() in _NEUTRAL
        if (number := _number(value)) is not None and number not in _NEUTRAL[name.lower()]
    ]
    found += [said for name, said in _ARRAYS.items() if name in atoms.arrays and np.any(atoms.arrays[name])]
    return ", ".join(dict.fromkeys(found))


def _number(value: Any) -> float | None:
    try:
        return float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        return None
