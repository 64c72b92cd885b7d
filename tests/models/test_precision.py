"""What the precision policies compute in, how far their results are from float64, and what they refuse."""

from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from torch import Tensor, nn

import atomslim
from atomslim.atoms import from_ase
from atomslim.cli.main import main
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP
from atomslim.families.jmp.heads import Head
from atomslim.models import precision
from atomslim.models.block_model import BlockFeatures
from atomslim.models.precision import Policy, computing, format_of, full_precision
from samples import CONSERVATIVE, DIRECT
from small_models import jmp

CPU = torch.device("cpu")
SINGLE = torch.zeros(1)


def tf32() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision)


def ethanol() -> atomslim.AtomsBatch:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return from_ase(atoms)


@pytest.fixture
def model() -> JMP:
    return jmp(DIRECT, CONSERVATIVE, sum_scale=0.3).float()


def test_policies_on_the_cpu() -> None:
    assert [format_of(name, SINGLE) for name in (None, "highest", "high", "fast")] == ["fp32", "fp32", "fp32", "bf16"]
    assert format_of(None, SINGLE.double()) == format_of("highest", SINGLE.double()) == "fp64"


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("faster", SINGLE, "precision 'faster': choose from highest, high, fast"),
        ("tf32", SINGLE, "precision tf32: this CPU has no tf32 arithmetic: use highest"),
        ("fp16", SINGLE, "precision fp16: this CPU has no fp16 arithmetic: use highest"),
        ("fast", SINGLE.double(), "precision fast: the weights are float64, not float32: use highest"),
    ],
)
def test_what_there_is_not_is_refused(name: str, weight: Tensor, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_fp16", lambda: False)
    with pytest.raises(ConfigError) as refused:
        format_of(name, weight)
    assert str(refused.value) == message


@pytest.mark.parametrize("task", ["direct", "conservative"])
@pytest.mark.parametrize(("policy", "tolerance"), [("highest", 1e-4), ("high", 1e-4), ("fast", 8e-2)])
def test_policies_agree_with_float64(model: JMP, policy: Policy, tolerance: float, task: str) -> None:
    batch = ethanol()
    found = model.predict(batch, task, precision=policy)
    expected = model.double().predict(batch, task)
    for name, values in expected.items():
        assert torch.linalg.norm(found[name] - values) < tolerance * torch.linalg.norm(values), name


def test_fast_is_narrow_in_dense_layers_only(model: JMP, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes: dict[str, set[torch.dtype]] = {"dense": set(), "head": set(), "bases": set()}

    def note(kind: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            values = [getattr(output, field.name) for field in fields(output)] if is_dataclass(output) else [output]
            dtypes[kind].update(value.dtype for value in values if isinstance(value, Tensor))

        return hook

    for layer in model.backbone.blocks.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(note("dense"))
    for module in model.modules():
        if isinstance(module, Head):
            module.register_forward_hook(note("head"))
    model.backbone.bases.register_forward_hook(note("bases"))
    sums: set[torch.dtype] = set()
    multiplied = torch.bmm

    def noted(left: Tensor, *others: Any, **options: Any) -> Tensor:
        product = multiplied(left, *others, **options)
        sums.add(product.dtype)
        return product

    monkeypatch.setattr(torch, "bmm", noted)
    outputs = model.predict(ethanol(), "direct", precision="fast")
    assert dtypes == {
        "dense": {torch.bfloat16},
        "head": {torch.float32},
        "bases": {torch.float32, torch.float64},
    }
    assert sums == {torch.float32}
    assert (outputs["energy"].dtype, outputs["forces"].dtype) == (torch.float64, torch.float32)


def test_angular_sums_of_quadruplets_are_wide(model: JMP, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[torch.dtype]] = []
    added = Tensor.baddbmm_

    def noted(*inputs: Tensor, **options: Any) -> Tensor:
        seen.append({tensor.dtype for tensor in inputs})
        return added(*inputs, **options)

    monkeypatch.setattr(Tensor, "baddbmm_", noted)
    model.predict(ethanol(), "direct", precision="fast")
    assert seen == [{torch.float32}] * model.num_blocks


def test_tf32_is_on_where_dense_layers_are_and_put_back() -> None:
    before = tf32()
    with computing("tf32", CPU):
        assert tf32() == "tf32"
        with full_precision(CPU):
            assert tf32() == "ieee"
        assert tf32() == "tf32"
    assert tf32() == before
    with suppress(ZeroDivisionError), computing("fp32", CPU):
        assert tf32() == "ieee"
        raise ZeroDivisionError
    assert tf32() == before


def test_derivatives_are_taken_outside_of_autocast(model: JMP, monkeypatch: pytest.MonkeyPatch) -> None:
    narrowed: list[bool] = []
    derived = torch.autograd.grad

    def noted(*inputs: Any, **options: Any) -> Any:
        narrowed.append(torch.is_autocast_enabled("cpu"))
        return derived(*inputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    model.predict(ethanol(), "conservative", precision="fast")
    assert narrowed == [False]


def test_edges_have_features_only_where_they_are_read(model: JMP, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = JMP.read

    def noted(self: JMP, features: BlockFeatures) -> Any:
        asked.append(len(features.edge))
        return read(self, features)

    monkeypatch.setattr(JMP, "read", noted)
    batch = ethanol()
    for task in ("direct", "conservative"):
        model.predict(batch, task)
    model.trace(batch, None, ["conservative"])
    assert asked == [3, 0, 3]


def test_a_model_is_loaded_with_its_precision(model: JMP, tmp_path: Path) -> None:
    atomslim.save(model, tmp_path / "model.safetensors")
    plain, fast = (atomslim.load(tmp_path / "model.safetensors", precision=one) for one in (None, "fast"))
    batch = ethanol()
    energies = [one.predict(batch, "direct")["energy"] for one in (plain, fast)]
    assert not torch.equal(*energies)
    assert torch.equal(energies[1], plain.predict(batch, "direct", precision="fast")["energy"])
    assert torch.equal(energies[0], fast.predict(batch, "direct", precision="highest")["energy"])
    with pytest.raises(ConfigError, match="precision 'quick': there are highest"):
        atomslim.load(tmp_path / "model.safetensors", precision="quick")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the weights are float64"):
        atomslim.load(tmp_path / "model.safetensors", precision="fast", dtype=torch.float64)


def test_the_calculator_computes_in_its_precision(model: JMP) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.calc = atomslim.Calculator(model, task="direct", precision="fast")
    expected = model.predict(from_ase(atoms), "direct", precision="fast")["energy"]
    assert atoms.get_potential_energy() == float(expected)
    assert model.precision is None
    with pytest.raises(ConfigError, match="precision 'quick'"):
        atomslim.Calculator(model, task="direct", precision="quick")  # type: ignore[arg-type]


def test_predictions_for_files_have_a_precision(model: JMP, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atomslim.save(model, tmp_path / "model.safetensors")
    molecule("CH3CH2OH").write(tmp_path / "in.xyz")
    line = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "in.xyz"), "--task", "direct"]
    found = []
    for policy in ("highest", "fast"):
        assert main([*line, "-o", str(tmp_path / f"{policy}.extxyz"), "--precision", policy]) == 0
        found.append((tmp_path / f"{policy}.extxyz").read_text())
    assert found[0] != found[1]
    assert main([*line, "-o", str(tmp_path / "shards"), "--precision", "fast"]) == 0
    assert main([*line, "-o", str(tmp_path / "shards"), "--resume"]) == 1
    assert "precision was fast and is now highest" in capsys.readouterr().err
