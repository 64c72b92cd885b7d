"""Small HDF5 files in the layouts of ANI-1x, COMP6 and Transition-1x."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def conformations(natoms: int = 5, frames: int = 3, **changes: Any) -> dict[str, Any]:
    """Columns of a group of ANI-1x: CH4-like, the energies of which are the frames' numbers; None leaves one out."""
    columns = {
        "atomic_numbers": np.array([6, *[1] * (natoms - 1)], dtype=np.uint8),
        "coordinates": np.arange(frames * natoms * 3, dtype=np.float32).reshape(frames, natoms, 3),
        "wb97x_dz.energy": np.arange(frames, dtype=np.float64) - 40.0,
        "wb97x_dz.forces": np.full((frames, natoms, 3), 0.5, dtype=np.float32),
    }
    return {name: value for name, value in (columns | changes).items() if value is not None}


def write_hdf5(path: Path, groups: dict[str, dict[str, Any]]) -> Path:
    """Write columns under the paths of groups."""
    h5py = import_h5py()
    with h5py.File(path, "w") as file:
        for name, columns in groups.items():
            group = file.create_group(name)
            for column, values in columns.items():
                group.create_dataset(column, data=values)
    return path


def import_h5py() -> Any:
    """Import h5py, or skip the test."""
    return pytest.importorskip("h5py")
