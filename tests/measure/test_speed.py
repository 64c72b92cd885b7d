import pytest
import torch
from ase.build import molecule
from torch import nn

from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError
from atomslim.measure.speed import count_flops, matmul_rate, measure_speed, peak_memory
from atomslim.measure.structures import BUILT_IN, structure
from samples import CONSERVATIVE, DIRECT
from small_models import jmp


def test_flops_of_a_dense_layer_are_two_per_weight_and_row() -> None:
    layer, rows = nn.Linear(5, 7), torch.randn(11, 5)
    assert count_flops(lambda: layer(rows)) == 2 * 5 * 7 * 11
    # backward: the weight's gradient; the rows need none
    assert count_flops(lambda: layer(rows).sum().backward()) == 2 * (2 * 5 * 7 * 11)


def test_our_own_autograd_functions_are_counted() -> None:
    from atomslim.models.gemnet_oc.segments import segment_outer  # noqa: F401 - it has to exist

    model = jmp(DIRECT, num_blocks=1)
    whole = measure_speed({"a": model}, [molecule("C6H6")], repeats=1)["a"].flops
    dense = 0
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(
                lambda module, inputs, _: dense_flops.append(2 * inputs[0].numel() * module.out_features)
            )
    dense_flops: list[int] = []
    measure_speed({"a": model}, [molecule("C6H6")], repeats=1)
    calls = 4  # warm-up, memory, FLOPs, one repeat
    dense = sum(dense_flops) // calls
    assert dense < whole < 30 * dense  # the angular sums of tiny layers are no small part


def test_cut_models_cost_less_and_conservative_forces_more() -> None:
    model = jmp(DIRECT, CONSERVATIVE, num_blocks=3)
    models = {"full": model, "cut": keep_blocks(model, 1)}
    direct = measure_speed(models, [molecule("C6H6")] * 2, task="direct", repeats=2)
    assert direct["cut"].flops < direct["full"].flops
    assert direct["full"].structures == 2
    assert direct["full"].atoms == 24
    assert direct["full"].edges == 2 * 12 * 11 - _far_pairs() * 2
    assert direct["full"].throughput > 0
    assert direct["full"].as_dict()["structures per second"] == direct["full"].throughput
    conservative = measure_speed(models, [molecule("C6H6")], task="conservative", repeats=1)
    assert conservative["full"].flops > 1.5 * direct["full"].flops


def _far_pairs() -> int:
    """Ordered pairs of a benzene molecule beyond the cutoff."""
    atoms = molecule("C6H6")
    return int((atoms.get_all_distances() > DIRECT.graph.cutoff).sum())


def test_peak_memory_sees_what_was_freed_again() -> None:
    def work() -> None:
        torch.zeros(50 * 2**20, dtype=torch.uint8).add_(1)

    found = peak_memory(work, torch.device("cpu"))
    assert found is None or 40 * 2**20 < found < 120 * 2**20


def test_the_floor_is_a_rate() -> None:
    assert matmul_rate(64, 32, torch.device("cpu")) > 1e6


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_structures_are_sound(name: str) -> None:
    atoms = structure(name)
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    distances[range(len(atoms)), range(len(atoms))] = 9.0
    assert distances.min() > 0.6
    assert len(atoms) == {"mof5": 106, "aspirin": 21, "slab": 38, "water": 192}[name]


def test_wrong_use_is_said() -> None:
    with pytest.raises(ConfigError, match="no structures"):
        measure_speed({"a": jmp(DIRECT)}, [])
    with pytest.raises(ConfigError, match="one of mof5, aspirin"):
        structure("mof6")
