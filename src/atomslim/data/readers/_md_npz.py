"""Shared by rMD17 and MD22: npz archives with the frames of one molecule, in the layouts of MD17 and rMD17."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo
from atomslim.data.readers._common import existing, floats, integers, labelled, require_keys
from atomslim.data.readers._npz import open_npz
from atomslim.data.readers._units import factor, require_total
from atomslim.errors import ConfigError, DataError

_Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Layout:
    """Names of the arrays: n atomic numbers, (m, n, 3) positions, m energies, (m, n, 3) forces."""

    numbers: str
    positions: str
    energies: str
    forces: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.numbers, self.positions, self.energies, self.forces)


_RMD17 = _Layout("nuclear_charges", "coords", "energies", "forces")
_MD17 = _Layout("z", "R", "E", "F")


def read_npz(path: Path, formulas: Mapping[str, str], energy_unit: str, length_unit: str) -> Iterator[Sample]:
    """Give the frames of an archive; the group is the molecule's name, or its formula where `formulas` lacks it.

    Args:
        path: the archive.
        formulas: formula of each molecule of the dataset, in Hill's order.
        energy_unit: unit of the energies; empty: what the archive's `e_unit` says, else kcal/mol.
        length_unit: unit of the positions; empty: what the archive's `r_unit` says, else Å.

    Raises:
        DataError: see `rmd17.read`.

    """
    layout, arrays = _load(path)
    energy_unit = energy_unit or _text(arrays, "e_unit") or "kcal/mol"
    length_unit = length_unit or _text(arrays, "r_unit") or "Å"
    to_ev, to_angstrom = factor(energy_unit, f"{path}"), factor(length_unit, f"{path}")
    numbers = integers(arrays[layout.numbers], "atomic numbers", f"{path}")
    positions, forces = arrays[layout.positions], arrays[layout.forces]
    energies = arrays[layout.energies].reshape(-1)
    _require_shapes(path, layout, arrays, (len(energies), len(numbers), 3))
    require_total(float(energies[0]) * to_ev, numbers, energy_unit, f"{path}, record 0")
    group = molecule_name(numbers, formulas)
    for frame in range(len(energies)):
        targets = {
            "energy": np.float64(energies[frame]) * to_ev,
            "forces": forces[frame] * (to_ev / to_angstrom),
        }
        location = f"{path}, record {frame}"
        yield labelled(location, numbers, positions[frame] * to_angstrom, targets, group=group)


def count_npz(path: Path) -> int:
    """Count the frames; reads the energies only."""
    with open_npz(path) as archive:
        return int(archive.array(_layout(path, archive.names).energies).size)


def molecule_file(path: Path, info: DatasetInfo, variant: str, suffixes: tuple[str, ...]) -> Path:
    """Find the file of a molecule: `path` itself, or the one in the folder `path` (or below) that is named after it.

    Raises:
        ConfigError: the dataset has no such molecule.
        DataError: there is no such file, or several.

    """
    known = info.variant(variant)
    if variant and known is None:
        names = ", ".join(entry.name for entry in info.variants)
        raise ConfigError(f"{info.name} has no molecule {variant!r}: choose one of {names}")
    if existing(path).is_file():
        return path
    found = sorted(file for suffix in suffixes for file in path.rglob(f"*{suffix}"))
    if known:
        exact = [file for file in found if _stem(file, suffixes).endswith(f"_{known.name.lower()}")]
        found = exact or [file for file in found if f"_{known.name.lower()}_" in f"{_stem(file, suffixes)}_"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{path}: has no {' or '.join(suffixes)} file of {variant or info.name}: check the path")
    raise DataError(f"{path}: has several files ({', '.join(file.name for file in found[:12])}): name one of them")


def require_molecule(numbers: NDArray[np.int64], formulas: Mapping[str, str], variant: str, location: str) -> None:
    """Raise DataError when a frame is not of the molecule asked for."""
    wanted = {name.lower(): formula for name, formula in formulas.items()}.get(variant.lower())
    if wanted not in {None, _formula(numbers)}:
        raise DataError(f"{location}: is {_formula(numbers)}, and {variant} is {wanted}: choose the right file")


def molecule_name(numbers: NDArray[np.int64], formulas: Mapping[str, str]) -> str:
    """Name the molecule of a frame by the formulas of a dataset; its formula where they lack it."""
    formula = _formula(numbers)
    return next((name for name, known in formulas.items() if known == formula), formula)


def _stem(file: Path, suffixes: tuple[str, ...]) -> str:
    suffix = next(suffix for suffix in suffixes if file.name.endswith(suffix))
    return f"_{file.name.removesuffix(suffix).lower()}"


def _layout(path: Path, keys: list[str]) -> _Layout:
    layout = _MD17 if "R" in keys else _RMD17
    require_keys(keys, layout.keys, f"{path}")
    return layout


def _load(path: Path) -> tuple[_Layout, _Arrays]:
    with open_npz(path) as archive:
        layout = _layout(path, archive.names)
        arrays = {key: floats(archive.array(key), key, f"{path}") for key in layout.keys}
        return layout, arrays | {key: archive.array(key) for key in ("e_unit", "r_unit") if key in archive.names}


def _text(arrays: _Arrays, key: str) -> str:
    value = arrays[key].reshape(-1)[0] if key in arrays and arrays[key].size else ""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _require_shapes(path: Path, layout: _Layout, arrays: _Arrays, shape: tuple[int, ...]) -> None:
    if not shape[0]:
        raise DataError(f"{path}: holds no frames: check that it was written completely")
    for key in (layout.positions, layout.forces):
        if arrays[key].shape != shape:
            raise DataError(
                f"{path}: {key} has the shape {arrays[key].shape} where {shape} (frames, atoms, 3) is expected: "
                "all frames must be of one molecule"
            )


def _formula(numbers: NDArray[np.int64]) -> str:
    symbols = [chemical_symbols[number] if 0 <= number < len(chemical_symbols) else "X" for number in numbers]
    return str(Formula.from_list(symbols).format("hill"))
