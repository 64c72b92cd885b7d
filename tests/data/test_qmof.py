import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.formula import Formula
from ase.io import iread

from atomslim.data.readers import qmof
from atomslim.errors import ConfigError
from data.complaints import complaint

GAPS = {"qmof-1": 1.5, "qmof-2": None, "qmof-3": 2.5}


def structure(element: str = "Zn") -> dict[str, Any]:
    sites = [
        {"species": [{"element": element, "occu": 1}], "abc": [0, 0, 0], "label": "Zn1+_no_element"},
        {"species": [{"element": "O", "occu": 1}], "abc": [0.5, 0.5, 0.5], "label": "H"},
    ]
    return {"lattice": {"matrix": np.diag([4.0, 5.0, 6.0]).tolist()}, "sites": sites}


def pair(folder: Path, *, nested: bool = True, packed: bool = False) -> Path:
    """Write the two JSON files as QMOF ships them."""
    entries: list[dict[str, Any]] = []
    for name, gap in GAPS.items():
        outputs = {"pbe": {"bandgap": gap, "cbm": 3.0}, "hse06": {"bandgap": None}}
        flat = {"outputs.pbe.bandgap": gap, "outputs.hse06.bandgap": None}
        entries.append({"qmof_id": name, "name": f"{name}_FSR"} | ({"outputs": outputs} if nested else flat))
    (folder / "qmof.json").write_text(json.dumps(entries, indent=1))
    structures = [{"qmof_id": name, "name": "x", "structure": structure()} for name in reversed(GAPS)]
    text = json.dumps(structures).encode()
    name = "qmof_structure_data.json"
    (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(text) if packed else text)
    return folder


CIF = """data_test
_symmetry_space_group_name_H-M 'P 1'
_cell_length_a 4
_cell_length_b 5
_cell_length_c 6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
 1 'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
 C CA1 0.0 0.0 0.0 1
 D D2 0.25 0.0 0.0 1
 Zn2+ H3 0.5 0.5 0.5 1
"""


def table(folder: Path, rows: dict[str, Any], columns: tuple[str, str] = ("refcode", "BG_PBE")) -> Path:
    with (folder / "gaps.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*columns, "other"])
        lines.writerows([[name, gap, 1] for name, gap in rows.items()])
    for name in rows:
        (folder / f"{name}.cif").write_text(CIF)
    return folder / "gaps.csv"


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_the_pair_of_json_files(nested: bool, packed: bool, tmp_path: Path) -> None:
    samples = list(qmof.read(pair(tmp_path, nested=nested, packed=packed)))
    assert [(sample.group, float(sample.targets["band_gap"])) for sample in samples] == [
        ("qmof-3", 2.5),
        ("qmof-1", 1.5),
    ]
    assert samples[0].numbers.tolist() == [30, 8]
    assert samples[0].positions[1].tolist() == [2.0, 2.5, 3.0]
    assert samples[0].pbc.all()
    assert samples[1].name.endswith(", record 2")


def test_a_file_of_the_pair_or_the_folder_above_do_as_well(tmp_path: Path) -> None:
    inner = tmp_path / "qmof_database"
    inner.mkdir()
    pair(inner)
    for path in (tmp_path, inner / "qmof.json", inner / "qmof_structure_data.json"):
        assert len(list(qmof.read(path))) == 2


def test_a_functional_without_gaps_is_refused(tmp_path: Path) -> None:
    complaint(qmof.read(pair(tmp_path), functional="HSE06"), "no structure has a HSE06 band gap")
    complaint(qmof.read(tmp_path, "hse06"), "no variants", kind=ConfigError)


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("qmof.json", lambda text: text.replace("qmof-3", "qmof-4"), "record 0: qmof-3 is not in qmof.json"),
        ("qmof.json", lambda text: text.replace("outputs", "output"), "record 0: has no outputs"),
        ("qmof.json", lambda text: text.replace("1.5", '"wide"'), "record 0: the band gap is not a number"),
        ("qmof.json", lambda text: text.replace("qmof_id", "id"), "record 0: has no qmof_id"),
        ("qmof.json", lambda text: "[1]" + text[:0], "record 0: has no qmof_id (there is: int)"),
        ("qmof.json", lambda text: text[:200], "cut off or no proper JSON"),
        ("qmof_structure_data.json", lambda text: text[:300], "cut off or no proper JSON"),
        ("qmof_structure_data.json", lambda text: text.replace('"structure"', '"s"'), "record 0: has no structure"),
        (
            "qmof_structure_data.json",
            lambda text: text.replace('"lattice"', '"l"'),
            "record 0: is not a pymatgen structure",
        ),
        ("qmof_structure_data.json", lambda text: "{}" + text[:0], "an array is expected"),
    ],
)
def test_a_broken_pair_is_named(name: str, change: Callable[[str], str], what: str, tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / name).write_text(change((tmp_path / name).read_text()))
    assert complaint(qmof.read(tmp_path), what).startswith(f"{tmp_path}")


@pytest.mark.parametrize("columns", [("refcode", "BG_PBE"), ("qmof_id", "outputs.pbe.bandgap")])
def test_a_table_with_cifs(columns: tuple[str, str], tmp_path: Path) -> None:
    file = table(tmp_path, {"AAA": 1.5, "BBB": "", "CCC": 0.25}, columns)
    for path in (file, tmp_path):
        samples = list(qmof.read(path))
        assert [(one.group, float(one.targets["band_gap"])) for one in samples] == [("AAA", 1.5), ("CCC", 0.25)]
    assert samples[0].numbers.tolist() == [6, 1, 30]  # from the symbols, not the labels
    assert samples[0].positions.tolist() == [[0, 0, 0], [1, 0, 0], [2, 2.5, 3]]
    assert samples[0].cell == pytest.approx(np.diag([4.0, 5.0, 6.0]), abs=1e-12)
    assert samples[0].pbc.all()
    assert samples[0].name == f"{tmp_path / 'AAA.cif'}"


def test_symmetric_cifs_are_completed(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(
        CIF.replace(" 1 'x, y, z'", " 1 'x, y, z'\n 2 '-x, -y, -z'").replace("'P 1'", "'P -1'")
    )
    sample = qmof.read_cif(tmp_path / "a.cif", {"band_gap": 1.0})
    assert sorted(sample.numbers.tolist()) == [1, 1, 6, 30]
    assert sample.pbc.all()


def test_a_cif_written_by_ase_comes_back(tmp_path: Path) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.write(tmp_path / "a.cif")
    sample = qmof.read_cif(tmp_path / "a.cif", {"band_gap": 1.0})
    assert sample.positions == pytest.approx(atoms.positions)
    assert sample.numbers.tolist() == atoms.numbers.tolist()


def test_missing_cifs_are_refused_or_left_out(tmp_path: Path) -> None:
    file = table(tmp_path, {"AAA": 1.5, "BBB": 2.0})
    (tmp_path / "AAA.cif").unlink()
    complaint(qmof.read(file), f"{tmp_path / 'AAA.cif'}: this CIF is not there")
    assert [sample.group for sample in qmof.read(file, skip_missing=True)] == ["BBB"]
    (tmp_path / "relaxed_structures").mkdir()
    (tmp_path / "relaxed_structures" / "AAA.cif").write_text(CIF)
    assert len(list(qmof.read(file))) == 2
    assert [sample.group for sample in qmof.read(file, cifs=tmp_path / "relaxed_structures", skip_missing=True)] == [
        "AAA"
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda text: (
                text.replace(" _atom_site_type_symbol\n", "")
                .replace(" C CA1", " CA1")
                .replace(" D D2", " D2")
                .replace(" Zn2+ H3", " H3")
            ),
            "no _atom_site_type_symbol",
        ),
        (lambda text: text[: text.rindex("0.5 0.5")], "AAA.cif: "),
        (lambda text: text[:100], "AAA.cif: cannot be read"),
        (lambda text: text[:0], "no _atom_site_type_symbol"),
        (lambda text: text.replace("0.0 1\n", "0.0 0.5\n"), "a site is partly occupied"),
        (lambda text: text.replace("Zn2+", "Qq"), "unknown element or name 'Qq'"),
        (lambda text: text.replace("_cell_length_a 4", "_cell_length_a nan"), "AAA.cif: "),
    ],
)
def test_broken_cifs_are_named(change: Callable[[str], str], what: str, tmp_path: Path) -> None:
    file = table(tmp_path, {"AAA": 1.5})
    (tmp_path / "AAA.cif").write_text(change(CIF))
    complaint(qmof.read(file), tmp_path / "AAA.cif", what)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has the columns none"),
        ("refcode,gap\nA,1\n", "has the columns refcode, gap, and one of refcode, qmof_id, name and one of BG_PBE"),
        ("refcode,BG_PBE\nA,wide\n", "record 0: the band gap is not a number"),
        ("refcode,BG_PBE\n", "no structure has a pbe band gap"),
    ],
)
def test_broken_tables_are_named(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "gaps.csv").write_text(text)
    complaint(qmof.read(tmp_path), tmp_path, what)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    complaint(qmof.read(tmp_path / "missing"), "there is no such file or folder")
    complaint(qmof.read(tmp_path), f"{tmp_path}: has neither qmof.json with qmof_structure_data.json nor one csv file")


def test_the_real_pairs_of_gap_and_cif(data_folder: Path) -> None:
    folder = data_folder / "qmof/odac_pairs"
    samples = {sample.group: sample for sample in qmof.read(folder)}
    assert {name: float(sample.targets["band_gap"]) for name, sample in samples.items()} == pytest.approx(
        {
            "IPIFAP": 2.725635,
            "QOVSOL": 2.56109,
            "XAFXOT": 3.847027,
            "XEDPON": 2.818778,
            "XEXMEU": 1.897464,
            "XINWUO": 3.942344,
        }
    )
    formulas = csv.DictReader((folder / "odac_vs_qmof_gap.csv").read_text().splitlines())
    for row in formulas:
        sample = samples[row["refcode"]]
        symbols = sample.to_ase().symbols
        assert str(Formula(row["formula"]).format("hill")) == str(symbols.formula.format("hill"))
        assert len(sample) == int(row["natoms"])


def test_a_real_cif_agrees_with_ase(data_folder: Path) -> None:
    file = data_folder / "qmof/odac_pairs/XEDPON.cif"
    expected = next(iread(file))
    sample = qmof.read_cif(file, {"band_gap": 2.8})
    difference = (sample.positions - expected.positions) @ np.linalg.inv(expected.cell.array)
    assert difference == pytest.approx(np.rint(difference), abs=1e-7)  # ASE wraps atoms into the cell
    assert sample.cell == pytest.approx(expected.cell.array)
    assert len(qmof.read_cif(data_folder / "qmof/qmof-bda2f7d.cif", {"band_gap": 0.0})) == 190


def test_the_real_gaps(data_folder: Path) -> None:
    gaps = qmof.gaps(data_folder / "qmof/opt-bandgaps.csv")
    assert len(gaps) == 14_482
    values = np.array(list(gaps.values()))
    assert values.mean() == pytest.approx(2.18663, abs=0.15)  # published for a later version of the database
    assert values.std() == pytest.approx(1.17575, abs=0.1)
    for sample in qmof.read(data_folder / "qmof/odac_pairs"):
        assert float(sample.targets["band_gap"]) == pytest.approx(gaps[f"{sample.group}_FSR"])
