"""JMP's checkpoints: every kind is read, nothing in one is overlooked, and what we write is one."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from torch import Tensor

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.families.jmp.checkpoint import PRETRAINING_TASKS, read_jmp
from atomslim.families.jmp.gemnet_oc.bases import gaussian_centres
from atomslim.models import Target, Task, energy_and_forces
from atomslim.models.model_file import checksum, load
from families.jmp.checkpoints import (
    FOUR_TASKS,
    NAMES,
    SCALARS,
    Hyperparameters,
    State,
    assert_same_outputs,
    checkpoint,
    content_order,
    one_task,
    refused,
    state_dict,
)
from small_models import config, jmp


def kinds_of_tensors() -> list[str]:
    """Name one tensor of every kind, in the last block where there are several."""
    kinds = {re.sub(r"\d+", "#", key): key for key in one_task() if not key.startswith("task_steps")}
    return list(kinds.values())


# -- pre-trained


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_blocks": 1},
        {"num_blocks": 3, "num_before_skip": 2, "num_after_skip": 3, "num_concat": 4, "num_atom": 2},
        {"num_output_afteratom": 3, "num_atom_emb_layers": 2, "num_global_out_layers": 3, "num_elements": 100},
        {"num_concat": 0, "num_atom": 0, "num_global_out_layers": 0, "num_before_skip": 0},
        {"emb_size_edge": 14},
        {"direct_forces": False},
    ],
)
def test_sizes_are_read_off_the_shapes(changes: dict[str, object]) -> None:
    cfg = config(**changes)
    model = read_jmp(state_dict(cfg))
    assert model.config.model_dump() == cfg.model_dump(exclude={"heads_without_bias"})
    assert not model.training


def test_without_blocks_the_sizes_inside_blocks_do_not_matter(tmp_path: Path) -> None:
    model = jmp(*FOUR_TASKS, num_blocks=0)
    again = read_jmp(checkpoint(model, tmp_path))
    assert (again.num_blocks, again.config.emb_size_atom, again.config.emb_size_quad_in) == (0, 14, 2)
    assert_same_outputs(again, model)


def test_every_tensor_lands_where_it_belongs(tmp_path: Path) -> None:
    state = state_dict(config())
    model = read_jmp(state)
    written = checkpoint(model, tmp_path)["state_dict"]
    assert written.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(written[key], tensor), key


def test_the_four_tasks_have_their_graphs_and_normalisation() -> None:
    tasks = read_jmp(state_dict(config())).tasks
    assert tuple(tasks.values()) == PRETRAINING_TASKS
    assert tuple(tasks) == NAMES
    assert [task.graph.cutoff for task in tasks.values()] == [12, 12, 8, 8]
    assert {task.graph.neighbours for task in tasks.values()} == {30}
    stds = [(task.targets[0].std, task.targets[1].std) for task in tasks.values()]
    assert stds[2] == (2.8700712783472118, 2.131422996520996)
    assert all(target.mean == 0 for task in tasks.values() for target in task.targets)


def test_counters_name_the_tasks_of_other_models() -> None:
    state = state_dict(config(), tasks=2)
    assert tuple(read_jmp(state).tasks) == ("oc20", "oc22")
    renamed = {key.replace("_oc20.", "_metals.").replace("_oc22.", "_ani1x."): tensor for key, tensor in state.items()}
    tasks = read_jmp(renamed).tasks
    assert tuple(tasks) == ("metals", "ani1x")
    assert tasks["ani1x"] == PRETRAINING_TASKS[2]
    assert tasks["metals"].graph == JMPGraphSettings()
    bare = {key: tensor for key, tensor in state.items() if not key.startswith("task_steps.")}
    assert tuple(read_jmp(bare).tasks) == ("task0", "task1")


def test_counters_need_not_be_in_the_order_of_the_heads() -> None:
    state = state_dict(config())
    assert tuple(read_jmp(dict(sorted(state.items()))).tasks) == NAMES


def test_without_a_force_branch_forces_are_conservative() -> None:
    tasks = read_jmp(state_dict(config(direct_forces=False))).tasks
    assert all(task.conservative and not task.direct for task in tasks.values())


# -- averaged and raw weights


def averaged(state: State) -> tuple[State, tuple[Tensor, ...]]:
    """Return averages by name, and as the tuple that a checkpoint has, in the order of our own list of keys."""
    content = read_jmp(state)
    assert content.tasks.keys() == set(NAMES)
    names = [
        key
        for key in content_order(content)
        if not key.endswith((".offset", ".temps", "scale_factor")) and ".seq_energy_pre." not in key
    ]
    averages = {key: state[key] + 1 for key in names}
    return averages, tuple(averages.values())


def test_averages_are_read_unless_raw_weights_are_asked_for(tmp_path: Path) -> None:
    state = state_dict(config())
    averages, ema = averaged(state)
    content = {"state_dict": state, "optimizer_states": [{"ema": ema, "decay": 0.99}]}
    mean, raw = (checkpoint(read_jmp(content, weights=w), tmp_path)["state_dict"] for w in ("ema", "raw"))
    for key, tensor in state.items():
        assert torch.equal(raw[key], tensor), key
        assert torch.equal(mean[key], averages.get(key.replace(".seq_energy_pre.", ".layers."), tensor)), key
    assert read_jmp(content).history[-1]["weights"] == "ema"
    assert read_jmp(content, weights="raw").history[-1]["weights"] == "raw"


def test_the_original_reads_raw_values_for_what_has_two_names(tmp_path: Path) -> None:
    state = state_dict(config())
    averages, ema = averaged(state)
    content = {"state_dict": state, "optimizer_states": [{"ema": ema}]}
    found = checkpoint(read_jmp(content, alias="original"), tmp_path)["state_dict"]
    twice = {key.replace(".seq_energy_pre.", ".layers.") for key in state if ".seq_energy_pre." in key}
    assert len(twice) == 3 * 3
    for key, average in averages.items():
        assert torch.equal(found[key], state[key] if key in twice else average), key


@pytest.mark.parametrize("states", [[], [{}], None, {}, [{"state": {}}], [None]])
def test_a_file_without_averages_gives_its_weights(states: object) -> None:
    state = state_dict(config())
    model = read_jmp({"state_dict": state, "optimizer_states": states})
    assert model.history[-1]["weights"] == "raw"
    assert torch.equal(model.embedding.weight.detach(), state["embedding.atom_embedding.weight"])


def test_averages_that_do_not_fit_are_refused_and_raw_weights_still_read() -> None:
    state = state_dict(config())
    _, ema = averaged(state)
    for wrong, word in {
        ema[:-1]: f"{len(ema) - 1} averaged weights for {len(ema)} parameters",
        (*ema[:3], torch.ones(5), *ema[4:]): "averages of another shape: backbone.bases.mlp_sbf_qint.weight (5,)",
        (*ema[:3], "text", *ema[4:]): "not a list of tensors",
        (
            *ema[:3],
            ema[3].long(),
            *ema[4:],
        ): "averages that are not floating-point numbers: backbone.bases.mlp_sbf_qint",
        (*ema[:3], ema[3] / 0, *ema[4:]): "average of backbone.bases.mlp_sbf_qint.weight",
    }.items():
        content = {"state_dict": state, "optimizer_states": [{"ema": wrong}]}
        assert word in refused(content)
        assert read_jmp(content, weights="raw").history[-1]["weights"] == "raw"


# -- files


def test_files_of_all_kinds_give_the_same_model(tmp_path: Path) -> None:
    state = state_dict(config())
    expected = read_jmp(state)
    training = {
        "state_dict": OrderedDict(state),
        "hyper_parameters": Hyperparameters(lr=3e-4),
        "callbacks": {"EarlyStopping": {"best": torch.tensor(1.0)}},
        "loops": {"fit_loop": {}},
        "pytorch-lightning_version": "2.0.0",
    }
    for number, content in enumerate([training, {"state_dict": state}, state]):
        for legacy in (False, True):
            path = tmp_path / f"{number}{legacy}.ckpt"
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
            model = load(path)
            assert isinstance(model, JMP)
            assert_same_outputs(model, expected)


def test_history_says_where_a_model_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "jmp-xs.pt"
    torch.save(state_dict(config()), path)
    (entry,) = load(path).history
    assert entry["operation"] == "read"
    assert entry["format"] == "JMP pre-training checkpoint"
    assert (entry["file"], entry["sha256"]) == ("jmp-xs.pt", checksum(path))
    assert (entry["weights"], entry["alias"]) == ("raw", "ema")
    assert "relative" in entry["notes"][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_half_precision_is_widened_and_double_kept(dtype: torch.dtype) -> None:
    state = state_dict(config())
    model = read_jmp({key: tensor.to(dtype) for key, tensor in state.items()})
    wide = torch.promote_types(dtype, torch.float32)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {wide}
    weight = model.embedding.weight.detach()
    assert torch.equal(weight, state["embedding.atom_embedding.weight"].to(dtype).to(wide))


def test_rounded_centres_of_the_basis_are_made_anew() -> None:
    state = {key: tensor.bfloat16() for key, tensor in state_dict(config(num_radial=64)).items()}
    assert torch.equal(read_jmp(state).backbone.bases.offset, gaussian_centres(64))


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="'mean': give one of ema, raw"):
        read_jmp(state_dict(config()), weights="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give one of ema, original"):
        read_jmp(state_dict(config()), alias="raw")  # type: ignore[arg-type]


def test_the_model_does_not_share_memory_with_what_it_was_read_from() -> None:
    state = state_dict(config())
    model = read_jmp(state)
    before = state["embedding.atom_embedding.weight"].clone()
    with torch.no_grad():
        model.embedding.weight.zero_()
    assert torch.equal(state["embedding.atom_embedding.weight"], before)


# -- what is refused


@pytest.mark.parametrize("key", kinds_of_tensors())
def test_a_wrong_tensor_is_named(key: str) -> None:
    state = one_task()
    assert key in refused({name: tensor for name, tensor in state.items() if name != key})
    assert f"not part of the model: {key}.more" in refused(state | {f"{key}.more": torch.ones(1)})
    wrong = torch.cat([state[key], state[key]], dim=-1) if state[key].ndim else state[key][None]
    assert f"{key} {tuple(wrong.shape)} instead of {tuple(state[key].shape)}" in refused(state | {key: wrong})
    assert f"no floating-point numbers: {key}" in refused(state | {key: state[key].long()})
    assert f"no tensors: {key}" in refused(state | {key: [1.0]})
    if ".seq_energy_pre." not in key:
        assert key in refused(state | {key: state[key] * torch.nan})


@pytest.mark.parametrize("prefix", ["output.out_energy.3.", "output.out_forces.1.", "backbone.int_blocks.1."])
def test_a_missing_part_is_named(prefix: str) -> None:
    state = {key: tensor for key, tensor in state_dict(config()).items() if not key.startswith(prefix)}
    assert f"missing: {prefix}" in refused(state)


@pytest.mark.parametrize("copy", [".offset", ".temps"])
def test_copies_of_the_radial_basis_must_agree(copy: str) -> None:
    state = state_dict(config())
    key = f"backbone.bases.cbf_basis_tint.radial_basis.rbf{copy}"
    line = refused(state | {key: state[key] * 1.01})
    assert line.endswith(f"another radial basis than elsewhere: {key}")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({}, "no state_dict"),
        ({"state_dict": None}, "no state_dict"),
        ({"state_dict": {}}, "no state_dict"),
        ({"epoch": 3}, "no state_dict"),
        ({"conv1.weight": torch.ones(3, 3)}, "no heads"),
        ({"state_dict": {"weight": torch.ones(1), "step": 1}}, "no tensors: step"),
        ({"state_dict": {0: torch.ones(1)}}, "no tensors: 0"),
        ({"out_energy.0.weight": torch.ones(3, 3)}, "missing: embedding.weight"),
        ({"out_energy.0.weight": torch.ones(3, 3), "backbone.int_blocks.0.x": torch.ones(1)}, "missing: embedding"),
        ({"out_energy.0.weight": torch.ones(3, 3), "embedding.weight": torch.ones(0, 3)}, "num_elements: Input should"),
        ({"output.out_energy.7.0.weight": torch.ones(3, 3)}, "missing: embedding.atom_embedding.weight"),
    ],
)
def test_what_is_no_jmp_model_is_refused(content: dict[str, Any], word: str) -> None:
    assert word in refused(content)


# -- fine-tuned


def finetuned(*targets: Target) -> Task:
    return Task(graph=JMPGraphSettings(), name="finetuned", targets=targets)


@pytest.mark.parametrize(
    ("task", "bare", "keys"),
    [
        (energy_and_forces("finetuned", forces="conservative", graph=JMPGraphSettings()), (), {"out_energy.0.bias"}),
        (
            finetuned(
                Target(name="energy", kind="energy"),
                Target(name="forces", kind="direct_forces", unit="eV/Å"),
            ),
            ("finetuned.energy",),
            {"out_forces.0.bias", "out_forces.8.weight", "backbone.out_mlp_F.out_mlp.0.linear.weight"},
        ),
        (
            finetuned(
                Target(name="energy", kind="energy"),
                Target(name="forces", kind="conservative_forces", unit="eV/Å"),
            ),
            ("finetuned.energy",),
            {"out_energy.0.weight"},
        ),
        (SCALARS, (), {f"graph_outputs._module_dict.ft_mlp_{name}.out_mlp.6.bias" for name in ("y", "alpha")}),
    ],
)
def test_fine_tuned_checkpoints_are_read(task: Task, bare: tuple[str, ...], keys: set[str], tmp_path: Path) -> None:
    model = jmp(task, direct_forces=task.direct, heads_without_bias=bare)
    content = checkpoint(model, tmp_path)
    assert keys <= content["state_dict"].keys()
    assert "embedding.weight" in content["state_dict"]
    assert not any(key.startswith("output.") for key in content["state_dict"])
    again = read_jmp(content)
    assert list(again.tasks.values()) == [task]
    assert again.heads_without_bias == set(bare)
    assert_same_outputs(again, model)
    assert again.history[-1]["format"] == "JMP fine-tuning checkpoint"
    assert "assumed" in again.history[-1]["notes"][0]


def test_the_users_tasks_replace_the_assumed_ones(tmp_path: Path) -> None:
    torch.save(checkpoint(jmp(SCALARS, direct_forces=False), tmp_path), tmp_path / "model.pt")
    gap = Target(name="gap", kind="scalar", reduction="mean", mean=2.0, std=3.0)
    r2 = Target(name="r2", kind="r2", unit="Å²")
    given = Task(name="qmof", targets=(gap, r2), graph=JMPGraphSettings(cutoff=5.0))
    model = load(tmp_path / "model.pt", tasks=[given])
    assert list(model.tasks.values()) == [given]
    batch = from_ase(molecule("H2O"))
    expected = load(tmp_path / "model.pt").predict(batch)["y"] / 3 * 3 + 2
    torch.testing.assert_close(model.predict(batch)["gap"], expected, rtol=1e-12, atol=0)
