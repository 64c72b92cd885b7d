import pytest
import torch

from atomslim.compress.prune import keep_blocks
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.models import Task
from atomslim.train.optimisation import Averages, make_optimiser, set_rates
from atomslim.train.options import OptimiserOptions
from atomslim.train.start import with_tasks
from small_models import CONSERVATIVE, DIRECT, jmp


def test_a_block_keeps_its_rate_when_others_are_cut() -> None:
    model = keep_blocks(jmp(num_blocks=3), [1, 3])
    optimiser = make_optimiser(model, OptimiserOptions(learning_rate=2.0))
    set_rates(optimiser, 2.0)
    rates = {group["name"]: group["lr"] for group in optimiser.param_groups}
    assert rates == {
        "embedding": 0.6,
        "block 1": 1.1,
        "block 2": 0.6,
        "readout": 2.0,
        "head direct": 2.0,
        "head conservative": 2.0,
    }


def test_frozen_parts_have_no_gradient() -> None:
    model = jmp()
    optimiser = make_optimiser(model, OptimiserOptions(freeze=("embedding", "block 2")))
    assert "embedding" not in [group["name"] for group in optimiser.param_groups]
    assert not any(weight.requires_grad for weight in model.backbone.blocks[1].parameters())
    with pytest.raises(ConfigError, match="did you mean block 2"):
        make_optimiser(model, OptimiserOptions(freeze=("blok 2",)))


def test_averages_follow_and_leave_the_weights_alone() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    averages = Averages(model, decay=0.75)
    torch.nn.init.constant_(model.weight, 5.0)
    averages.update(model)
    with averages.applied(model):
        assert model.weight.item() == 2.0
    assert model.weight.item() == 5.0


def test_reused_heads_predict_the_same() -> None:
    model = jmp(DIRECT, CONSERVATIVE)
    reused = with_tasks(model, [DIRECT.model_copy(update={"name": "new"})], reuse="direct")
    for name, weight in reused.heads["new"].state_dict().items():
        assert torch.equal(weight, model.heads["direct"].state_dict()[name])
    assert list(reused.tasks) == ["new"]
    assert reused.history[-1]["operation"] == "set heads"


def test_a_target_without_a_head_to_reuse_starts_fresh_and_that_is_said() -> None:
    model = jmp(CONSERVATIVE)
    new = DIRECT.model_copy(update={"name": "new"})
    with pytest.warns(AtomslimWarning, match="new/forces: task conservative of the model has no head of the kind dir"):
        reused = with_tasks(model, [new], reuse="conservative")
    kept = model.heads["conservative"].state_dict()
    assert all(torch.equal(reused.heads["new"].state_dict()[name], weight) for name, weight in kept.items())
    forces = Task(name="forces", targets=(DIRECT.targets[1],), graph=DIRECT.graph)
    with pytest.raises(ConfigError, match="start with fresh heads"):
        with_tasks(model, [forces], reuse="conservative")


def test_without_direct_forces_the_edge_branch_goes() -> None:
    model = jmp(DIRECT)
    tuned = with_tasks(model, [CONSERVATIVE])
    assert not tuned.config.direct_forces
    assert "edge" not in tuned.readout
    assert "edge" in model.readout
    assert next(tuned.parameters()).data_ptr() != next(model.parameters()).data_ptr()
    with pytest.raises(ConfigError, match="no edge branch"):
        with_tasks(tuned, [DIRECT])


def test_fresh_heads_depend_on_the_seed_only() -> None:
    model = jmp(DIRECT)
    first, again, other = (with_tasks(model, [CONSERVATIVE], seed=seed) for seed in (1, 1, 2))
    weights = [copy.heads["conservative"]["energy"].layers[0].weight for copy in (first, again, other)]  # type: ignore[index]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
