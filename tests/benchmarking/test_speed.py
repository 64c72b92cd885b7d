import pytest
import torch
from ase.build import molecule
from torch import nn

from atomslim.benchmarking.speed import MatrixProduct, count_flops, largest_dense_layer, measure_speed
from atomslim.benchmarking.structures import BUILT_IN, structure
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError
from atomslim.memory import peak_memory
from samples import CONSERVATIVE, DIRECT
from small_models import jmp


def test_flops_of_a_dense_layer_are_two_per_weight_and_row() -> None:
    layer, rows = nn.Linear(5, 7), torch.randn(11, 5)
    assert count_flops(lambda: layer(rows)) == 2 * 5 * 7 * 11
    # backward: the weight's gradient; the rows need none
    assert count_flops(lambda: layer(rows).sum().backward()) == 2 * (2 * 5 * 7 * 11)


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


def test_the_floor_is_the_rate_of_the_largest_dense_layer() -> None:
    layers = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 5), nn.Linear(5, 2))
    assert largest_dense_layer(layers, lambda: layers(torch.zeros(3, 4))) == (3, 9, 5)
    assert largest_dense_layer(nn.Identity(), lambda: None) is None
    product = MatrixProduct((64, 32, 16), torch.device("cpu"), torch.float32, at_least=1e-4)
    assert product.flops == 2 * 64 * 32 * 16
    assert product.times > 1
    assert product.rate() > 1e6


def test_rates_and_ratios_follow_from_times() -> None:
    found = measure_speed({"a": jmp(DIRECT, num_blocks=1)}, [molecule("H2O")] * 2, repeats=3)["a"]
    plain = found.as_dict()
    assert plain["atoms per second"] == pytest.approx(6 / (found.seconds + found.graph_seconds))
    assert plain["edges per second"] == pytest.approx(found.edges / (found.seconds + found.graph_seconds))
    assert found.over_floor is not None
    assert found.over_floor > 0
    assert found.spread >= 0


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
    with pytest.raises(ConfigError, match="0 repeats"):
        measure_speed({"a": jmp(DIRECT)}, [molecule("H2O")], repeats=0)
    with pytest.raises(ConfigError, match="one of mof5, aspirin"):
        structure("mof6")
