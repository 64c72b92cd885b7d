import gzip
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from atomslim.data import open_dataset
from atomslim.data.check import check
from atomslim.data.readers import smiles
from atomslim.data.readers._classes import class_label
from atomslim.data.show import statistics
from atomslim.data.survey import survey
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from data.complaints import complaint

pytest.importorskip("rdkit")

BBBP = """num,name,p_np,smiles
1,Propanolol,1,CC(C)NCC(O)COc1cccc2ccccc12
2,ethanol,1,CCO
3,"acetic acid, anion",0,CC(=O)[O-]
4,phenol,0,c1ccccc1O
"""
TOX21 = f"{','.join(smiles.LABELS['tox21'])},mol_id,smiles\n0,,1{',' * 9},TOX1,CCO\n{',' * 11},TOX2,CCN\n"


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "BBBP.csv", BBBP)


def test_molecules_have_hydrogen_labels_scaffolds_and_charges(file: Path) -> None:
    samples = list(smiles.read(file))
    assert [float(sample.targets["p_np"]) for sample in samples] == [1, 1, 0, 0]
    assert [len(sample) for sample in samples] == [40, 9, 7, 13]
    assert samples[1].numbers.tolist() == [6, 6, 8, *[1] * 6]
    assert [sample.group for sample in samples] == ["c1ccc2ccccc2c1", "no ring", "no ring", "c1ccccc1"]
    assert [sample.ignored for sample in samples] == ["", "", "charge -1", ""]
    assert samples[2].name == f"{file}, record 2"
    assert not samples[0].pbc.any()
    distances = np.linalg.norm(samples[1].positions[:3] - samples[1].positions[0], axis=1)
    assert distances[1] == pytest.approx(1.52, abs=0.03)  # C–C


def test_conformers_depend_on_the_seed_alone(file: Path) -> None:
    one, two, other = (next(smiles.read(file, seed=seed)).positions for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("compressed", [False, True])
def test_published_layouts_are_known_by_variant_or_by_their_columns(compressed: bool, tmp_path: Path) -> None:
    tox = tmp_path / ("tox21.csv.gz" if compressed else "tox21.csv")
    tox.write_bytes(gzip.compress(TOX21.encode()) if compressed else TOX21.encode())
    clintox = save(tmp_path / "clintox.csv", "smiles,FDA_APPROVED,CT_TOX\nCCO,1,0\n")
    by_variant = list(smiles.read(tmp_path, "tox21"))
    assert [sample.targets for sample in by_variant] == [{"NR-AR": 0.0, "NR-AhR": 1.0}, {}]
    assert [sample.targets for sample in smiles.read(tox)] == [sample.targets for sample in by_variant]
    assert [sample.targets for sample in smiles.read(clintox)] == [{"FDA_APPROVED": 1.0, "CT_TOX": 0.0}]


def test_columns_may_be_chosen(tmp_path: Path) -> None:
    table = save(tmp_path / "mine.csv", "\ufeffStructure,id,Active,toxic,class\nCCO,m1,TRUE,,2\nCO,m2,false,1.0,3\n")
    options = {"smiles": "structure", "labels": "active, toxic", "name": "id"}
    data = open_dataset(f"smiles@{table}", options=options)
    assert [data[index].targets for index in range(2)] == [{"active": 1.0}, {"active": 0.0, "toxic": 1.0}]
    assert data[1].name == f"{table}, record 1 (m2)"
    assert data.info.is_label("toxic")
    complaint(smiles.read(table, smiles="structure"), table, "of no layout that is known", "Active", "labels")
    complaint(smiles.read(table, smiles="structure", labels="class"), "record 0", "class is '2'", "0 or 1")
    complaint(smiles.read(table, labels="active"), "no column 'smiles'", "Structure", "the option smiles")
    complaint(smiles.read(table, smiles="structure", labels="hERG"), "no column 'hERG'", "the option labels")


def test_molecules_without_a_structure_are_counted_and_listed(file: Path) -> None:
    file.write_text(BBBP + "5,bad,1,C1CC(\n6,empty,0,\n7,impossible,1,c1ccccc1C(C)(C)(C)(C)C\n")
    with pytest.warns(AtomslimWarning, match=r"3 of 7 molecules are left out: 3 SMILES .*\(record 4, 5, 6\)"):
        assert len(list(smiles.read(file))) == 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = open_dataset(f"smiles:bbbp@{file}")
        assert len(data) == 4
        found = survey(data)
    assert len(caught) == 1  # read twice, said once
    assert "left out: SMILES that RDKit does not read in 3" in found.line()
    file.write_text("smiles,p_np\nC1CC(,1\nnot smiles,0\n")
    complaint(smiles.read(file), file, "2 of 2 molecules are left out", "the option smiles")


def test_bad_tables_are_named(file: Path) -> None:
    for label in ("2", "yes", "0.5", "-1"):
        file.write_text(BBBP.replace("ethanol,1", f"ethanol,{label}"))
        complaint(smiles.read(file), f"{file}, record 1", f"p_np is '{label}'", "0 or 1")
    file.write_text(BBBP + "5,a,b,1,CCO\n")
    complaint(smiles.read(file), f"{file}, record 4", "has 5 columns where the first line names 4")
    file.write_text("")
    complaint(smiles.read(file), file, "the table is empty")
    file.write_text("smiles,p_np\n")
    complaint(smiles.read(file), file, "holds no molecules")
    file.write_text("smiles,smiles,p_np\nCO,CO,1\n")
    complaint(smiles.read(file), file, "there are 2 columns 'smiles'")
    file.write_bytes(gzip.compress(BBBP.encode())[:40])
    complaint(smiles.read(file), file, "cut off or damaged")
    file.write_bytes(b"smiles,p_np\nC\xff,1\n")
    complaint(smiles.read(file), file, "cut off or damaged")
    complaint(smiles.read(file.parent), "name the table itself", kind=ConfigError)
    complaint(smiles.read(file, "esol"), "unknown layout 'esol'", "bbbp", kind=ConfigError)
    complaint(smiles.read(file.parent, "clintox"), "clintox.csv.gz: there is no such file")


def test_without_rdkit_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    complaint(smiles.read(file, seed=77), "pip install 'atomslim[molecules]'", kind=ConfigError)


def test_checks_and_tables_say_how_many_are_yes(file: Path) -> None:
    data = open_dataset(f"smiles:bbbp@{file}")
    assert "yes (1) for 2 of 4 labels, 50.0%" in str(check(data))
    assert "yes for 2 of 4 labels (50.0%)" in statistics(data).table()
    file.write_text(BBBP.replace(",0,", ",1,"))
    report = check(open_dataset(f"smiles:bbbp@{file}"))
    assert [problem.what for problem in report.problems] == ["p_np"]
    assert "yes (1) for 4 of 4 labels, 100.0%: there is nothing to distinguish" in str(report)


@pytest.mark.parametrize(
    ("written", "label"),
    [
        *((True, 1.0), ("T", 1.0), (np.False_, 0.0), (0, 0.0), (1.0, 1.0), ("1.0", 1.0)),
        *(("", None), ("NaN", None), (None, None), (float("nan"), None)),
    ],
)
def test_labels_as_files_write_them(written: object, label: float | None) -> None:
    assert class_label(written, "metal", "here") == label


@pytest.mark.parametrize("written", [2, 0.5, "maybe", [0, 1], float("inf"), {}])
def test_anything_else_is_no_label(written: object) -> None:
    with pytest.raises(DataError, match=r"here: metal is .*0 or 1"):
        class_label(written, "metal", "here")
