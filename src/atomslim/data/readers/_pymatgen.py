"""Crystal structures as pymatgen writes them to JSON, read without pymatgen."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import ArrayLike

from atomslim.atoms.sample import Sample
from atomslim.data.readers._common import labelled
from atomslim.errors import DataError, one_line

_FULL = 0.999
"""An occupancy below this is a site that is empty, or another element, in some of the cells."""


def crystal(content: Any, targets: Mapping[str, ArrayLike], location: str, group: str = "") -> Sample:
    """Make a sample of the dictionary of a pymatgen Structure (lattice and positions in Å).

    Elements come from each site's `species`; its `label` may be any text. Positions come from the fractional
    coordinates, or the Cartesian ones where there are no others.

    Raises:
        DataError: something is missing, a site is shared by elements or partly occupied, or what `labelled` refuses;
            names `location`.

    """
    try:
        lattice, sites = content["lattice"], content["sites"]
        cell = np.asarray(lattice["matrix"], dtype=np.float64)
        numbers = [_element(site["species"], location) for site in sites]
        positions = np.array([_position(site, cell) for site in sites], dtype=np.float64).reshape(-1, 3)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{location}: is not a pymatgen structure ({one_line(error)}): check that it is the right file"
        ) from error
    pbc = lattice.get("pbc", (True, True, True))
    return labelled(location, numbers, positions, targets, cell=cell, pbc=pbc, group=group)


def _element(species: Sequence[Mapping[str, Any]], location: str) -> int:
    if len(species) != 1 or float(species[0].get("occu", 1)) < _FULL:
        raise DataError(
            f"{location}: a site is partly occupied or shared by elements: only ordered structures can be used"
        )
    name = str(species[0]["element"])
    symbol = re.match(r"[A-Z][a-z]?", name)
    number = {"D": 1, "T": 1, **atomic_numbers}.get(symbol.group() if symbol else "", 0)
    if not number:
        raise DataError(f"{location}: {name!r} is not an element: remove the record")
    return int(number)


def _position(site: Mapping[str, Any], cell: np.ndarray[Any, Any]) -> Any:
    return np.asarray(site["abc"], dtype=np.float64) @ cell if "abc" in site else site["xyz"]
