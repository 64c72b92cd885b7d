"""`atomslim prune` from end to end."""

import json
from pathlib import Path

import pytest
import torch
from ase.io import write

from atomslim.cli import main as cli
from atomslim.compress.prune import keep_blocks
from atomslim.models.model_file import checksum, load, save
from small_models import CONSERVATIVE, DIRECT, jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    save(jmp(DIRECT, num_blocks=3, sum_scale=1.0), folder / "full.safetensors")
    write(folder / "water.xyz", [sample.to_ase() for sample in waters(12)], format="extxyz")
    return folder


def prune(files: Path, *tokens: str) -> int:
    return cli.main(["prune", str(files / "full.safetensors"), *tokens])


def test_a_cut_with_least_squares(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, exported = tmp_path / "small.safetensors", tmp_path / "small.pt"
    data = ["--realign", "least-squares", "--data", f"xyz:{files / 'water.xyz'}", "--limit", "8", "--batch-size", "2"]
    assert prune(files, "-o", str(small), "--keep", "3,1", *data, "--export", str(exported)) == 0
    printed = capsys.readouterr().out
    assert "blocks 1, 3 of 1, 2, 3" in printed
    assert "parameters before" in printed
    assert "readout: least-squares" in printed
    assert "held-out rows (8 structures" in printed
    model = load(small)
    entry = model.history[-1]
    assert entry["parent"] == {"file": "full.safetensors", "sha256": checksum(files / "full.safetensors")}
    assert entry["fit"]["edge"]["R2 fitted"] > entry["fit"]["edge"]["R2 sliced"]
    for name, value in load(exported).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_cut_with_least_squares_of_forces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, small, water = (tmp_path / name for name in ("full.safetensors", "small.safetensors", "water.xyz"))
    save(jmp(CONSERVATIVE, num_blocks=2, sum_scale=1.0), full)
    write(water, [sample.to_ase() for sample in waters(9)], format="extxyz")
    fit = ["--realign", "least-squares-forces", "--directions", "2", "--force-weight", "1.5", "--stress-weight", "0.5"]
    data = ["--data", f"xyz:{water}", "--batch-size", "2"]
    assert cli.main(["prune", str(full), "-o", str(small), "--blocks", "1", *fit, *data]) == 0
    printed = capsys.readouterr().out
    assert "readout: least-squares-forces" in printed
    assert "on 9 held-out structures" in printed
    entry = load(small).history[-1]
    assert entry["force fit"]["rows"] == 9 * 3
    assert entry["weights"] == {"forces": 1.5, "stress": 0.5}
    assert cli.main(["prune", str(full), "-o", str(small), "--width", "edge=12", *fit, *data]) == 0
    printed = capsys.readouterr().out
    assert "widths: edge 18 → 12, chosen by least-squares\nreadout: least-squares-forces\nenergies and" in printed
    entry = load(small).history[-1]
    assert entry["force fit"]["after"]["objective"] < entry["force fit"]["before"]["objective"]
    assert entry["weights"] == {"forces": 1.5, "stress": 0.5}


def test_a_cut_of_a_cut_with_fewer_neighbours(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert prune(files, "-o", str(first), "--keep", "1,3") == 0
    assert cli.main(["prune", str(first), "-o", str(second), "--keep", "3", "--neighbours", "20"]) == 0
    assert "neighbours: direct 30 → 20" in capsys.readouterr().out
    model = load(second)
    assert model.block_ids == (3,)
    assert [entry["operation"] for entry in model.history] == ["keep blocks", "keep blocks", "reduce neighbours"]
    assert model.history[1]["parent"]["sha256"] == checksum(first)


def test_blocks_by_what_the_data_says(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"xyz:{files / 'water.xyz'}"
    assert cli.main(["relevance", str(files / "full.safetensors"), data, "-o", str(tmp_path / "scores")]) == 0
    for name, given in (
        ("file", ["--relevance", str(tmp_path / "scores" / "relevance.json")]),
        ("data", ["--data", data]),
    ):
        tokens = ["-o", str(tmp_path / f"{name}.safetensors"), "--drop-lowest", "2", "--score", "taylor", *given]
        assert prune(files, *tokens) == 0
    assert load(tmp_path / "file.safetensors").block_ids == load(tmp_path / "data.safetensors").block_ids
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Next: ")]
    assert lines == 2 * [f"labels of {data}: energy 12/12, forces 12/12, stress 0/12"]


def test_a_speed_says_how_it_was_estimated(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(files, "-o", str(tmp_path / "small.safetensors"), "--speedup", "1.2") == 0
    assert "by FLOPs counted on benzene" in capsys.readouterr().out


def test_the_random_layer_repeats_with_the_seed(files: Path, tmp_path: Path) -> None:
    firsts: list[torch.Tensor] = []
    for seed in ("1", "1", "2"):
        path = tmp_path / f"{len(firsts)}.safetensors"
        assert prune(files, "-o", str(path), "--blocks", "1", "--realign", "random", "--seed", seed) == 0
        firsts.append(load(path).readout_maps()["node"].weight())
    assert torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[0], firsts[2])
    sliced = keep_blocks(load(files / "full.safetensors"), 1).readout_maps()["node"].weight()
    assert not torch.equal(firsts[0], sliced)


def test_a_scan_prints_a_table_and_writes_it(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scan.json"
    data = ["--data", f"xyz:{files / 'water.xyz'}", "--limit", "2"]
    assert prune(files, "--scan-neighbours", "2,1", *data, "-o", str(out)) == 0
    assert "speed-up" in capsys.readouterr().out
    assert [row["neighbours"] for row in json.loads(out.read_text())["rows"]] == [30, 2, 1]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "say what to do"),
        (["--blocks", "2", "--scan-neighbours", "10"], "say what to do"),
        (["--blocks", "2", "--keep", "1"], "2 ways"),
        (["--blocks", "2", "--data", "xyz:a.xyz"], "--data has no use"),
        (["--blocks", "2", "--realign", "least-squares"], "needs calibration structures"),
        (["--neighbours", "20", "--realign", "random"], "needs removed blocks"),
        (["--drop-lowest", "1"], "needs relevance"),
        (["--keep", "0,1"], "embedding"),
        (["--scan-neighbours", "10"], "labelled structures with --data"),
        (["--scan-neighbours", "ten", "--data", "xyz:a.xyz"], "write numbers"),
        (["--max-params", "ten"], "not a number of parameters"),
        (["--cutoff", "4", "--width", "edge=12", "--data", "xyz:a.xyz"], "JMP models"),
        (["--blocks", "2", "--option", "energy_key=E"], "--data, which is not given: leave it out"),
    ],
)
def test_wrong_use_is_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokens: list[str], message: str
) -> None:
    out = tmp_path / ("scan.json" if "--scan-neighbours" in tokens else "small.safetensors")
    assert prune(files, "-o", str(out), *tokens) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_pruned_model_needs_an_output(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(files, "--blocks", "1") == 1
    assert "-o small.safetensors" in capsys.readouterr().err


def test_what_was_measured_of_other_structures_is_not_taken(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames.xyz"
    write(frames, [sample.to_ase() for sample in waters(2)], format="extxyz")
    cut = ["-o", str(tmp_path / "small.safetensors"), "--max-params", "18k", "--axes", "blocks", "--limit", "2"]
    cut += ["--front", str(tmp_path / "front"), "--data", f"xyz:{frames}"]
    assert prune(files, *cut) == 0
    assert prune(files, *cut) == 0
    write(frames, [sample.to_ase() for sample in waters(4)[2:]], format="extxyz")
    capsys.readouterr()
    assert prune(files, *cut) == 1
    assert "measured.json: was measured with structures" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prune", "--help"]) == 0
    assert "Example: atomslim prune" in " ".join(capsys.readouterr().out.split())


def test_a_narrower_model_of_fewer_blocks(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, data = tmp_path / "small.safetensors", ["--data", f"xyz:{files / 'water.xyz'}"]
    cut = ["-o", str(small), "--blocks", "1", "--width", "edge=12,atom=0.5"]
    assert prune(files, *cut, *data) == 0
    printed = capsys.readouterr().out
    assert "widths: atom 14 → 7, edge 18 → 12, chosen by least-squares" in printed
    model = load(small)
    assert [entry["operation"] for entry in model.history] == ["keep blocks", "narrow"]
    sizes = model.config.model_dump()
    assert (sizes["emb_size_atom"], sizes["emb_size_edge"], sizes["num_blocks"]) == (7, 12, 1)
    assert cli.main(["info", str(small)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "widths before atom 14, edge 18, widths after atom 7, edge 12, parameters before 21933" in shown
    assert "parameters after 11546, score least-squares" in shown
    for given, complaint in (
        (cut, "--width: channels are chosen on structures: give some with --data"),
        (["-o", str(small), "--width", "edge", *data], "--width edge: write widths and numbers"),
        (["-o", str(small), "--width", "edge=3,edge=4", *data], "names a width twice"),
        (["-o", str(small), "--width", "edge=99", *data], "width edge 99: give a whole number from 1 to 18"),
        (["-o", str(small), "--width", "edge=1.0", *data], "width edge 1.0: write 18 for all channels, or 1 for one"),
        (["-o", str(small), "--width", "EDGE=3", *data], "spherical 3; did you mean edge?"),
        (["-o", str(small), "--blocks", "1", "--channel-score", "taylor"], "--channel-score taylor: ranks channels"),
        (["-o", str(small), "--max-ms", "9", "--measure-on", "none.xyz", *data], "none.xyz"),
        (["-o", str(small), "--max-ms", "9", "--axes", "", *data], "no axis ''"),
        (["-o", str(small), "--max-ms", "9", "--axes", "units", *data], "JMP models have no finer units than blocks"),
        (["-o", str(small), "--front", "f", "--blocks", "1", *data], "--blocks: --finer"),
    ):
        assert prune(files, *given) != 0
        assert complaint in capsys.readouterr().err
