"""Our own files: nothing is lost in them, and what is wrong with one is said in one line."""

import copy
import errno
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import atomslim
from atomslim.atoms import from_ase
from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.models import BlockModel, Target, Task
from atomslim.models import metadata as metadata_module
from atomslim.models.model_file import checksum, export, load, save
from small_models import CONSERVATIVE, DIRECT, jmp

SCALARS = Task(
    name="properties",
    targets=(
        Target(name="gap", kind="scalar", reduction="mean", unit="eV", mean=2.19, std=1.18),
        Target(name="r2", kind="r2", unit="Å²"),
        Target(name="u0", kind="energy", references={1: -13.6, 8: -2042.0}, mean=0.1 + 0.2),
    ),
    graph=JMPGraphSettings.from_neighbours(7.0, 100, "invariant"),
)


def outputs(model: BlockModel) -> dict[str, Tensor]:
    batch = from_ase(molecule("CH3OH"))
    predictions = {name: model.predict(batch, name) for name in model.tasks}
    return {f"{name} {key}": value for name, task in predictions.items() for key, value in task.items()}


def assert_same_outputs(found: BlockModel, expected: BlockModel) -> None:
    ours, theirs = outputs(found), outputs(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def content(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"atomslim"}
    return load_file(path), json.loads(metadata["atomslim"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(jmp(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def refused(path: Path) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


# -- what is kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("tasks", "changes"),
    [
        ((DIRECT, CONSERVATIVE), {}),
        ((SCALARS,), {"direct_forces": False}),
        ((CONSERVATIVE,), {"direct_forces": False, "basis_cutoff": 5.0, "dropout": 0.1, "emb_size_edge": 14}),
        ((DIRECT,), {"num_blocks": 0}),
    ],
)
def test_saving_and_loading_changes_nothing(
    tasks: tuple[Task, ...], changes: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    model = jmp(*tasks, **changes).to(dtype)
    model.history = [{"operation": "distil", "budget": "2h", "losses": [0.1, 0.2]}]
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert isinstance(again, JMP)
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert (again.config, again.tasks, again.block_ids) == (model.config, model.tasks, model.block_ids)
    assert again.history == model.history
    assert_same_outputs(again, model)


def test_a_cut_model_remembers_which_blocks_it_has(tmp_path: Path) -> None:
    cut = jmp(num_blocks=3).with_blocks([1, 3])
    save(cut, tmp_path / "cut.safetensors")
    again = load(tmp_path / "cut.safetensors")
    assert again.block_ids == (1, 3)
    assert_same_outputs(again, cut)


def test_one_model_gives_the_same_bytes_each_time(saved: Path, tmp_path: Path) -> None:
    save(load(saved), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert checksum(saved) == checksum(tmp_path / "again.safetensors")
    assert len(checksum(saved)) == 64


def test_a_file_can_be_saved_over_while_its_model_is_in_use(saved: Path) -> None:
    model = load(saved)
    expected = outputs(model)
    save(jmp(seed=1), saved)
    assert all(torch.equal(value, expected[key]) for key, value in outputs(model).items())
    save(model, saved)
    assert_same_outputs(load(saved), model)


def test_a_file_says_in_words_what_it_is(saved: Path) -> None:
    tensors, metadata = content(saved)
    assert tensors.keys() == jmp().state_dict().keys()
    assert (metadata["format_version"], metadata["family"]) == (2, "jmp")
    assert metadata["units"] == {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
    assert metadata["versions"] == {"atomslim": atomslim.__version__, "torch": torch.__version__}


def test_half_precision_saves_space_and_is_widened_on_loading(saved: Path, tmp_path: Path) -> None:
    model = load(saved)
    save(copy.deepcopy(model).half(), tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.4 * saved.stat().st_size
    narrow = load(tmp_path / "half.safetensors").parameters()
    for (name, wide), other in zip(model.named_parameters(), narrow, strict=True):
        assert other.dtype == torch.float32, name
        torch.testing.assert_close(other.double(), wide, rtol=1e-3, atol=1e-6)


def test_dtype_and_device_are_chosen_on_loading(saved: Path) -> None:
    assert next(load(saved).parameters()).dtype == torch.float64
    model = load(saved, dtype=torch.float32, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_public_names_are_these_functions() -> None:
    assert (atomslim.load, atomslim.save, atomslim.export) == (load, save, export)


def test_tasks_are_replaced_on_loading(saved: Path) -> None:
    energy = Target(name="energy", kind="energy", std=2.0, mean=1.0)
    other = Task(name="conservative", targets=(energy,), graph=JMPGraphSettings(cutoff=5.0))
    model, plain = load(saved, tasks=[other]), load(saved)
    assert model.tasks == {"direct": plain.tasks["direct"], "conservative": other}
    assert model.history[-1] == {"operation": "set tasks", "tasks": ["direct", "conservative"]}
    batch = from_ase(molecule("H2O"))
    found, expected = (one.predict(batch, "conservative")["energy"] for one in (model, plain))
    torch.testing.assert_close(found, 2 * expected + 1, rtol=1e-12, atol=0)
    with pytest.raises(ConfigError, match="the model has direct, conservative"):
        load(saved, tasks=[SCALARS])


# -- what is refused


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.pt") == "no such file or directory; give the path of a model file"
    assert refused(tmp_path) == "is a directory without best.safetensors; give the path of a model file"


@pytest.mark.parametrize(
    ("bytes_", "line"),
    [
        (b"", "is empty; copy or download it again"),
        (b"step,loss\n1,0.5\n", "is not a model file: neither a .safetensors file nor a checkpoint of torch.save"),
        (b"{}", "is not a model file: neither a .safetensors file nor a checkpoint of torch.save"),
    ],
)
def test_something_else_is_refused(bytes_: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes_)
    assert refused(path) == line


def test_a_file_cut_off_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for size in [9, 20, 1000, len(whole) // 2, len(whole) - 1]:
        saved.write_bytes(whole[:size])
        assert refused(saved).startswith("cut off or damaged (")
    saved.write_bytes(whole + b"more")
    assert refused(saved).startswith("cut off or damaged (")


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    assert refused(path).startswith("has no metadata of a model")
    save_file({"weight": torch.ones(2)}, path, {"format": "pt"})
    assert refused(path).startswith("has no metadata of a model")


def test_a_newer_format_is_refused_by_name(saved: Path) -> None:
    tensors, metadata = content(saved)
    metadata |= {"format_version": 99, "something": "new"}
    metadata["versions"]["atomslim"] = "9.1"
    save_file(tensors, saved, {"atomslim": json.dumps(metadata)})
    assert refused(saved) == (
        f"written in format version 99 by atomslim 9.1, but atomslim {atomslim.__version__} reads versions up to 2; "
        "upgrade atomslim"
    )


def test_an_older_format_is_upgraded_step_by_step(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, metadata = content(saved)
    metadata["chronicle"] = metadata.pop("history")
    save_file(tensors, saved, {"atomslim": json.dumps(metadata)})
    assert "chronicle" in refused(saved) or "history" in refused(saved)
    monkeypatch.setattr(metadata_module, "FORMAT_VERSION", 4)
    upgrades = {
        2: lambda old: old | {"format_version": 3},
        3: lambda old: {k: v for k, v in old.items() if k != "chronicle"} | {"history": old["chronicle"]},
    }
    monkeypatch.setattr(metadata_module, "UPGRADES", upgrades)
    assert_same_outputs(load(saved), jmp())


def test_format_1_says_of_each_target_whether_its_head_has_biases(tmp_path: Path) -> None:
    model = jmp(SCALARS, direct_forces=False, heads_without_bias=("properties.r2",))
    save(model, tmp_path / "model.safetensors")
    tensors, metadata = content(tmp_path / "model.safetensors")
    assert metadata["config"].pop("heads_without_bias") == ["properties.r2"]
    assert metadata.pop("family") == "jmp"
    for target in metadata["tasks"][0]["targets"]:
        target["bias"] = target["name"] != "r2"
    first = metadata | {"architecture": "jmp", "format_version": 1}
    save_file(tensors, tmp_path / "first.safetensors", {"atomslim": json.dumps(first)})
    again = load(tmp_path / "first.safetensors")
    assert again.tasks == model.tasks
    assert_same_outputs(again, model)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format_version": 0}, "damaged"),
        ({"format_version": "1"}, "damaged"),
        ({"config": {"num_blocks": 2}}, "config"),
        ({"tasks": []}, "not part of the model: heads"),
        ({"tasks": [{"name": "a.b", "targets": []}]}, "tasks"),
        ({"block_ids": [1]}, "names 1 blocks for 2"),
        ({"family": "nequick"}, "unknown family of models 'nequick'"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_damaged_metadata_is_refused(change: dict[str, object], word: str, saved: Path) -> None:
    tensors, metadata = content(saved)
    save_file(tensors, saved, {"atomslim": json.dumps(metadata | change)})
    assert word in refused(saved)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '"text"', "{", '{"format_version": null}'])
def test_metadata_that_is_none_is_refused(text: str, saved: Path) -> None:
    save_file(content(saved)[0], saved, {"atomslim": text})
    assert "damaged" in refused(saved)


@pytest.mark.parametrize("name", ["backbone.blocks.1.skip.weight", "heads.direct.energy.layers.0.bias"])
def test_a_wrong_tensor_is_named(name: str, saved: Path) -> None:
    tensors, metadata = content(saved)
    for word, wrong in {
        "missing": {key: tensor for key, tensor in tensors.items() if key != name},
        "not part of the model": tensors | {name + "s": torch.ones(1)},
        "of another shape": tensors | {name: tensors[name][:-1].clone()},
        "no floating-point numbers": tensors | {name: tensors[name].long()},
        "NaN or infinite numbers": tensors | {name: tensors[name] / 0},
    }.items():
        save_file(wrong, saved, {"atomslim": json.dumps(metadata)})
        line = refused(saved)
        assert word in line
        assert name in line


def test_many_wrong_tensors_are_counted(saved: Path) -> None:
    _, metadata = content(saved)
    save_file({"embedding.weight": torch.ones(120, 14)}, saved, {"atomslim": json.dumps(metadata)})
    assert f"and {len(jmp().state_dict()) - 4} more" in refused(saved)


# -- what cannot be written


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", [save, export])
def test_a_disk_that_fills_up_leaves_the_old_file(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("old")
    model = jmp(DIRECT)
    with pytest.raises(OSError, match="large") as caught, small_disk(10_000):
        write(model, path)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [save, export])
def test_a_missing_folder_is_an_error_of_the_system(write: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(jmp(DIRECT), tmp_path / "nowhere" / "model")


@pytest.mark.parametrize("write", [save, export])
def test_another_architecture_is_refused(write: Any, tmp_path: Path) -> None:
    stub = dict.fromkeys(BlockModel.__abstractmethods__, lambda *_: None)
    other = type("OtherModel", (BlockModel,), stub)
    with pytest.raises(ConfigError, match="OtherModel"):
        write(other(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_header_of_any_length_is_recognised(tmp_path: Path) -> None:
    """The length comes first in a file, and its lowest byte may be that of a pickle's beginning."""
    model = jmp(DIRECT)
    path = tmp_path / "model.safetensors"
    lowest = set()
    for padding in range(0, 256, 8):  # safetensors fills headers up to multiples of 8
        model.history = [{"operation": "x" * padding}]
        save(model, path)
        lowest.add(path.read_bytes()[0])
        assert load(path).history == model.history
    assert 0x80 in lowest


ABSURD: dict[str, tuple[str, Any]] = {
    "blocks": ("config.num_blocks", 10**9),
    "many blocks": ("config.num_blocks", 900),
    "layers": ("config.num_atom", 10**9),
    "degrees": ("config.num_spherical", 10**6),
    "width": ("config.emb_size_edge", 10**12),
    "cutoff": ("config.basis_cutoff", float("nan")),
    "endless cutoff": ("config.basis_cutoff", float("inf")),
    "graph": ("tasks.0.graph.cutoff", 1e30),
    "neighbours": ("tasks.0.graph.main", 10**30),
    "mean": ("tasks.0.targets.0.mean", float("nan")),
    "spread": ("tasks.0.targets.0.std", float("inf")),
    "name": ("tasks.0.name", "../x"),
    "version": ("format_version", -(10**9)),
    "version that is none": ("format_version", "x"),
    "blocks twice": ("block_ids", [1, 1]),
    "negative blocks": ("block_ids", [-1, 1]),
    "units": ("units", []),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_descriptions_are_one_line_and_soon(tmp_path: Path, name: str) -> None:
    path, (index, value) = tmp_path / "m.safetensors", ABSURD[name]
    save(jmp(DIRECT), path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["atomslim"])
    *groups, last = index.split(".")
    inner: Any = content
    for group in groups:
        inner = inner[int(group) if group.isdigit() else group]
    inner[last] = value
    save_file(load_file(path), path, {"atomslim": json.dumps(content)})
    with pytest.raises(CheckpointError, match=r"m\.safetensors: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", "null", '{"format_version": {}}'])
def test_descriptions_of_another_form_are_one_line(tmp_path: Path, text: str) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "m.safetensors", {"atomslim": text})
    with pytest.raises(CheckpointError, match=r"m\.safetensors: its metadata is damaged"):
        load(tmp_path / "m.safetensors")
