"""Molecules with labels of no and yes from tables of SMILES: BBBP, ClinTox, Tox21, and tables of one's own.

Sources: MoleculeNet (Wu et al., Chem. Sci. 9, 513 (2018), https://moleculenet.org), comma-separated files, plain or
compressed by gzip, whose first line names the columns.

| variant | column of SMILES | labels |
|---|---|---|
| `bbbp` | smiles | p_np |
| `clintox` | smiles | FDA_APPROVED, CT_TOX |
| `tox21` | smiles | NR-AR … SR-p53, 12 of them, with blanks |

Other tables are named by their file (`smiles@mine.csv`), and their labels by an option. A conformer is made of each
molecule: hydrogen added, ETKDG with a seed, MMFF94. Molecules of which none can be made are left out, counted and
listed. Groups are Bemis and Murcko's scaffolds.
"""

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._classes import class_label
from atomslim.data.readers._common import damaged, existing, labelled
from atomslim.data.readers._conformers import LeftOutError, conformer
from atomslim.data.remarks import Remarks
from atomslim.errors import ConfigError, DataError

LABELS = {
    "bbbp": ("p_np",),
    "clintox": ("FDA_APPROVED", "CT_TOX"),
    "tox21": (
        "NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma",
        "SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53",
    ),
}  # fmt: skip
"""Variant → its labels."""

_FILES = {"bbbp": "BBBP.csv", "clintox": "clintox.csv.gz", "tox21": "tox21.csv.gz"}

LISTED = 50
"""Rows that are left out and listed at most."""


def _variant(name: str) -> Variant:
    file = RemoteFile(url=f"https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/{_FILES[name]}")
    return Variant(name=name, targets=LABELS[name], files=(file,), path=_FILES[name])


INFO = DatasetInfo(
    name="smiles",
    title="Molecules from tables of SMILES",
    homepage="https://moleculenet.org",
    licence="that of each source, see MoleculeNet",
    citation="Z. Wu, B. Ramsundar, E. N. Feinberg et al., Chem. Sci. 9, 513 (2018)",
    level_of_theory="none: labels of experiments; conformers by ETKDG and MMFF94",
    units_in_file="labels of 0 and 1",
    note="bbbp has 2050 rows as published, clintox 1484, tox21 7831; molecules without a structure are left out. Needs "
    "atomslim[molecules].",
    variants=tuple(_variant(name) for name in LABELS),
    labels="all",
)


@dataclass
class _Failures:
    """Rows that were left out, by reason."""

    rows: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def sentence(self, file: Path, count: int) -> str:
        """Say how many of so many rows are left out, and which."""
        total = sum(map(len, self.rows.values()))
        parts = [f"{len(rows)} {reason} (record {_listed(rows)})" for reason, rows in self.rows.items()]
        return f"{file}: {total} of {count} molecules are left out: {'; '.join(parts)}"


def read(
    path: Path,
    variant: str = "",
    *,
    smiles: str = "smiles",
    labels: str | tuple[str, ...] = (),
    name: str = "",
    seed: int = 42,
) -> Iterator[Sample]:
    """Give the molecules of a table with the labels they have, in its order, without those that have no structure.

    Args:
        path: the table, or the folder that holds it under its published name.
        variant: which layout; empty: that of the column names, or of the option ``labels``.
        smiles: name of the column of SMILES, in upper or lower case.
        labels: names (or one text of names, separated by commas) of the columns of labels; empty: the layout's.
        name: column whose text names a molecule in messages; empty: its number alone.
        seed: of the conformers.

    Raises:
        ConfigError: no such variant, or RDKit is missing.
        DataError: a file that is missing, damaged or empty, a missing column, a label that is neither 0 nor
            1 nor missing, or not one molecule with a structure; names file and record.

    """
    yield from read_noting(Remarks(), path, variant, smiles=smiles, labels=labels, name=name, seed=seed)


def read_noting(
    remarks: Remarks,
    path: Path,
    variant: str = "",
    *,
    smiles: str = "smiles",
    labels: str | tuple[str, ...] = (),
    name: str = "",
    seed: int = 42,
) -> Iterator[Sample]:
    """Read as `read` does, with the same options, and note what is left out."""
    file = _file(path, variant)
    failures, count, given = _Failures(), 0, 0
    with _rows(file) as (columns, rows):
        wanted = _labels(labels, variant, columns, file)
        smiles_column = _column(smiles, columns, file, "smiles")
        name_column = _column(name, columns, file, "name") if name else None
        for count, row in enumerate(rows, start=1):
            location = f"{file}, record {count - 1}" + (
                f" ({row[name_column][:40]})" if name_column is not None else ""
            )
            targets = {label: class_label(row[column], label, location) for label, column in wanted.items()}
            try:
                found = conformer(row[smiles_column].strip(), seed)
            except LeftOutError as error:
                failures.rows[str(error)].append(count - 1)
                remarks.left_out[str(error)] += 1
                continue
            if found.remark:
                remarks.left_out[found.remark] += 1
            known = {label: value for label, value in targets.items() if value is not None}
            sample = labelled(location, found.numbers, found.positions, known, group=found.scaffold)
            given += 1
            yield replace(sample, ignored=f"charge {found.charge:+d}") if found.charge else sample
    if not count:
        raise DataError(f"{file}: the table holds no molecules: check that it was written completely")
    if not given:
        raise DataError(f"{failures.sentence(file, count)}: name the column of SMILES with the option smiles")
    if failures.rows:
        remarks.say_once("molecules left out", failures.sentence(file, count))


def _file(path: Path, variant: str) -> Path:
    if variant and variant.lower() not in LABELS:
        raise ConfigError(f"unknown layout {variant!r} of SMILES tables: choose one of {', '.join(LABELS)}")
    if existing(path).is_file():
        return path
    if not variant:
        raise ConfigError(f"{path}: is a folder: name the table itself")
    published = _FILES[variant.lower()]
    names = [path / published, path / published.removesuffix(".gz"), path / f"{published}.gz"]
    return existing(next((name for name in names if name.is_file()), names[0]))


def _labels(given: str | Sequence[str], variant: str, columns: Sequence[str], file: Path) -> dict[str, int]:
    """Return the columns of labels by name: those of the option, of the variant, or of the layout that fits."""
    names = [name.strip() for name in (given.split(",") if isinstance(given, str) else given) if name.strip()]
    if not names and variant:
        names = list(LABELS[variant.lower()])
    if not names:
        lower = {column.lower() for column in columns}
        names = next((list(known) for known in LABELS.values() if {one.lower() for one in known} <= lower), [])
    if not names:
        raise DataError(
            f"{file}: the columns are {_shown(columns)}, of no layout that is known: name those of labels with the "
            "option labels, as in labels=active,toxic"
        )
    return {name: _column(name, columns, file, "labels") for name in dict.fromkeys(names)}


def _column(name: str, columns: Sequence[str], file: Path, option: str) -> int:
    """Return the index of a column of exactly this name, or else of this name in any case."""
    found = [index for index, column in enumerate(columns) if column.lower() == name.lower()]
    exact = [index for index in found if columns[index] == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    problem = "there is no column" if not found else f"there are {len(exact or found)} columns"
    raise DataError(f"{file}: {problem} {name!r} (there are {_shown(columns)}): name it with the option {option}")


@contextmanager
def _rows(file: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Open a table: its column names, and its rows one after the other."""
    with damaged(str(file), EOFError, OSError, UnicodeDecodeError, csv.Error), _open(file) as text:
        reader = csv.reader(text, strict=True)
        columns = [column.strip() for column in next(reader, [])]
        if not columns:
            raise DataError(f"{file}: the table is empty: check that it was written completely")
        yield columns, _checked(reader, len(columns), file)


def _checked(reader: Any, width: int, file: Path) -> Iterator[list[str]]:
    count = 0
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            raise DataError(
                f"{file}, record {count}: has {len(row)} columns where the first line names {width}: mend the row "
                "(texts with commas need quotes)"
            )
        count += 1
        yield row


def _open(file: Path) -> IO[str]:
    with file.open("rb") as start:
        compressed = start.read(2) == b"\x1f\x8b"
    if compressed:
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _listed(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return ", ".join(map(str, rows[:LISTED])) + more


def _shown(columns: Sequence[str]) -> str:
    return ", ".join(columns[:15]) + (f" and {len(columns) - 15} more" if len(columns) > 15 else "")
