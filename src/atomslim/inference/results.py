"""Predictions, and the files they are written to: extended XYZ and Parquet.

Parquet has one row for each structure:

| column | type | what |
|---|---|---|
| record | int64 | number of the structure among all |
| source | string | file and record it comes from |
| numbers | list of int16 | atomic numbers of its n atoms |
| positions | list of double | Å, 3 n numbers, atom by atom |
| cell | list of double | Å, 9 numbers, lattice vectors as rows; zeros without a cell |
| pbc | list of bool | periodic along each lattice vector? |
| energy | double | eV |
| forces | list of double | eV/Å, 3 n numbers, atom by atom |
| stress | list of double | eV/Å³, 9 numbers, row by row, tension positive; null without a volume |
| others | double | scalar targets by their own names, in their own units |
| NAME_probability | double | of a binary label NAME: the probability that it is 1 |
| others | list of double | further per-atom outputs by their own names (such as magmoms, μB), n numbers |

Task and model determine the results, so that all files of a run have the same columns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import per_atom_properties, write_xyz
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from atomslim.errors import ConfigError
from atomslim.inference.inputs import Frame
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import Task

ASE_RESULTS = ("energy", "forces", "stress")
"""Predictions that ASE has a field for; the others are written beside them under their own names.

So are per-atom numbers, as columns of the atoms, unless ASE has a field for them, too (magmoms).
"""

Results: TypeAlias = dict[str, NDArray[np.float64]]
"""Energy () in eV, forces (n, 3) in eV/Å, stress (3, 3) in eV/Å³, by name; scalar targets () and other numbers of atoms
(n,) in their own units.
"""


@dataclass(frozen=True)
class Prediction:
    """Results for one structure, and the fraction of pairs within the cutoff that the cap on neighbours left out."""

    results: Results
    capped_fraction: float


def write_extxyz(path: Path, rows: Sequence[tuple[Frame, Prediction]]) -> None:
    """Write structures and results as extended XYZ, with the number of each structure as `record`."""
    with path.open("w", encoding="utf-8") as file:
        for frame, prediction in rows:
            frame.atoms.info["record"] = frame.number
            write_frame(file, frame.atoms, prediction.results)


def write_parquet(path: Path, rows: Sequence[tuple[Frame, Prediction]], names: Mapping[str, bool]) -> None:
    """Write structures and results as a table, with a column for each of ``names``, as `result_names` gives them.

    Raises ConfigError where pyarrow is missing.
    """
    arrow, parquet = parquet_package()
    columns = {
        "record": (arrow.int64(), [frame.number for frame, _ in rows]),
        "source": (arrow.string(), [frame.name for frame, _ in rows]),
        "numbers": (arrow.list_(arrow.int16()), [frame.atoms.numbers for frame, _ in rows]),
        "positions": (arrow.list_(arrow.float64()), [frame.atoms.positions.ravel() for frame, _ in rows]),
        "cell": (arrow.list_(arrow.float64()), [frame.atoms.cell.array.ravel() for frame, _ in rows]),
        "pbc": (arrow.list_(arrow.bool_()), [frame.atoms.pbc for frame, _ in rows]),
    }
    for name, several in names.items():
        kind = arrow.list_(arrow.float64()) if several else arrow.float64()
        columns[name] = (kind, [_flat(prediction.results.get(name)) for _, prediction in rows])
    arrays = {name: arrow.array(values, type=kind) for name, (kind, values) in columns.items()}
    parquet.write_table(arrow.table(arrays), path)


def result_names(model: BlockModel, task: Task) -> dict[str, bool]:
    """Name everything that a model predicts for a task, and whether it has several numbers for a structure."""
    names = {target.output_name: target.output_name == "forces" for target in task.targets}
    return names | ({"stress": True} if model.gives_stress(task) else {}) | dict.fromkeys(model.atom_outputs, True)


def parquet_package() -> tuple[Any, Any]:
    """Import pyarrow; raises ConfigError saying how to install it where it is missing."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional extra
        from pyarrow import parquet  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ConfigError("format parquet needs the package pyarrow: pip install 'atomslim[parquet]'") from error
    return pa, parquet


def _flat(values: NDArray[np.float64] | None) -> NDArray[np.float64] | float | None:
    return None if values is None else values.ravel() if values.ndim else float(values)


def write_frame(file: TextIO, atoms: Atoms, results: Results) -> None:
    """Write one structure with its results as extended XYZ."""
    labelled = atoms.copy()
    labelled.info = {key: value for key, value in atoms.info.items() if key not in results and _has_text(value)}
    for name, array in atoms.arrays.items():
        if name in results or array.ndim > 2:  # extended XYZ has columns, but no matrix for an atom
            del labelled.arrays[name]
    others = {name: values for name, values in results.items() if name not in _known_to_ase(results)}
    labelled.info |= {name: values for name, values in others.items() if not values.ndim}
    for name, values in others.items():
        if values.ndim:
            labelled.set_array(name, values)
    labelled.calc = SinglePointCalculator(labelled, **_ase_results(results))
    write_xyz(file, labelled)


def _has_text(value: object) -> bool:
    """Say whether extended XYZ can hold what came with a structure (ASE's slabs carry dictionaries of arrays)."""
    try:
        return isinstance(value, np.ndarray | np.generic) or bool(json.dumps(value))
    except TypeError:
        return False


def _ase_results(results: Results) -> Results:
    """Keep the results that ASE calculators have, stress as its six components."""
    known = {name: results[name] for name in _known_to_ase(results)}
    if "stress" in known:
        known["stress"] = full_3x3_to_voigt_6_stress(known["stress"])
    return known


def _known_to_ase(results: Results) -> list[str]:
    """Names of the results that ASE has a field for."""
    return [
        name for name, values in results.items() if name in ASE_RESULTS or (values.ndim and name in per_atom_properties)
    ]
