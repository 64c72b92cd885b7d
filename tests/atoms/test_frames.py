from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from atomslim.atoms.frames import format_of, numbered, reason, records_of

WATER = "3\n\nO 0.0 0.0 0.0\nH 0.0 0.0 0.96\nH 0.93 0.0 -0.24\n"


def structures_of(path: Path, text: str) -> list[Atoms]:
    path.write_text(text)
    return [record() for record in records_of(path, "extxyz")]


def test_records_go_on_after_blank_lines(tmp_path: Path) -> None:
    assert len(structures_of(tmp_path / "a.xyz", WATER + "\n\n" + WATER + "\n")) == 2


def test_cell_vectors_come_as_pseudo_atoms(tmp_path: Path) -> None:
    cell = "VEC1 5.0 0.0 0.0\nVEC2 0.0 6.0 0.0\n"
    first, second = structures_of(tmp_path / "a.xyz", WATER + cell + WATER)
    assert first.pbc.tolist() == [True, True, False]
    assert not second.pbc.any()


def test_records_are_split_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(WATER + "nonsense")
    assert len(next(records_of(tmp_path / "a.xyz", "extxyz"))()) == 3


def test_other_formats_are_records_too(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [molecule("H2O"), bulk("Cu")])
    assert [len(record()) for record in records_of(tmp_path / "a.traj", "traj")] == [3, 1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("3\n\nO 0 0 0\nH 0 0 1\n", "ends after 2 of 3 atoms"),
        ("3\n", "ends after 0 of 3 atoms"),
        ("H 0 0 0\n", "expected the number of atoms, found 'H 0 0 0'"),
    ],
)
def test_what_is_no_record_is_said(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=what):
        structures_of(tmp_path / "a.xyz", WATER + text)


def test_records_that_are_not_wanted_are_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(WATER + WATER.replace("0.96", "far") + WATER)
    records = records_of(tmp_path / "a.xyz", "extxyz")
    found = list(numbered(records, lambda _: nullcontext(), lambda number: number != 1))
    assert [(number, atoms is None) for number, atoms in found] == [(0, False), (1, True), (2, False)]


def test_a_record_is_read_in_the_context_of_its_number(tmp_path: Path) -> None:
    @contextmanager
    def named(number: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise LookupError(f"record {number}: {reason(error)}") from error

    (tmp_path / "a.xyz").write_text(WATER + WATER.replace("0.96", "far"))
    with pytest.raises(LookupError, match="record 1: could not convert string to float: 'far'"):
        list(numbered(records_of(tmp_path / "a.xyz", "extxyz"), named))


def test_only_known_formats_have_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(WATER)
    (tmp_path / "notes.txt").write_text("nothing to see")
    (tmp_path / "empty.xyz").write_text("")
    assert [format_of(tmp_path / name) for name in ("a.xyz", "notes.txt", "empty.xyz")] == ["extxyz", None, None]


def test_reasons_are_one_short_line() -> None:
    assert reason(KeyError("Xy")) == "unknown element or name 'Xy'"
    assert reason(ValueError("first  line\nsecond")) == "first line"
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("long " * 100))) == 200
