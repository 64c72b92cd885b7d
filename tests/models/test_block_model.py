import pytest
import torch

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP, JMPGraphSettings, jmp_l
from atomslim.families.jmp.gemnet_oc import Topology
from atomslim.models import BlockFeatures, Target, Task, energy_and_forces
from atomslim.testing import check_block_model, sample_structures
from small_models import CONSERVATIVE, DIRECT, jmp


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param((DIRECT, CONSERVATIVE), id="energy and forces"),
        pytest.param(
            (
                Task(
                    graph=JMPGraphSettings(),
                    name="properties",
                    targets=(
                        Target(name="gap", kind="scalar", reduction="mean", mean=2.0, std=0.5),
                        Target(name="r2", kind="r2", unit="Å²"),
                        Target(name="U0", kind="energy", references={1: -13.6, 8: -2000.0}),
                    ),
                ),
            ),
            id="scalars",
        ),
    ],
)
def test_jmp_passes_the_kit(tasks: tuple[Task, ...]) -> None:
    check_block_model(jmp(*tasks))


def test_the_kit_notices_a_model_that_depends_on_orientation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = jmp(DIRECT)
    original = type(model).features

    def tilted(self: JMP, batch: AtomsBatch, topology: Topology, *, edges: bool = True) -> BlockFeatures:
        features = original(self, batch, topology, edges=edges)
        first = features.node[0] + 1e-3 * batch.positions[:, :1]
        return type(features)((first, *features.node[1:]), features.edge, features.context)

    monkeypatch.setattr(JMP, "features", tilted)
    with pytest.raises(AssertionError, match="rotation"):
        check_block_model(model)


def test_unknown_task_lists_the_tasks_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'oc23': the model has direct, conservative"):
        jmp().predict(from_ase(sample_structures()[0]), "oc23")
    with pytest.raises(ConfigError, match="2 tasks: choose one of direct, conservative"):
        jmp().predict(from_ase(sample_structures()[0]))


@pytest.mark.parametrize("indices", [[0], [3], [2, 1], [1, 1]])
def test_blocks_to_keep_must_be_ascending_and_exist(indices: list[int]) -> None:
    with pytest.raises(ConfigError, match="ascending numbers from 1 to 2"):
        jmp().with_blocks(indices)


def test_a_cut_in_the_middle_keeps_the_later_block_and_its_columns() -> None:
    model = jmp(num_blocks=3)
    small = model.with_blocks([1, 3])
    assert small.block_ids == (1, 3)
    assert small.with_blocks([2]).block_ids == (3,)
    width = model.config.emb_size_atom
    columns = model.readout_maps()["node"].weight()
    kept = torch.cat([columns[:, : 2 * width], columns[:, 3 * width :]], dim=1)
    assert torch.equal(small.readout_maps()["node"].weight(), kept)
    skip = "skip.weight"
    assert torch.equal(small.backbone.blocks[1].get_parameter(skip), model.backbone.blocks[2].get_parameter(skip))


def test_physical_values_are_scaled_shifted_and_referenced() -> None:
    target = Target(name="energy", kind="energy", mean=3.0, std=2.0, references={1: -10.0, 8: -100.0})
    model = jmp(Task(graph=JMPGraphSettings(), name="t", targets=(target,)))
    batch = from_ase(sample_structures()[0])
    raw = model(batch, normalised=True)["t"]["energy"]
    assert model(batch)["t"]["energy"].item() == pytest.approx(2 * raw.item() + 3 - 120, rel=1e-12)


def test_prediction_leaves_no_trace_on_parameters() -> None:
    model = jmp()
    frozen = next(model.embedding.parameters())
    frozen.requires_grad_(False)
    outputs = model.predict(from_ase(sample_structures()[0]), "conservative")
    assert not any(values.requires_grad for values in outputs.values())
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in model.backbone.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_direct_forces_need_the_force_branch() -> None:
    with pytest.raises(ConfigError, match="direct forces need a model with direct_forces=True"):
        jmp(DIRECT, direct_forces=False)


@pytest.mark.parametrize(
    ("num_blocks", "parameters"),
    [(6, 160_875_776), (5, 134_537_472), (4, 108_199_168), (3, 81_860_864), (2, 55_522_560)],
)
def test_parameters_of_jmp_l_with_a_scalar_head(num_blocks: int, parameters: int) -> None:
    with torch.device("meta"):
        model = JMP(
            jmp_l(direct_forces=False),
            [Task(graph=JMPGraphSettings(), name="qmof", targets=(Target(name="gap", kind="scalar"),))],
        )
        small = model.with_blocks(range(1, num_blocks + 1))
    assert sum(p.numel() for p in small.parameters()) == parameters


def test_stress_is_nan_for_the_molecules_of_a_mixed_batch() -> None:
    water, _, _, crystal = sample_structures()
    stress = jmp(CONSERVATIVE).predict(from_ase([water, crystal]))["stress"]
    assert stress[0].isnan().all()
    assert torch.allclose(stress[1], stress[1].T)
    assert "stress" not in jmp(CONSERVATIVE).predict(from_ase(water))


def test_structures_of_different_tasks_share_a_batch() -> None:
    near = energy_and_forces("near", forces="direct", graph=CONSERVATIVE.graph.model_copy(update={"cutoff": 3.0}))
    model = jmp(near, CONSERVATIVE)
    water, _, ethanol, _ = sample_structures()
    batch = from_ase([ethanol, water, ethanol])
    together = model(batch, model.topology(batch, ["near", "conservative", "conservative"]))
    for index, (atoms, task) in enumerate([(ethanol, "near"), (water, "conservative"), (ethanol, "conservative")]):
        alone = model(from_ase(atoms), model.topology(from_ase(atoms), task))
        for name in model.tasks:
            assert together[name]["energy"][index].item() == pytest.approx(alone[name]["energy"].item(), rel=1e-11)
