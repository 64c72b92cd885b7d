import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atomslim
from atomslim.benchmarking.turns import half_range
from atomslim.compress.prune import keep_blocks
from atomslim.data.splits import Split
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.compare import AnyModel, compare, named
from atomslim.evaluation.compare_figure import LATENCY, pareto
from atomslim.evaluation.compared import ComparedModel
from atomslim.evaluation.comparison import Comparison
from atomslim.evaluation.evaluate import evaluate
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters


def test_errors_are_those_of_evaluation_and_elements_add_up() -> None:
    model = jmp(DIRECT, num_blocks=2)
    samples = waters(6)
    found = compare({"full": model, "cut": keep_blocks(model, 1)}, samples, speed=False)
    for row, blocks in zip(found.models, (2, 1), strict=True):
        alone = evaluate(keep_blocks(model, blocks), samples).errors
        assert row.errors["direct"]["forces"].mae == pytest.approx(alone["forces"].mae, rel=1e-12)
        elements = row.by_element["direct"]
        assert list(elements) == ["H", "O"]
        assert (2 * elements["H"] + elements["O"]) / 3 == pytest.approx(alone["forces"].mae, rel=1e-9)
        assert row.blocks == blocks
        assert row.speed is None
    table = found.tables()[-1]
    assert table.columns == ("element", "full", "cut", "predicting the mean")
    assert [line[0] for line in table.rows] == ["H", "O"]


def test_files_are_complete_and_stand_alone(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=2)
    for name, one in (("full", model), ("cut", keep_blocks(model, 1))):
        atomslim.save(one, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / "full.safetensors", tmp_path / "cut.safetensors", tmp_path / "cut.safetensors"]
    found = compare(paths, waters(3), repeats=1, batch_size=2)
    found.write(tmp_path / "out")
    assert [row.name for row in found.models] == ["full", "cut", "cut (3)"]
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["models"][1]["speed"]["flops"] < content["models"][0]["speed"]["flops"]
    assert "multiply and add" in content["conventions"]
    text = (tmp_path / "out" / "compare.html").read_text()
    assert re.findall('href="([^"#]+)"', text) == ["../full.safetensors", "../cut.safetensors", "../cut.safetensors"]
    assert "http" not in re.sub(r'xmlns[:\w]*="[^"]*"', "", text)
    assert (tmp_path / "out" / "compare.md").read_text().count("| full |") == 3
    with (tmp_path / "out" / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["full", "cut", "cut (3)"]
    assert float(rows[1]["MAE forces, direct (eV/Å)"]) == found.models[1].errors["direct"]["forces"].mae
    assert float(rows[1]["latency (s)"]) == found.models[1].latency
    assert (tmp_path / "out" / "compare.png").stat().st_size > 5000
    assert found.words()[0].startswith("cut, against full: ")
    assert content["machine"] in found.words()[-1]
    relative = found.tables()[2]
    assert relative.title == "Relative to full"
    assert relative.rows[0][:3] == ("cut", *_ratios(found.models[1], found.models[0]))


def _ratios(model: ComparedModel, first: ComparedModel) -> tuple[str, str]:
    assert model.speed is not None
    assert first.speed is not None
    return f"{model.parameters / first.parameters:.3f}", f"{model.speed.flops / first.speed.flops:.2f}"


def test_checks_of_physics_are_columns(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=2)
    models: dict[str, AnyModel] = {"full": model, "cut": keep_blocks(model, 1)}
    found = compare(models, waters(1), speed=False, checks=("locality", "forces"))
    assert [row.validation["locality"] for row in found.models] == ["passed", "passed"]
    assert found.models[0].validation["forces"].startswith("FAILED: error")  # direct forces are not the gradient
    found.write(tmp_path)
    (table,) = (table for table in found.tables() if table.title == "Is it still usable")
    assert table.columns == ("model", "locality", "forces")
    assert "cut: fails 1 of 2 checks of its physics: forces." in found.words()
    assert "check locality" in (tmp_path / "compare.csv").read_text().partition("\n")[0]
    with pytest.raises(ConfigError, match="check 'taste'"):
        compare(models, waters(1), speed=False, checks="taste")


def test_names_tell_files_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt", tmp_path / "b" / "best.pt", tmp_path / "other.pt"]
    assert list(named(paths)) == ["a/best", "b/best", "b/best (3)", "other"]
    assert list(named(["family:1.0", "family:1.5"])) == ["family:1.0", "family:1.5"]
    model = jmp(DIRECT, num_blocks=1)
    mixed: list[AnyModel] = [model, tmp_path / "model 1.pt"]
    assert list(named(mixed)) == ["model 1", "model 1 (2)"]


def test_models_are_compared_by_what_all_of_them_predict() -> None:
    energy_only = DIRECT.model_copy(update={"targets": DIRECT.targets[:1]})
    models = {"both": jmp(DIRECT, num_blocks=1), "energy": jmp(energy_only, num_blocks=1)}
    found = compare(models, waters(3), speed=False)
    assert found.main_target == ("direct", "energy per atom")
    errors, elements = found.tables()[0], found.tables()[-1]
    assert errors.rows[1][-1] == ""
    assert [row[2] for row in elements.rows] == ["", ""]
    assert "energy per atom (meV)" in found.plot().axes[0].get_ylabel()


def test_several_tasks_have_columns_of_their_own() -> None:
    model = jmp(DIRECT, CONSERVATIVE, num_blocks=1)
    found = compare([model], {"direct": waters(2), "conservative": waters(3)}, speed=False)
    assert found.structures == 5
    assert "direct, forces" in found.tables()[0].columns
    assert "conservative, forces" in found.tables()[0].columns


def test_a_split_leaves_the_test_set() -> None:
    model = jmp(DIRECT, num_blocks=1)
    samples = waters(5)
    split = Split(recipe="by hand", count=5, train=(0, 1), validation=(2,), test=(3, 4))
    found = compare([model], samples, split=split, speed=False)
    expected = evaluate(model, samples[3:]).errors["forces"].mae
    assert found.models[0].errors["direct"]["forces"].mae == pytest.approx(expected)


def test_the_front_has_what_no_other_beats() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.5), (2.0, 2.0), (4.0, 1.0)]
    assert pareto(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    random = np.random.default_rng(0).random((50, 2)).tolist()
    front = pareto([tuple(point) for point in random])
    for cost, error in front:
        assert not any(a <= cost and b <= error and (a, b) != (cost, error) for a, b in random)


def test_wrong_use_is_said() -> None:
    model = jmp(DIRECT, num_blocks=1)
    with pytest.raises(ConfigError, match="no models"):
        compare([], waters(2))
    with pytest.raises(ConfigError, match="model 2: has no task direct"):
        compare([model, jmp(CONSERVATIVE, num_blocks=1)], {"direct": waters(2)}, speed=False)
    unlabelled = [replace(sample, targets={"charge": np.array(0.0)}) for sample in waters(2)]
    with pytest.raises(DataError, match="none of 2 structures has energy or forces"):
        compare([model], unlabelled, speed=False)
    forces_only = DIRECT.model_copy(update={"targets": DIRECT.targets[1:]})
    energy_only = DIRECT.model_copy(update={"targets": DIRECT.targets[:1]})
    with pytest.raises(ConfigError, match="no target in common"):
        compare([jmp(one, num_blocks=1) for one in (forces_only, energy_only)], waters(2), speed=False)
    empty = Split(recipe="by hand", count=2, train=(0, 1), validation=(), test=())
    with pytest.raises(DataError, match="no test set"):
        compare([model], waters(2), split=empty, speed=False)
    other = jmp(DIRECT, num_blocks=1)
    energy = DIRECT.targets[0].model_copy(update={"unit": "kcal/mol"})
    other.tasks = {"direct": DIRECT.model_copy(update={"targets": (energy, *DIRECT.targets[1:])})}
    with pytest.raises(ConfigError, match="gives energy in kcal/mol, model 1 in eV"):
        compare([model, other], waters(2), speed=False)


def timed(found: Comparison, cut: list[float]) -> Comparison:
    """The same comparison with made-up times: the first model's are even, 2 s."""
    models = []
    for model, times in zip(found.models, ([2.0] * len(cut), cut), strict=True):
        assert model.speed is not None
        assert model.single is not None
        same: dict[str, Any] = {
            "times": tuple(times),
            "graph_times": tuple(times),
            "seconds": min(times),
            "spread": half_range(times),
        }
        models.append(replace(model, speed=replace(model.speed, **same), single=replace(model.single, **same)))
    return replace(found, models=tuple(models))


def test_no_speed_is_claimed_on_a_busy_machine(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=2)
    measured = compare({"full": model, "cut": keep_blocks(model, 1)}, waters(3), repeats=1)
    quiet = timed(measured, [1.0, 1.02, 1.0, 1.04, 1.0])
    assert "2.00 × the speed" in quiet.words()[0]
    assert quiet.tables()[2].rows[0][3].startswith("2.00 × ±")
    assert quiet.plot().axes[0].get_xlabel() == LATENCY
    busy = timed(measured, [1.0, 40.0, 2.0, 17.0, 1.2])
    assert measured.models[0].single is not None
    assert measured.models[1].single is not None
    flops = measured.models[0].single.flops / measured.models[1].single.flops
    assert "× the speed" not in busy.words()[0]
    assert "the machine was busy" in busy.words()[0]
    assert f"FLOPs suggest {flops:.2f} ×; repeat it when nothing else runs" in busy.words()[0]
    assert busy.tables()[2].rows[0][3].startswith("unclear (±")
    assert "too busy to time" in busy.plot().axes[0].get_xlabel()
    busy.write(tmp_path)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["models"][1]["speed-up"]["one"]["reliable"] is False
    assert "times" not in content["models"][1]["single"]
