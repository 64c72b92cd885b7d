import gc
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from atomslim.atoms import AtomsBatch, Sample, to_batch
from atomslim.data.loader import Batch, BatchLoader, collate
from atomslim.data.mixing import BatchSampler, Mixture, TaskData
from atomslim.errors import ConfigError, DataError, StructureError
from data.made_samples import molecule, slab
from data.mixtures import MadeDataset, two_tasks
from small_models import DIRECT, jmp

TARGETS = {"plain": ("energy", "forces"), "rich": ("energy", "stress", "band_gap")}


def mixed() -> Batch:
    """A molecule, a slab with all labels but forces, and a molecule without a label."""
    samples = [molecule(0, 4), slab(1), molecule(2, 3, targets={"charge": 1.0})]
    return collate(samples, ["plain", "rich", "plain"], TARGETS)


def worker_facts(batch: AtomsBatch, tasks: Sequence[str]) -> dict[str, Any]:
    """A topology builder that says where it ran, and on what."""
    return {
        "process": os.getpid(),
        "threads": torch.get_num_threads(),
        "tasks": list(tasks),
        "nested": [(batch.positions * 2, torch.tensor(3)), torch.zeros(0, 3, dtype=torch.int32)],
    }


def loader(mixture: Mixture | None = None, *, workers: int = 0, topology: Any = None, **limits: Any) -> BatchLoader:
    sampler = BatchSampler(mixture or two_tasks(), **({"batch_size": 4} | limits))
    return BatchLoader(sampler, topology=topology, workers=workers)


def names(batches: BatchLoader) -> list[tuple[str, ...]]:
    return [batch.names for batch in batches]


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a batch whose builder was a model or `worker_facts`."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors([getattr(value, name) for name in value.__dataclass_fields__])


def same(a: Batch, b: Batch) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    equal = all(x.dtype == y.dtype and torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in pairs)
    return equal and (a.names, a.tasks) == (b.names, b.tasks) and len(pairs) > 10


def test_structures_lie_side_by_side() -> None:
    batch = mixed()
    assert len(batch) == batch.num_global == 3
    assert batch.atoms.natoms.tolist() == [4, 3, 3]
    assert batch.tasks == ("plain", "rich", "plain")
    assert batch.task_index.tolist() == [0, 1, 0]
    assert batch.names == ("made, record 0", "plaque, Änderung 7", "made, record 2")


def test_labels_keep_every_digit_and_missing_ones_are_nan() -> None:
    batch = mixed()
    assert list(batch.targets) == list(batch.present) == ["energy", "forces", "stress", "band_gap"]
    assert {name: value.shape for name, value in batch.targets.items()} == {
        "energy": (3,),
        "forces": (10, 3),
        "stress": (3, 3, 3),
        "band_gap": (3,),
    }
    assert {value.dtype for value in batch.targets.values()} == {torch.float64}
    assert batch.targets["energy"][1].item() == -1e5 / 3
    assert batch.targets["band_gap"][1].item() == np.nextafter(1.0, 2.0)
    np.testing.assert_array_equal(batch.targets["forces"][:4], molecule(0, 4).targets["forces"])
    np.testing.assert_array_equal(batch.targets["stress"][1], slab(1).targets["stress"])
    for name, flags in {"energy": [1, 1, 0], "forces": [1, 0, 0], "stress": [0, 1, 0], "band_gap": [0, 1, 0]}.items():
        assert batch.present[name].tolist() == [bool(flag) for flag in flags], name
        present = batch.present[name][batch.atoms.batch] if name == "forces" else batch.present[name]
        assert batch.targets[name][present].isfinite().all()
        assert batch.targets[name][~present].isnan().all()


def test_a_label_that_the_task_does_not_ask_for_is_left_out() -> None:
    samples = [molecule(0), molecule(1)]
    batch = collate(samples, ["a", "b"], {"a": ("energy", "forces"), "b": ("energy",)})
    assert batch.present["forces"].tolist() == [True, False]
    assert batch.targets["forces"][5:].isnan().all()


@pytest.mark.parametrize(
    ("target", "words"), [("energy", "record 7: energy is not finite"), ("forces", "forces is not finite at atom 2")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_not_finite_is_refused_by_name(target: str, words: str, value: float) -> None:
    bad = molecule(7)
    bad.targets[target][(2, 1) if target == "forces" else ()] = value
    with pytest.raises(DataError, match=words) as caught:
        collate([molecule(0), bad], ["a", "a"], {"a": ("energy", "forces")})
    assert "made, record 7" in str(caught.value)


def test_a_label_nobody_asks_for_may_be_nan() -> None:
    sample = molecule(0)
    sample.targets["forces"][0] = np.nan
    assert not collate([sample], ["a"], {"a": ("energy",)}).targets["energy"].isnan().any()


def test_a_structure_without_a_graph_is_named() -> None:
    overlapping = molecule(5, 3, positions=[[0, 0, 0], [2, 0, 0], [2, 0, 0]])
    with pytest.raises(StructureError, match=r"made, record 5: .*atoms 1 and 2") as caught:
        collate([molecule(0, 4), overlapping], ["direct"] * 2, {"direct": ("energy",)}, jmp().topology)
    assert "\n" not in str(caught.value)


def test_the_graphs_are_those_of_the_model() -> None:
    model = jmp(DIRECT)
    samples = [molecule(0, 4), molecule(1, 6)]
    batch = collate(samples, ["direct"] * 2, {"direct": ("energy",)}, model.topology)
    expected = model.topology(to_batch(samples), "direct")
    assert all(torch.equal(a, b) for a, b in zip(tensors(batch.topology), tensors(expected), strict=True))
    energy = model(batch.atoms, batch.topology)["direct"]["energy"]
    assert energy.shape == (2,)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_neither_order_nor_content(workers: int) -> None:
    model = jmp(DIRECT)

    def topology(batch: AtomsBatch, tasks: Sequence[str]) -> Any:
        assert set(tasks) <= {"first", "second"}
        return model.topology(batch, "direct")

    here, there = loader(topology=topology), loader(topology=topology, workers=workers)
    for _ in range(2):  # epochs differ, also with workers that stay
        pairs = list(zip(here, there, strict=True))
        assert len(pairs) == 8
        assert all(same(a, b) for a, b in pairs)


def test_graphs_are_made_in_workers_with_one_thread() -> None:
    torch.set_num_threads(2)
    batches = list(loader(workers=2, topology=worker_facts))
    facts = [batch.topology for batch in batches]
    assert len({fact["process"] for fact in facts} | {os.getpid()}) == 3
    assert {fact["threads"] for fact in facts} == {1}
    for batch, fact in zip(batches, facts, strict=True):
        assert tuple(fact["tasks"]) == batch.tasks
        (doubled, three), empty = fact["nested"]
        assert torch.equal(doubled, batch.atoms.positions * 2)
        assert three.item() == 3
        assert (empty.shape, empty.dtype) == ((0, 3), torch.int32)


def test_an_epoch_has_what_the_sampler_planned() -> None:
    batches = loader(seed=3)
    mixture = batches.sampler.mixture
    seen = [name for batch in names(batches) for name in batch]
    expected = [mixture.locate(number) for number in mixture.epoch(0, seed=3).tolist()]
    assert seen == [f"{('first', 'second')[task]} {index}" for task, index in expected]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_in_the_middle_of_an_epoch(workers: int) -> None:
    through = loader()
    expected = [*names(through), *names(through)]  # two epochs of eight batches

    stopped = loader(workers=workers)
    names(stopped)
    reading = iter(stopped)
    seen = [next(reading).names for _ in range(3)]
    assert seen == expected[8:11]
    state = json.loads(json.dumps(stopped.state_dict()))  # the workers have read ahead by now

    resumed = loader(workers=workers)
    resumed.load_state_dict(state)
    assert len(resumed) == 8
    assert names(resumed) == expected[11:]
    assert resumed.sampler.epoch == 2


def test_an_iteration_given_up_begins_anew() -> None:
    batches = loader(workers=1)
    first = next(iter(batches)).names
    assert names(batches)[0] == first
    assert len(batches) == 8


def test_workers_leave_inherited_garbage_alone() -> None:
    collected = multiprocessing.get_context("fork").Value("i", 0)

    class Remains:
        def __init__(self) -> None:
            self.itself, self.process = self, os.getpid()

        def __del__(self) -> None:
            collected.value += os.getpid() != self.process

    def topology(_batch: AtomsBatch, _tasks: Sequence[str]) -> int:
        return gc.collect()

    gc.disable()
    try:
        Remains()
        list(loader(workers=1, topology=topology))
    finally:
        gc.enable()
    assert collected.value == 0


def test_workers_end_when_told() -> None:
    before = set(multiprocessing.active_children())
    batches = loader(workers=2)
    next(iter(batches))
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    assert set(multiprocessing.active_children()) <= before
    assert len(names(batches)) == 8
    batches.close()


def test_signals_to_all_of_a_group_do_not_reach_workers() -> None:
    """A terminal's Ctrl-C or a cluster's SIGTERM, say: workers would end before the step that is still to be saved."""
    groups = {batch.topology["group"] for batch in loader(workers=1, topology=lambda *_: {"group": os.getpgrp()})}
    assert len(groups) == 1
    assert os.getpgrp() not in groups


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_record_is_one_line_from_a_worker_too(workers: int) -> None:
    samples = [molecule(seed) for seed in range(6)]
    samples[4].targets["energy"][()] = np.nan
    mixture = Mixture([TaskData("a", MadeDataset(samples), ("energy",))])
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError, match="made, record 4: energy is not finite") as caught:
        names(loader(mixture, workers=workers))
    assert "\n" not in str(caught.value)
    assert set(multiprocessing.active_children()) <= before


def unlabelled(**targets: float) -> Sample:
    return molecule(0, targets=targets)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([unlabelled(Energy=1.0), unlabelled()], "lack the target energy .they have Energy."),
        ([unlabelled()], "lack the target energy .they have no target."),
        ([unlabelled(energy=0.0), unlabelled(), unlabelled(energy=0.0)], "have energy 0, so there is nothing to learn"),
    ],
)
def test_a_target_missing_or_zero_everywhere_is_an_error(samples: list[Sample], words: str) -> None:
    mixture = Mixture([TaskData("a", MadeDataset(samples), ("energy",))])
    with pytest.raises(DataError, match=words) as caught:
        loader(mixture)
    assert "\n" not in str(caught.value)


def test_a_target_missing_in_some_structures_only_is_none() -> None:
    samples = [unlabelled(), unlabelled(energy=0.0), unlabelled(energy=2.0)]
    [batch] = loader(Mixture([TaskData("a", MadeDataset(samples), ("energy",))]), shuffle=False)
    assert batch.present["energy"].tolist() == [False, True, True]


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="-1 workers"):
        loader(workers=-1)


def test_every_tensor_moves_with_the_batch() -> None:
    batch = collate([molecule(0, 4)], ["direct"], {"direct": ("energy",)}, jmp().topology)
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert len(list(tensors(moved))) == len(list(tensors(batch))) > 20
    assert moved.names == batch.names
    assert same(batch.to("cpu"), batch)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="pinned memory needs an accelerator")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_pinned_and_arrive(workers: int) -> None:
    sampler = BatchSampler(two_tasks(), batch_size=4)
    pinned = list(BatchLoader(sampler, topology=worker_facts, workers=workers, pin_memory=True))
    assert all(tensor.is_pinned() for batch in pinned for tensor in tensors(batch) if tensor.numel())
    device = torch.accelerator.current_accelerator()
    assert device is not None
    for batch, expected in zip(pinned, loader(topology=worker_facts), strict=True):
        there = batch.to(device)
        assert {tensor.device.type for tensor in tensors(there)} == {device.type}
        torch.accelerator.synchronize()
        assert same(there.to("cpu"), expected)


def _rank(rank: int, store: str, results: "SimpleQueue[Any]") -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=20)
    )
    sampler = BatchSampler(two_tasks(), max_cost=150, rank=rank, world_size=2)
    means = []
    for batch in BatchLoader(sampler):
        mean = batch.targets["energy"].sum() / batch.num_global
        distributed.all_reduce(mean)
        means.append(mean.item())
    distributed.destroy_process_group()
    results.put((rank, means))


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: SimpleQueue[Any] = context.SimpleQueue()
    processes = [context.Process(target=_rank, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    together = dict(results.get() for _ in processes)
    alone = [batch.targets["energy"].mean().item() for batch in loader(batch_size=None, max_cost=150)]
    assert len(alone) > 3
    for means in together.values():
        np.testing.assert_allclose(means, alone, rtol=1e-12)
