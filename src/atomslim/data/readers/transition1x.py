"""Transition-1x: molecules along reaction paths, from nudged elastic bands.

Source: https://doi.org/10.6084/m9.figshare.19614657. Licence: CC BY 4.0. Units in the files: eV, Å, eV/Å; nothing is
converted. Energies are totals. The HDF5 file has the groups `train`, `val` and `test`, and `data`, which is their
union: it is never read beside them. Each has formulas, and in these reactions; the subgroups `reactant`,
`transition_state` and `product` of a reaction repeat frames and are not used. Pickled lists of graph objects, as JMP
preprocessed them, are read too; their `sid` is the number of the reaction.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._common import locate, number
from atomslim.data.readers._graphs import formula, graph_list, graph_sample
from atomslim.data.readers._hdf5 import Columns, children, open_hdf5
from atomslim.errors import DataError

UNION = "data"
SPLITS = ("train", "val", "test")

_FILE = RemoteFile(url="https://figshare.com/ndownloader/files/36035789", name="Transition1x.h5")

INFO = DatasetInfo(
    name="transition1x",
    title="Transition-1x",
    homepage="https://doi.org/10.6084/m9.figshare.19614657",
    licence="CC BY 4.0",
    citation="Schreiner, Bhowmik, Vegge, Busk, Winther, Scientific Data 9, 779 (2022), doi:10.1038/s41597-022-01870-w",
    level_of_theory="ωB97x/6-31G(d)",
    units_in_file="eV, Å, eV/Å",
    note="without a variant, everything is read once; split by group (reaction), or use the dataset's own splits",
    variants=tuple(
        Variant(
            name=name,
            targets=("energy", "forces"),
            count=9_644_740 if not name else None,
            files=(_FILE,),
            path=_FILE.name,
        )
        for name in ("", *SPLITS)
    ),
    cutoff=8.0,
)

COLUMNS = Columns(
    numbers="atomic_numbers",
    positions="positions",
    energy="wB97x_6-31G(d).energy",
    forces="wB97x_6-31G(d).forces",
)

SUFFIXES = (".h5", ".hdf5", ".pkl")


def read(path: Path, variant: str = "") -> Iterator[Sample]:
    """Read frames: targets "energy" (total, eV) and "forces" (eV/Å); the group is "formula/reaction".

    Parameters
    ----------
    path
        The HDF5 file, a pickled list of graph objects, or a folder of one of them.
    variant
        "train", "val" or "test" of an HDF5 file; empty: every frame once.

    Raises
    ------
    DataError
        A file is missing, cut off, damaged or of another layout, or labels are not finite; names file and group.

    """
    for file in locate(path, "", SUFFIXES):
        yield from _read_list(file) if file.suffix == ".pkl" else _read_hdf5(file, variant)


def count(path: Path, variant: str = "") -> int | None:
    """Count the frames; None for pickled lists, which would have to be read."""
    total = 0
    for file in locate(path, "", SUFFIXES):
        if file.suffix == ".pkl":
            return None
        with open_hdf5(file) as content:
            total += sum(COLUMNS.count(group, location) for _, group, location in _reactions(content, file, variant))
    return total


def _read_hdf5(path: Path, variant: str) -> Iterator[Sample]:
    with open_hdf5(path) as content:
        for name, group, location in _reactions(content, path, variant):
            yield from COLUMNS.read(group, location, name)


def _reactions(content: Any, path: Path, variant: str) -> Iterator[tuple[str, Any, str]]:
    """Give name ("formula/reaction"), group and location of every reaction of a split, or of all splits together."""
    splits = dict(children(content, str(path)))
    chosen = [variant or UNION] if variant or UNION in splits else [split for split in SPLITS if split in splits]
    if not chosen or chosen[0] not in splits:
        raise DataError(f"{path}: has no split {variant or UNION!r} (there are: {', '.join(splits)}): name one of them")
    for split in chosen:
        for sum_formula, reactions in children(splits[split], f"{path}, {split}"):
            for reaction, group in children(reactions, f"{path}, {split}/{sum_formula}"):
                yield f"{sum_formula}/{reaction}", group, f"{path}, {split}/{sum_formula}/{reaction}"


def _read_list(path: Path) -> Iterator[Sample]:
    for location, fields in graph_list(path):
        group = str(formula(fields, location))
        if "sid" in fields:
            group = f"{group}/rxn{number(fields['sid'], 'sid', location):04.0f}"
        yield graph_sample(fields, location, group=group, periodic=False)
