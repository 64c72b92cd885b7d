import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import iread, read, write

import atomslim
from atomslim.atoms import Sample
from atomslim.cli.main import main
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimWarning, ConfigError, StructureError
from atomslim.inference.predict import PredictionSummary, predict_file
from atomslim.inference.shards import predict_shards
from samples import CONSERVATIVE, DIRECT
from small_models import jmp

COUNT = 11


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    atomslim.save(jmp(CONSERVATIVE, num_blocks=1, direct_forces=False), path)
    return path


def model_of_two_tasks(folder: Path) -> Path:
    path = folder / "two.safetensors"
    atomslim.save(jmp(CONSERVATIVE, DIRECT, num_blocks=1), path)
    return path


def frames(count: int = COUNT) -> list[Atoms]:
    made = [molecule(("H2O", "NH3", "CH4")[number % 3]) for number in range(count)]
    for number, atoms in enumerate(made):
        atoms.rattle(0.03, seed=number)
    return made


def shards(folder: Path) -> list[Atoms]:
    return [atoms for path in sorted(folder.glob("part-*.extxyz")) for atoms in read(path, ":")]


def same(found: Sequence[Atoms], expected: Sequence[Atoms]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.get_chemical_formula() == other.get_chemical_formula()
        np.testing.assert_allclose(one.get_potential_energy(), other.get_potential_energy(), atol=1e-7)
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-7)


def test_shards_hold_what_one_file_would(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    write(tmp_path / "first.xyz", frames()[:5])
    write(tmp_path / "second.xyz", frames()[5:])
    predict_file(model, tmp_path / "all.xyz", tmp_path / "all.extxyz", progress=False)
    summary = predict_shards(
        model, [tmp_path / "first.xyz", tmp_path / "second.xyz"], tmp_path / "out", shard_size=4, progress=False
    )
    assert summary.structures == COUNT
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == [f"part-0000{i}.extxyz" for i in range(3)]
    same(shards(tmp_path / "out"), list(iread(tmp_path / "all.extxyz")))
    assert [atoms.info["record"] for atoms in shards(tmp_path / "out")] == list(range(COUNT))


def test_processes_share_the_shards(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    predict_shards(model, [tmp_path / "all.xyz"], whole, shard_size=2, progress=False)
    counts = [
        predict_shards(
            model, [tmp_path / "all.xyz"], shared, shard_size=2, process=(rank, 2), progress=False
        ).structures
        for rank in range(2)
    ]
    assert counts == [6, 5]
    same(shards(shared), shards(whole))


def test_a_resumed_run_writes_what_is_missing_only(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    folder = tmp_path / "out"
    predict_shards(model, [tmp_path / "all.xyz"], folder, shard_size=4, progress=False)
    before = {path.name: path.read_bytes() for path in folder.glob("part-*")}
    (folder / "part-00001.extxyz").unlink()
    stamp = (folder / "part-00000.extxyz").stat().st_mtime_ns
    summary = predict_shards(model, [tmp_path / "all.xyz"], folder, shard_size=4, resume=True, progress=False)
    assert summary.structures == 4
    assert (folder / "part-00000.extxyz").stat().st_mtime_ns == stamp
    assert {path.name: path.read_bytes() for path in folder.glob("part-*")} == before


def test_parquet_has_a_row_for_each_structure(model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "all.xyz", [*frames(4), bulk("Cu")])
    predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", form="parquet", shard_size=4, progress=False)
    predict_file(model, tmp_path / "all.xyz", tmp_path / "all.extxyz", progress=False)
    table = parquet.read_table(tmp_path / "out")  # which leaves out what begins with _
    assert {field.name: str(field.type) for field in table.schema} == {
        "record": "int64",
        "source": "string",
        "numbers": "list<element: int16>",
        "positions": "list<element: double>",
        "cell": "list<element: double>",
        "pbc": "list<element: bool>",
        "energy": "double",
        "forces": "list<element: double>",
        "stress": "list<element: double>",
    }
    rows = table.to_pylist()
    assert [row["record"] for row in rows] == list(range(5))
    for number, (row, atoms) in enumerate(zip(rows, read(tmp_path / "all.extxyz", ":"), strict=True)):
        assert row["source"] == f"{tmp_path / 'all.xyz'}: record {number} (counting from 0)"
        assert row["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(np.reshape(row["forces"], (-1, 3)), atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(np.reshape(row["positions"], (-1, 3)), atoms.positions, atol=1e-7)
        np.testing.assert_allclose(np.reshape(row["cell"], (3, 3)), atoms.cell.array, atol=1e-7)
        assert (row["numbers"], row["pbc"]) == (atoms.numbers.tolist(), atoms.pbc.tolist())
    assert [row["stress"] is None for row in rows] == [True] * 4 + [False]
    stress = np.reshape(rows[4]["stress"], (3, 3))
    np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-7)


def test_parquet_without_its_package_has_a_remedy(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path / "all.xyz", frames(1))
    with pytest.raises(ConfigError, match=r"pip install 'atomslim\[parquet\]'"):
        predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", form="parquet")
    assert not (tmp_path / "out").exists()


def test_containers_are_predicted_as_files_are(model: Path, tmp_path: Path) -> None:
    made = frames()
    write(tmp_path / "all.xyz", made)
    write_container(tmp_path / "all.samples", [Sample.from_ase(atoms, {"energy": 1.0}) for atoms in made], {})
    predict_shards(model, tmp_path / "all.xyz", tmp_path / "a", shard_size=4, progress=False)
    predict_shards(model, tmp_path / "all.samples", tmp_path / "b", shard_size=4, progress=False)
    same(shards(tmp_path / "b"), shards(tmp_path / "a"))


def test_processes_may_start_in_any_order(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())

    def run(rank: int, **options: Any) -> PredictionSummary:
        return predict_shards(
            model, tmp_path / "all.xyz", tmp_path / "out", shard_size=2, process=(rank, 3), progress=False, **options
        )

    assert "process 2 of 3; 4 of 6 shards are still with other processes" in str(run(2))
    run(0)
    with pytest.raises(ConfigError, match=r"holds predictions already: resume them \(--resume\)"):
        run(0)
    run(1)
    assert [atoms.info["record"] for atoms in shards(tmp_path / "out")] == list(range(COUNT))
    assert "0 structures, 0 atoms" in str(run(0, resume=True))
    assert str(run(0, resume=True)).endswith("process 0 of 3; 2 shards existed already")
    with pytest.raises(ConfigError, match="another run: model"):
        predict_shards(
            model_of_two_tasks(tmp_path), tmp_path / "all.xyz", tmp_path / "out", "conservative", process=(7, 8)
        )


def test_the_command_line_writes_folders_too(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "all.xyz", frames(3))
    command = ["predict", str(model), str(tmp_path / "all.xyz"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert len(shards(tmp_path / "out")) == 3
    assert main(command) == 1
    assert "holds predictions already" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--shard-size", "2"]) == 1
    assert "shard size was 10000 and is now 2" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "out.parquet")]) == 1
    assert "or a folder for shards" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "out.xyz"), "--process", "0/2", "--resume"]) == 1
    assert "--process, --resume is for folders" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command[:-1], str(tmp_path / "out.xyz")]) == 1
    assert "several processes cannot write one file" in capsys.readouterr().err


def test_another_run_is_not_gone_on_with(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(5))
    write(tmp_path / "more.xyz", frames(2))
    folder, other = tmp_path / "out", tmp_path / "other.safetensors"
    atomslim.save(jmp(CONSERVATIVE, num_blocks=2, direct_forces=False), other)

    def resume(model_path: Path = model, sources: Sequence[str] = ("all.xyz",), **options: Any) -> None:
        paths = [tmp_path / source for source in sources]
        options = {"shard_size": 2, "resume": True, "progress": False} | options
        predict_shards(model_path, paths, folder, **options)

    resume()  # nothing is there yet: begins
    before = {path: path.read_bytes() for path in folder.iterdir()}
    wrong_uses: list[tuple[dict[str, Any], str]] = [
        ({"resume": False}, "holds predictions already"),
        ({"model_path": other}, "another run: model was .* and is now"),
        ({"weights": "raw"}, "another run: model was .*'weights': ''.* and is now .*'raw'"),
        ({"shard_size": 3}, "another run: shard size was 2 and is now 3"),
        ({"form": "parquet"}, "another run: format was extxyz and is now parquet"),
        ({"sources": ["all.xyz", "more.xyz"]}, "another run: it has 1 inputs, not 2"),
        ({"sources": ["more.xyz"]}, r"another run: inputs had .*all\.xyz.*, which is now .*more\.xyz"),
    ]
    for wrong, what in wrong_uses:
        with pytest.raises(ConfigError, match=what) as caught:
            resume(**wrong)
        assert "\n" not in str(caught.value)
    with (tmp_path / "all.xyz").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match="inputs had"):
        resume()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    for text in ["", "[]", "nonsense"]:
        (folder / "_predict.json").write_text(text)
        with pytest.raises(ConfigError, match=r"predict\.json: cannot be read|another run"):
            resume()
    (folder / "_predict.json").unlink()
    with pytest.raises(ConfigError, match=r"no _predict\.json that identifies their run"):
        resume()


def test_what_a_killed_process_left_is_removed(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(5))
    options: dict[str, Any] = {"shard_size": 2, "progress": False, "resume": True}
    predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", process=(0, 2), **options)
    for name in ("part-00001.extxyz", "part-00002.extxyz"):
        (tmp_path / "out" / f".{name}.01234567.tmp").write_text("half")
    predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", process=(0, 2), **options)
    assert [path.name for path in tmp_path.glob("out/.*")] == [".part-00001.extxyz.01234567.tmp"]  # of process 1
    predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", process=(1, 2), **options)
    assert not list(tmp_path.glob("out/.*"))


def test_a_run_that_fails_at_once_leaves_no_claim(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "bad.xyz", Atoms("HH", [[0, 0, 0], [0, 0, 0.001]]))
    write(tmp_path / "good.xyz", frames(1))
    with pytest.raises(StructureError, match="atoms 0 and 1"):
        predict_shards(model, tmp_path / "bad.xyz", tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match="unknown task"):
        predict_shards(model, tmp_path / "good.xyz", tmp_path / "out", "product", progress=False)
    predict_shards(model, tmp_path / "good.xyz", tmp_path / "out", progress=False)


def test_wrong_use_is_said(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(3))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"form": "csv"}, "format 'csv': give extxyz or parquet"),
        ({"shard_size": 0}, "shard size 0: give 1 or more"),
        ({"batch_size": 0}, "batch size 0: give"),
        ({"process": (2, 2)}, "process 2 of 2: count processes from 0"),
    ]
    for options, what in wrong:
        with pytest.raises(ConfigError, match=what):
            predict_shards(model, [tmp_path / "all.xyz"], tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="no structures"):
        predict_shards(model, [], tmp_path / "out")
    with pytest.raises(ConfigError, match="be among the structures"):
        predict_shards(model, tmp_path, tmp_path)
    assert not (tmp_path / "out").exists()


def test_shards_before_an_unreadable_record_stay(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(3))
    (tmp_path / "cut.xyz").write_text((tmp_path / "all.xyz").read_text()[:-40])
    with pytest.raises(StructureError, match=r"cut\.xyz: record 2 .* cannot be read"):
        predict_shards(model, tmp_path / "cut.xyz", tmp_path / "out", shard_size=2, progress=False)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["_parts-0.jsonl", "_predict.json", "part-00000.extxyz"]


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_doubled(model: Path, tmp_path: Path) -> None:
    made = frames(150)
    write(tmp_path / "first.xyz", made[:70])
    write_container(tmp_path / "rest.samples", [Sample.from_ase(atoms, {}) for atoms in made[70:]], {})
    paths = [str(Path(atomslim.__file__).parents[1]), str(Path(__file__).parents[1])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("predictor.py"))
    sources = [str(tmp_path / "first.xyz"), str(tmp_path / "rest.samples")]
    subprocess.run([sys.executable, script, str(model), str(tmp_path), "7", *sources], env=environ, check=True)
    expected, found = ({path.name: path.read_bytes() for path in (tmp_path / f).iterdir()} for f in ("whole", "killed"))
    assert found.pop("_parts-0.jsonl").count(b"\n") == expected.pop("_parts-0.jsonl").count(
        b"\n"
    )  # when each was written
    assert found == expected
    assert [atoms.info["record"] for atoms in shards(tmp_path / "killed")] == list(range(150))
    for one, other in zip(shards(tmp_path / "killed"), made, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)


def test_the_embedded_model_predicts_into_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(2))
    for resume in (False, True):
        predict_shards(
            "mini", tmp_path / "all.xyz", tmp_path / "out", "molecules", shard_size=1, resume=resume, progress=False
        )
    assert len(shards(tmp_path / "out")) == 2


def test_a_shard_that_is_not_as_it_was_written_is_made_again(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    folder = tmp_path / "out"
    predict_shards(model, tmp_path / "all.xyz", folder, shard_size=2, progress=False)
    parts = sorted(folder.glob("part-*"))
    before = {path.name: path.read_bytes() for path in parts}
    parts[0].write_bytes(before[parts[0].name][:-9])  # within the last number: still readable
    parts[1].write_bytes(b"".join(before[parts[1].name].splitlines(keepends=True)[:5]))  # after the first structure
    parts[2].write_bytes(before[parts[2].name].replace(b"1", b"2", 1))  # of the same size
    parts[3].write_bytes(before[parts[3].name])  # written anew as it was
    summary = predict_shards(model, tmp_path / "all.xyz", folder, shard_size=2, resume=True, progress=False)
    assert summary.structures == 6
    assert "3 shards existed already" in str(summary)
    assert "3 shards had changed, and were made again" in str(summary)
    assert {path.name: path.read_bytes() for path in folder.glob("part-*")} == before


def test_a_shard_that_nobody_noted_is_made_again(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(3))
    for rank in range(2):
        predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", process=(rank, 2), shard_size=1, progress=False)
    (tmp_path / "out" / "_parts-1.jsonl").write_text('{"part": "part-000')  # killed while it wrote
    summary = predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", shard_size=1, resume=True, progress=False)
    assert summary.structures == 1


def test_other_versions_are_said(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(1))
    predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", progress=False)
    note = tmp_path / "out" / "_predict.json"
    note.write_text(note.read_text().replace(atomslim.__version__, "0.0"))
    with pytest.warns(AtomslimWarning, match="versions was .*: last digits may differ between shards"):
        predict_shards(model, tmp_path / "all.xyz", tmp_path / "out", resume=True, progress=False)
