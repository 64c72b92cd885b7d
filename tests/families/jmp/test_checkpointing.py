import pytest
import torch
from torch import Tensor

from atomslim.atoms import to_batch
from atomslim.families.jmp import JMP
from atomslim.models import Task
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters


def gradients(model: JMP, task: Task, *, checkpoint: bool) -> list[Tensor | None]:
    """Return the gradients of a loss of energy and forces with respect to every weight."""
    batch = to_batch(waters(2))
    topology = model.topology(batch, task.name)
    model.train()
    model.checkpoint_blocks = checkpoint
    torch.manual_seed(1)
    outputs = model(batch, topology, create_graph=True)[task.name]
    model.zero_grad()
    (outputs["energy"].square().sum() + outputs["forces"].square().sum()).backward()
    return [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE], ids=["direct", "conservative"])
def test_recomputed_blocks_give_the_same_gradients(task: Task, dropout: float) -> None:
    model = jmp(task, num_blocks=2, direct_forces=task.direct, sum_scale=1.0, dropout=dropout, edge_dropout=dropout)
    pairs = zip(gradients(model, task, checkpoint=False), gradients(model, task, checkpoint=True), strict=True)
    for kept, recomputed in pairs:
        if kept is None:
            assert recomputed is None
        else:
            assert recomputed is not None
            torch.testing.assert_close(recomputed, kept, rtol=1e-10, atol=1e-12)


def test_less_is_kept_for_the_backward_pass() -> None:
    model = jmp(DIRECT, num_blocks=3)
    batch = to_batch(waters(4))
    topology = model.topology(batch, "direct")
    kept = []
    for checkpoint in (False, True):
        model.checkpoint_blocks = checkpoint
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = model(batch, topology)["direct"]
        kept.append(sum(sizes.values()))
        del outputs
    assert kept[1] < 0.6 * kept[0]
