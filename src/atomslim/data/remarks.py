"""Observations while reading a file: names of labels, unused fields, labels that were left out."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from warnings import warn

import numpy as np

from atomslim.errors import AtomslimWarning

_OWN = {
    "positions", "numbers", "tags", "momenta", "masses", "cell", "pbc", "initial_magmoms", "initial_charges",
    "velo", "vel", "velocity", "velocities", "move_mask", "fixed", "constraints", "time", "step", "dt", "temperature",
    "temp", "cutoff", "frame", "charge", "total_charge", "spin", "multiplicity", "occupancy", "spacegroup",
    "weight", "natoms", "n_atoms", "unique_id",
}  # fmt: skip
"""Numbers that describe a structure or where it comes from, in lower case."""

_BOOKKEEPING = re.compile(r"weight$|(^|_)(id|ids|idx|index|sid|fid|number|origin)$")

_LIKE_LABEL = re.compile(r"energ|forc|stress|viri|grad|hess|dipole|enthalp|gap|^[efu](_|$)", re.IGNORECASE)
"""Names under which even a whole number is taken for a label."""

SHOWN = 8
"""Most fields that are named."""


@dataclass
class Remarks:
    """Filled while a file is read."""

    sources: dict[str, set[str]] = field(default_factory=dict)
    """Label → the names it was found under."""
    unused: dict[str, str] = field(default_factory=dict)
    """Name → shape of each field that looks like a label and is none of those used."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Labels that exist but are not used, with the reason → number of structures."""
    looked_at: set[str] = field(default_factory=set)
    """Names that are used, or known not to be labels."""
    said: set[str] = field(default_factory=set)

    def found(self, label: str, name: str) -> None:
        """Note the name of a label that is used."""
        self.sources.setdefault(label, set()).add(name)

    def look_for_unused(self, items: Iterable[tuple[str, Any]], used: Iterable[str], natoms: int) -> None:
        """Note what looks like a label among the fields of a structure."""
        for name, value in items:
            if name not in self.looked_at:
                self.looked_at.add(name)
                shape = None if name.lower() in used else _shape_of_label(name, value, natoms)
                if shape is not None:
                    self.unused[name] = shape

    def say_once(self, kind: str, text: str) -> None:
        """Warn once, at the first structure concerned."""
        if kind not in self.said:
            self.said.add(kind)
            warn(text, AtomslimWarning, stacklevel=2)

    def merge(self, other: "Remarks") -> None:
        """Add the remarks of another part."""
        for label, names in other.sources.items():
            self.sources.setdefault(label, set()).update(names)
        self.unused |= other.unused
        self.left_out += other.left_out

    def plain(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        sources = {label: sorted(names) for label, names in sorted(self.sources.items())}
        return {"sources": sources, "unused": dict(sorted(self.unused.items())), "left out": dict(self.left_out)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Undo `plain`."""
        sources = {label: set(names) for label, names in plain.get("sources", {}).items()}
        return cls(sources, dict(plain.get("unused", {})), Counter(plain.get("left out", {})))

    def forces_like(self) -> list[str]:
        """Name the unused fields of three numbers for each atom."""
        return [name for name, shape in self.unused.items() if shape == "(n,3)"]


def _shape_of_label(name: str, value: Any, natoms: int) -> str | None:
    """Return the shape of numbers that may be a label, "" for a single one; None for everything else."""
    if name.lower() in _OWN or _BOOKKEEPING.search(name.lower()) or isinstance(value, dict | str):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    whole = array.dtype.kind in "iu" and _LIKE_LABEL.search(name)
    if not array.size or not (array.dtype.kind == "f" or whole):
        return None
    by_atom = array.ndim and len(array) == natoms and (natoms > 1 or array.ndim > 1)
    sizes = ["n" if by_atom and not axis else str(size) for axis, size in enumerate(array.shape)]
    return f"({','.join(sizes)})" if sizes else ""
