"""Open Catalyst 2022 (OC22), structure to total energy and forces: relaxation frames of oxide surfaces.

Source: https://fair-chem.github.io/core/datasets/oc22.html. Licence: CC BY 4.0. Units in the files: eV, Å, eV/Å;
nothing is converted. Every system is periodic in all directions. Read are LMDB shards of pickled graph objects, as
released, and pickled lists of such objects, as JMP preprocessed them. `fixed` may be 0 for all atoms and is taken as it
is.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._common import locate
from atomslim.data.readers._graphs import Fields, GraphShards, graph_list, graph_sample, system
from atomslim.errors import DataError

_ARCHIVE = RemoteFile(
    url="https://dl.fbaipublicfiles.com/opencatalystproject/data/oc22/s2ef_total_train_val_test_lmdbs.tar.gz",
    md5="ebea523c6f8d61248a37b4dd660b11e6",
    unpack=True,
)

INFO = DatasetInfo(
    name="oc22",
    title="Open Catalyst 2022, structure to total energy and forces",
    homepage="https://fair-chem.github.io/core/datasets/oc22.html",
    licence="CC BY 4.0",
    citation="Tran, Lan, Shuaibi, Wood, Goyal et al., ACS Catalysis 13, 3066 (2023), doi:10.1021/acscatal.2c05426",
    level_of_theory="PBE+U, plane waves (VASP), spin polarised",
    units_in_file="eV, Å, eV/Å",
    note="total energies; `y_relaxed` is used instead of `y` if a record has it",
    variants=tuple(
        Variant(name=name, targets=("energy", "forces"), files=(_ARCHIVE,)) for name in ("train", "val_id", "val_ood")
    ),
    periodic=True,
)

SUFFIXES = (".lmdb", ".pkl")
_SPLIT_NAMES = tuple(variant.name for variant in INFO.variants)


def read(path: Path, variant: str = "") -> Iterator[Sample]:
    """Read frames: targets "energy" (total, eV) and "forces" (eV/Å); the group is the system's number.

    Parameters
    ----------
    path
        A file, or a folder of LMDB shards or pickled lists, or the folder above with subfolders by split.
    variant
        The split: name of a subfolder.

    Raises
    ------
    DataError
        A file is missing, cut off, damaged or of another layout; names file and record.

    """
    files = parts(path, variant)
    shards = files[0].suffix == ".lmdb"
    records = _records(GraphShards(files)) if shards else (item for file in files for item in graph_list(file))
    return (
        graph_sample(fields, location, group=system(fields, location), relaxed=True) for location, fields in records
    )


def parts(path: Path, variant: str = "") -> list[Path]:
    """Return the files, each readable by itself: LMDB shards or, where there are none, pickled lists."""
    files = locate(path, variant, SUFFIXES, _SPLIT_NAMES)
    return [file for file in files if file.suffix == ".lmdb"] or files


def count(path: Path, variant: str = "") -> int | None:
    """Count the frames of LMDB shards; None for pickled lists, which would have to be read."""
    files = parts(path, variant)
    return len(GraphShards(files)) if files[0].suffix == ".lmdb" else None


def natoms(path: Path, variant: str = "") -> NDArray[np.int64] | None:
    """Return the number of atoms of every frame where `metadata.npz` beside LMDB shards tells, else None."""
    files = parts(path, variant)
    return GraphShards(files).natoms() if files[0].suffix == ".lmdb" else None


def _records(shards: GraphShards) -> Iterator[tuple[str, Fields]]:
    if not len(shards):
        raise DataError(f"{shards.files[0].path}: is empty: remove the file")
    for record in range(len(shards)):
        yield shards[record]
