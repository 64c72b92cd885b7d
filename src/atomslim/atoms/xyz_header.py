"""The comment line of an extended XYZ record, read before ASE's parser sees it.

ASE's parser knows `Lattice`, `pbc` and `Properties` in this spelling only, and takes other spellings for a
remark: the cell is lost silently. Here these keys are found in any case, a stress or virial may have 6 or 9
numbers, and nonsense is an error. Everything else is left to ASE.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase.io.extxyz import key_val_str_to_dict
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

ASYMMETRY = 1e-3
"""Relative to the largest component: a stress less symmetric than this is not rounding."""

_STRUCTURE = {"lattice": "Lattice", "pbc": "pbc", "properties": "Properties"}
_MATRICES = {"stress", "virial"}
_NEVER_BARE = {"energy", "forces", "force", "energies"}
"""Words of a remark ("total energy") that ASE would take for labels of the value true."""

_LIKE_LATTICE = {"cell", "box", "unit_cell", "unitcell", "latt", "lattice_vectors"}
_COLUMNS = {"species": "species", "pos": "pos", "positions": "pos", "z": "Z", "forces": "forces", "force": "force"}
_TRUE, _FALSE = {"t", "true", "1", ".true."}, {"f", "false", "0", ".false."}

_QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\{[^}]*\}|\[[^\]]*\]"
_PAIR = re.compile(rf"((?:{_QUOTED}|\\.|[^\s=\"'{{\[\\])+)(?:\s*=\s*((?:{_QUOTED}|\\.|[^\s\"'{{\[\\])*))?")


def fields(line: str) -> dict[str, Any]:
    """Give the names and values of a comment line as ASE's `read_xyz` expects them.

    Raises:
        ValueError: a key given twice, a lattice without 9 numbers, a periodicity that is neither true nor false,
            columns that are declared wrongly, or a lattice under another name.

    """
    found: dict[str, str] = {}
    rest, end = [], 0
    for key, value, start, stop in _pairs(line):
        name = _STRUCTURE.get(key.lower(), key)
        if name in found:
            raise ValueError(f"the key {key} is given twice in the second line of the record")
        if value is not None:
            found[name] = value
        bare = value is None and key.lower() in _NEVER_BARE
        if bare or name in _MATRICES or name in _STRUCTURE.values():
            rest.append(line[end:start])
            end = stop
    _require_known_lattice(found)
    others = " ".join([*rest, line[end:]])
    info: dict[str, Any] = dict(key_val_str_to_dict(others)) if others.strip() else {}
    info |= {name: _matrix(found[name]) for name in _MATRICES & found.keys()}
    readers = {"Lattice": _lattice, "pbc": _periodic, "Properties": _columns}
    return info | {name: read(found[name]) for name, read in readers.items() if name in found}


def symmetric(matrix: NDArray[np.float64]) -> bool:
    """Say whether a stress or virial (3, 3) is symmetric up to rounding."""
    difference = np.abs(matrix - matrix.T).max(initial=0.0)
    return bool(difference <= ASYMMETRY * np.abs(matrix).max(initial=0.0) or not np.isfinite(matrix).all())


def _pairs(line: str) -> Iterator[tuple[str, str | None, int, int]]:
    """Give key, value without quotes, and where both begin and end; words that stand alone have no value."""
    for match in _PAIR.finditer(line):
        value = None if match[2] is None else re.sub(r"[\"'{}\[\]]", " ", match[2]).strip()
        yield match[1].strip("\"'"), value, *match.span()


def _require_known_lattice(found: dict[str, str]) -> None:
    """Refuse a cell that would be taken for a remark, unless the structure says that it is not periodic."""
    if "Lattice" in found or not any(_periodic(found.get("pbc", "T"))):
        return
    for name, value in found.items():
        if name.lower() in _LIKE_LATTICE and _numbers(value).size in {3, 6, 9}:
            raise ValueError(f'{name} looks like a lattice: write it as Lattice="ax ay az bx by bz cx cy cz"')


def _numbers(value: str) -> NDArray[np.float64]:
    """Give the numbers of a text, separated by spaces or commas; none if something else is among them."""
    try:
        return np.array(value.removeprefix("_JSON").replace(",", " ").split(), dtype=np.float64)
    except ValueError:
        return np.zeros(0)


def _lattice(value: str) -> NDArray[np.float64]:
    numbers = _numbers(value)
    if numbers.size != 9:
        raise ValueError(f"Lattice has {numbers.size} numbers where 9 are expected (ax ay az bx by bz cx cy cz)")
    return numbers.reshape(3, 3).T  # ASE has vectors as columns here


def _periodic(value: str) -> list[bool]:
    flags = value.lower().replace(",", " ").split()
    if len(flags) == 1:
        flags = list(flags[0]) if re.fullmatch("[tf]{3}|[01]{3}", flags[0]) else flags * 3
    if len(flags) != 3 or not set(flags) <= _TRUE | _FALSE:
        raise ValueError(f'pbc is {value!r}: write it as three of T and F, as in pbc="T T F"')
    return [flag in _TRUE for flag in flags]


def _matrix(value: str) -> NDArray[Any]:
    """Give a stress or virial in Voigt's order, (6,); in full, (9,), where it is not symmetric; else what there is."""
    numbers = _numbers(value)
    if numbers.size != 9:
        return numbers if numbers.size else np.array([value])
    matrix = numbers.reshape(3, 3)
    return np.asarray(full_3x3_to_voigt_6_stress(matrix)) if symmetric(matrix) else numbers


def _columns(value: str) -> str:
    """Spell the declaration of the columns as ASE does: its names in lower case, its types in upper case."""
    parts = value.split(":")
    names = [_COLUMNS.get(name.lower(), name) for name in parts[::3]]
    if len(parts) % 3 or not all(part.isdigit() for part in parts[2::3]):
        raise ValueError(f"Properties is {value!r}: write NAME:TYPE:COLUMNS, as in species:S:1:pos:R:3:forces:R:3")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"the column {twice[0]} is given twice in Properties")
    return ":".join(
        f"{name}:{kind.upper()}:{count}" for name, kind, count in zip(names, parts[1::3], parts[2::3], strict=True)
    )
