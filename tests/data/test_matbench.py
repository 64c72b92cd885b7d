import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from atomslim.data.readers import _json_stream as stream
from atomslim.data.readers import matbench
from atomslim.data.readers._json_stream import read_array, read_object
from atomslim.errors import ConfigError
from data.complaints import complaint


def structure(element: Any = "Si", **changes: Any) -> dict[str, Any]:
    """Silicon carbide as pymatgen writes it."""
    lattice = {"matrix": [[0.0, 2.2, 2.2], [2.2, 0.0, 2.2], [2.2, 2.2, 0.0]], "a": 3.1, "pbc": [True, True, True]}
    sites = [
        {"species": [{"element": element, "occu": 1}], "abc": [0, 0, 0], "xyz": [0, 0, 0], "label": "Xx1"},
        {"species": [{"element": "C", "oxidation_state": -4, "occu": 1.0}], "abc": [0.25, 0.25, 0.25], "label": "C"},
    ]
    content = {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice, "sites": sites}
    return content | changes


def save(path: Path, values: list[Any], column: str = "gap pbe", **changes: Any) -> Path:
    """Write a file as MatBench ships it."""
    rows = [[structure(), value] for value in values]
    content = {"index": list(range(len(rows))), "columns": ["structure", column], "data": rows} | changes
    text = json.dumps({name: value for name, value in content.items() if value is not None})
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "matbench_mp_gap.json.gz", [1.5, 0, 2.5])


def test_structures_and_targets(file: Path) -> None:
    samples = list(matbench.read(file))
    assert [float(sample.targets["mp_gap"]) for sample in samples] == [1.5, 0.0, 2.5]
    assert samples[0].numbers.tolist() == [14, 6]
    assert samples[0].positions[1] == pytest.approx(1.1)
    assert samples[0].cell[0].tolist() == [0.0, 2.2, 2.2]
    assert samples[0].pbc.all()
    assert samples[2].name == f"{file}, record 2"


@pytest.mark.parametrize("name", ["mp_gap", "MP_gap", "matbench_mp_gap"])
def test_a_task_is_found_in_its_folder(name: str, file: Path) -> None:
    assert len(list(matbench.read(file.parent, name))) == 3
    assert len(list(matbench.read(file, name))) == 3


@pytest.mark.parametrize(
    ("task", "given_value", "expected"),
    [("jdft2d", 63.6, 0.0636), ("mp_is_metal", True, 1.0), ("log_gvrh", 1.5, 1.5), ("phonons", 440, 440.0)],
)
def test_units_and_types(task: str, given_value: Any, expected: float, tmp_path: Path) -> None:
    path = save(tmp_path / f"matbench_{task}.json", [given_value], matbench.COLUMNS[task])
    assert float(next(matbench.read(path)).targets[task]) == pytest.approx(expected)


def test_elements_come_from_species_whatever_their_charge(tmp_path: Path) -> None:
    for element, number in {"Fe3+": 26, "D": 1, "O2-": 8}.items():
        path = save(tmp_path / "matbench_mp_gap.json", [], data=[[structure(element), 1.0]])
        assert next(matbench.read(path)).numbers[0] == number


def test_cartesian_coordinates_serve_where_there_are_no_others(tmp_path: Path) -> None:
    site = {"species": [{"element": "C", "occu": 1}], "xyz": [1, 2, 3]}
    path = save(tmp_path / "matbench_mp_gap.json", [], data=[[structure(sites=[site]), 1.0]])
    assert next(matbench.read(path)).positions.tolist() == [[1, 2, 3]]


def site(**species: Any) -> dict[str, Any]:
    return structure(sites=[{"species": [{"element": "C", "occu": 1} | species], "abc": [0, 0, 0]}])


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ([structure(), float("nan")], "record 0: mp_gap not finite"),
        ([structure(), None], "record 0: mp_gap not finite"),
        ([structure(), "wide"], "record 0: gap pbe is not a number"),
        ([structure(), [1, 2]], "record 0: gap pbe has 2 values"),
        ([structure()], "record 0: the row does not have 2 columns"),
        ([structure(sites=[]), 1.0], "record 0: has no atoms"),
        ([structure(lattice={}), 1.0], "record 0: is not a pymatgen structure (KeyError: 'matrix')"),
        (["Fe2O3", 1.0], "record 0: is not a pymatgen structure"),
        ([site(occu=0.5), 1.0], "record 0: a site is partly occupied"),
        ([site(element="Qq"), 1.0], "record 0: 'Qq' is not an element"),
        ([site(element="X0+"), 1.0], "record 0: 'X0+' is not an element"),
    ],
)
def test_wrong_rows_are_named(row: list[Any], what: str, tmp_path: Path) -> None:
    path = save(tmp_path / "matbench_mp_gap.json.gz", [], data=[row])
    assert complaint(matbench.read(path), what).startswith(f"{path}")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"columns": ["structure", "n"]}, "the columns are structure, n, and structure and gap pbe are expected"),
        ({"columns": ["composition", "gap pbe"]}, "and structure and gap pbe are expected"),
        ({"columns": None}, "the columns are not named"),
        ({"data": None}, "has no data (it has: index, columns)"),
        ({"data": {"0": 1}}, "an array is expected"),
        ({"data": []}, "the file holds no structures"),
    ],
)
def test_wrong_layouts_are_named(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = save(tmp_path / "matbench_mp_gap.json.gz", [1.0], **changes)
    assert complaint(matbench.read(path), what).startswith(f"{path}")


def test_broken_files_are_named(file: Path) -> None:
    whole = file.read_bytes()
    text = gzip.decompress(whole)
    for content in (b"", whole[: len(whole) // 2], text[: len(text) // 2], b"[1, 2]", b"\xff\xfe", b"{]"):
        file.write_bytes(content)
        complaint(matbench.read(file), f"{file}")
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    complaint(matbench.read(file), f"{file}")


def test_unknown_tasks_are_refused(file: Path) -> None:
    complaint(matbench.read(file, "steels"), "no task 'steels' with structures", "mp_gap", kind=ConfigError)
    complaint(matbench.read(file.parent), "name the task", kind=ConfigError)
    complaint(matbench.read(file.parent, "phonons"), "matbench_phonons.json.gz: there is no such file")
    other = file.rename(file.with_name("mine.json.gz"))
    complaint(matbench.read(other), "the name does not say which task it is")
    assert len(list(matbench.read(other, "mp_gap"))) == 3


def test_every_task_is_described() -> None:
    for variant in matbench.INFO.variants:
        assert variant.targets == (variant.name,)
        assert variant.files[0].filename == variant.path
    assert set(matbench.UNITS) <= set(matbench.COLUMNS) == {variant.name for variant in matbench.INFO.variants}


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda children: some.lists(children) | some.dictionaries(some.text(), children),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(items=some.lists(VALUES, max_size=6), indent=some.sampled_from([None, 1]), chunk=some.sampled_from([1, 7, 64]))
def test_any_array_is_read_whatever_the_size_of_the_window(
    items: list[Any], indent: int | None, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_CHUNK", chunk)
        path.write_text(json.dumps(items, indent=indent))
        assert list(read_array(path)) == items
        path.write_text(json.dumps({"a": items, "b": 12, "data": items, "z": 0}, indent=indent))
        assert [item for _, item in read_object(path, "data")] == items
        assert all(before == {"a": items, "b": 12} for before, _ in read_object(path, "data"))


def test_a_long_file_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(stream, "_CHUNK", 2**14)
    path = tmp_path / "long.json"
    path.write_text(json.dumps([[structure(), 1.0]] * 4000))
    tracemalloc.start()
    assert sum(1 for _ in read_array(path)) == 4000
    assert tracemalloc.get_traced_memory()[1] < 2**18 < path.stat().st_size / 5
    tracemalloc.stop()


def test_the_numbers_survive(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    (tmp_path / "a.json").write_text(json.dumps(values.tolist()))
    assert list(read_array(tmp_path / "a.json")) == values.tolist()


_CHANGES: dict[str, Callable[[str], str]] = {
    "the text ends too early": lambda text: text[:-1],
    "a comma is expected": lambda text: text.replace(",", ";", 1),
    "cut off or no proper JSON": lambda text: text[: len(text) // 2],
}


@pytest.mark.parametrize("what", _CHANGES)
def test_broken_json_is_named(what: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(_CHANGES[what](json.dumps([1, 2, {"a": "long text"}])))
    complaint(read_array(tmp_path / "a.json"), tmp_path / "a.json", what)


def test_metals_are_labels_of_true_and_false(tmp_path: Path) -> None:
    file = save(tmp_path / "matbench_mp_is_metal.json.gz", [True, False, 1, None, 0.0], "is_metal")
    found = [sample.targets for sample in matbench.read(file)]
    assert found == [{"mp_is_metal": 1.0}, {"mp_is_metal": 0.0}, {"mp_is_metal": 1.0}, {}, {"mp_is_metal": 0.0}]
    assert matbench.INFO.is_label("mp_is_metal")
    assert not matbench.INFO.is_label("mp_gap")
    save(file, [True, 0.3], "is_metal")
    complaint(matbench.read(file), f"{file}, record 1", "is_metal is '0.3'", "0 or 1")
