from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atomslim.atoms.frames import files_in, records_of
from atomslim.atoms.xyz_header import fields

CELL = "5 0 0 0 6 0 1 0 7"
VECTORS = np.array([[5.0, 0, 0], [0, 6, 0], [1, 0, 7]])


@pytest.mark.parametrize("key", ["Lattice", "lattice", "LATTICE"])
@pytest.mark.parametrize("quotes", ['"{}"', "'{}'", "{{{}}}", "[{}]"])
def test_a_lattice_is_found_in_any_spelling(key: str, quotes: str) -> None:
    found = fields(f"energy=-1 {key}={quotes.format(CELL)} note=x")
    assert np.array_equal(found["Lattice"].T, VECTORS)
    assert (float(found["energy"]), found["note"]) == (-1.0, "x")


@pytest.mark.parametrize("key", ["pbc", "PBC", "Pbc"])
@pytest.mark.parametrize(
    ("value", "flags"),
    [
        ("T T F", [True, True, False]),
        ("t f true", [True, False, True]),
        ("True False FALSE", [True, False, False]),
        ("1 0 1", [True, False, True]),
        ("F", [False] * 3),
        ("TTF", [True, True, False]),
        ("T, F, T", [True, False, True]),
        (".false. .TRUE. F", [False, True, False]),
    ],
)
def test_periodicity_is_found_in_any_spelling(key: str, value: str, flags: list[bool]) -> None:
    assert fields(f'{key}="{value}" Lattice="{CELL}"')["pbc"] == flags


@pytest.mark.parametrize("name", ["stress", "virial"])
def test_six_numbers_are_voigts_and_nine_the_whole(name: str) -> None:
    assert fields(f'{name}="1 2 3 4 5 6"')[name].tolist() == [1, 2, 3, 4, 5, 6]
    assert fields(f'{name}="1 6 5 6 2 4 5 4 3"')[name].tolist() == [1, 2, 3, 4, 5, 6]
    assert fields(f'{name}="1 9 5 6 2 4 5 4 3"')[name].tolist() == [1, 9, 5, 6, 2, 4, 5, 4, 3]
    assert fields(f'{name}="1 2 3"')[name].tolist() == [1, 2, 3]


def test_columns_may_be_declared_in_other_cases() -> None:
    assert fields("properties=Species:s:1:POS:r:3:Forces:r:3:F:R:3")["Properties"] == (
        "species:S:1:pos:R:3:forces:R:3:F:R:3"
    )


@pytest.mark.parametrize(
    "line",
    [
        "water in a pbc box with lattice stress",
        'note="pbc=F lattice=none stress=2" pbc=T',
        "i = 4, time = 2.0, E = -17.5",
        'a="_JSON [[1, 2], [3, 4]]" it\'s',
        "",
    ],
)
def test_remarks_are_remarks(line: str) -> None:
    found = fields(line)
    assert "Lattice" not in found
    assert "stress" not in found
    assert found.get("pbc", [True] * 3) == [True] * 3
    if "time" in line:
        assert float(found["E"]) == -17.5
    if "note" in line:
        assert found["note"] == "pbc=F lattice=none stress=2"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("energy=1 energy=2", "the key energy is given twice"),
        (f'Lattice="{CELL}" lattice="{CELL}"', "the key lattice is given twice"),
        ('pbc="T T T" PBC="F F F"', "the key PBC is given twice"),
        ('Lattice="1 2 3"', "Lattice has 3 numbers where 9"),
        ('Lattice="a b c d e f g h i"', "Lattice has 0 numbers where 9"),
        ('pbc="yes no no"', "pbc is 'yes no no'"),
        ('pbc="T T"', "pbc is 'T T'"),
        (f'cell="{CELL}" energy=1', "cell looks like a lattice"),
        ('box="5 5 5"', "box looks like a lattice"),
        ("Properties=species:S:1:pos:R", "Properties is 'species:S:1:pos:R'"),
        ("Properties=species:S:1:pos:R:3:forces:R:3:Forces:R:3", "column forces is given twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        fields(line)


def test_a_cell_that_is_not_periodic_is_a_remark() -> None:
    assert "Lattice" not in fields(f'cell="{CELL}" pbc="F F F"')
    assert np.array_equal(fields(f'Lattice="{CELL}" cell="{CELL}"')["Lattice"].T, VECTORS)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_none_of_the_record(mark: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(mark + f'1\r\nlattice="{CELL}" PBC="T F T"\r\nHe 0 0 0.5\r\n'.encode())
    atoms: Any = next(records_of(tmp_path / "a.xyz", "extxyz"))()
    assert np.array_equal(atoms.cell.array, VECTORS)
    assert atoms.pbc.tolist() == [True, False, True]


def test_locks_are_no_files_of_structures(tmp_path: Path) -> None:
    for name in ("b.xyz", "a.xyz", ".hidden", "data.db-journal", "a.aselmdb-lock", "lock.mdb", "x.db.lock"):
        (tmp_path / name).touch()
    assert [file.name for file in files_in(tmp_path)[0]] == ["a.xyz", "b.xyz"]
    (tmp_path / "c.aselmdb").touch()
    data, others = files_in(tmp_path)
    assert ([file.name for file in data], [file.name for file in others]) == (["c.aselmdb"], ["a.xyz", "b.xyz"])
