import json
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from atomslim.atoms import from_ase
from atomslim.compress.neighbours import _Case, neighbour_scan, with_neighbours
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.models import energy_and_forces
from atomslim.models.modes import parameter_count
from small_models import CONSERVATIVE, DIRECT, jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand


def graph_of(model: JMP, task: str) -> JMPGraphSettings:
    graph = model.task(task).graph
    assert isinstance(graph, JMPGraphSettings)
    return graph


@pytest.mark.parametrize("count", [1, 3, 10, 20, 29])
def test_all_graphs_shrink_as_jmp_derives_them(count: int) -> None:
    graph = graph_of(with_neighbours(jmp(DIRECT), count), "direct")
    expected = JMPGraphSettings.from_neighbours(12.0, count)
    assert (graph.main, graph.atom, graph.atom_edge) == (count, expected.atom, max(1, expected.atom_edge))
    assert graph.quad == max(1, expected.quad)


def test_a_task_never_gets_more_neighbours() -> None:
    few = energy_and_forces("few", forces="direct", graph=JMPGraphSettings.from_neighbours(6.0, 8, "invariant"))
    small = with_neighbours(jmp(DIRECT, few), 10)
    assert small.task("few").graph == few.graph
    assert graph_of(small, "direct").main == 10
    halves = with_neighbours(jmp(DIRECT, few), 0.5)
    assert (graph_of(halves, "direct").main, graph_of(halves, "few").main) == (15, 4)
    assert halves.task("few").graph.cutoff == 6.0
    assert graph_of(halves, "few").symmetrise == "invariant"


def test_a_graph_that_was_left_out_stays_so() -> None:
    graph = JMPGraphSettings(cutoff=6.0, main=10, atom=10, atom_edge=5, quad=0)
    model = jmp(energy_and_forces("direct", forces="direct", graph=graph))
    assert graph_of(with_neighbours(model, 1), "direct").quad == 0


def test_weights_and_the_model_stay_and_outputs_change() -> None:
    model = jmp(DIRECT, num_blocks=1, sum_scale=1.0)
    small = with_neighbours(model, 4)
    assert model.task("direct").graph == DIRECT.graph
    assert small.history[-1]["neighbours before"] == {"direct": 30}
    assert small.history[-1]["neighbours after"] == {"direct": 4}
    assert parameter_count(small) == parameter_count(model)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=1)
    batch = from_ase(copper)
    assert not torch.allclose(small.predict(batch)["energy"], model.predict(batch)["energy"], rtol=1e-3)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, 0.0, float("nan"), float("inf")])
def test_numbers_that_make_no_sense(wrong: float) -> None:
    with pytest.raises(ConfigError, match="give a whole number, or a fraction"):
        with_neighbours(jmp(DIRECT, num_blocks=1), wrong)


def test_a_scan_counts_edges_and_errors_as_the_models_have_them() -> None:
    model, samples = jmp(DIRECT, num_blocks=1), waters(4)
    found = neighbour_scan(model, samples, [2, 1, 50], repeats=1)
    assert found.rows[0].errors["forces"].unit == "eV/Å"
    assert found.rows[2].flops < found.rows[0].flops
    assert [row.neighbours for row in found.rows] == [30, 2, 1]
    assert found.rows[1].edges == pytest.approx(2.0)  # each atom of a molecule of three has two neighbours
    assert found.rows[2].edges < 2.0
    assert found.rows[0].edges == found.rows[1].edges
    alone = evaluate(with_neighbours(model, 1), samples).errors
    assert found.rows[2].errors["forces"].mae == pytest.approx(alone["forces"].mae, rel=1e-12)
    assert found.rows[2].errors["forces"].mae != found.rows[0].errors["forces"].mae
    assert model.task("direct") == DIRECT


def test_speed_is_relative_to_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = {30: 6.0, 2: 2.0, 1: 1.0}
    monkeypatch.setattr(_Case, "run", lambda case: {"seconds": taken[case.task.graph.main]})
    found = neighbour_scan(jmp(DIRECT, num_blocks=1), waters(2), [2, 1], repeats=3)
    assert [found.speed_up(row).median for row in found.rows] == [1.0, 3.0, 6.0]
    assert list(found.words()) == []
    found.write(tmp_path / "scan.json")
    rows = json.loads((tmp_path / "scan.json").read_text())["rows"]
    assert [row["speed-up"]["median"] for row in rows] == [1.0, 3.0, 6.0]
    assert rows[0]["seconds"] == 3.0


def test_a_scan_on_a_busy_machine_claims_no_speed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {30: iter([1.0] * 9), 2: iter([9.0, 1.0, 5.0, 1.0, 7.0, 9.0, 3.0])}
    monkeypatch.setattr(_Case, "run", lambda case: {"seconds": next(taken[case.task.graph.main])})
    found = neighbour_scan(jmp(DIRECT, num_blocks=1), waters(2), [2], repeats=5)
    (said,) = found.words()
    assert said.startswith("direct, 2 neighbours: an unclear speed-up (±")


def test_a_scan_leaves_the_model_as_it_was_whatever_happens() -> None:
    model = jmp(DIRECT, CONSERVATIVE, num_blocks=1).train()
    with pytest.raises(ConfigError, match="choose one of"):
        neighbour_scan(model, waters(2), [1])
    unlabelled = [sample.__class__.from_ase(sample.to_ase(), {}) for sample in waters(2)]
    with pytest.raises(DataError, match="none of 2 structures has energy or forces"):
        neighbour_scan(model, {"direct": unlabelled}, [1])
    assert model.training
    assert model.tasks["direct"] == DIRECT
