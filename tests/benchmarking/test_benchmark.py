import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule

import atomslim
from atomslim.atoms import from_ase
from atomslim.benchmarking.benchmark import benchmark
from atomslim.benchmarking.costs import Benchmark
from atomslim.benchmarking.passes import CLIP, Job, Mode
from atomslim.benchmarking.speed import Speed, count_flops, measure_jobs
from atomslim.benchmarking.stages import REST, stage_seconds
from atomslim.benchmarking.turns import Gain, half_range
from atomslim.cli.main import main
from atomslim.errors import AtomslimError, ConfigError
from atomslim.models import precision
from atomslim.report.page import number
from samples import CONSERVATIVE, DIRECT
from small_models import jmp

WATER = {"water": molecule("H2O")}


def test_every_cut_mode_and_precision_has_a_row() -> None:
    model = jmp(DIRECT, num_blocks=1).float()
    modes: tuple[Mode, ...] = ("energy", "train")
    found = benchmark(model, WATER, blocks=(1, 0), modes=modes, precisions=("fp32", "bf16"), repeats=1)
    assert len(found.rows) == 8
    by = {(row.blocks, row.mode, row.precision): row for row in found.rows}
    for mode in modes:
        assert by[0, mode, "fp32"].speed.flops < by[1, mode, "fp32"].speed.flops
        assert by[1, mode, "fp32"].speed.flops == by[1, mode, "bf16"].speed.flops
    assert by[1, "energy", "fp32"].parameters == sum(weight.numel() for weight in model.parameters())
    assert all(sum(row.stages.values()) == pytest.approx(1.0) for row in found.rows)
    assert dict(zip(found.tables()[0].columns, found.tables()[0].rows[0], strict=True))["speed-up"] == "1.00 ×"


def test_batches_and_single_structures_are_measured_apart() -> None:
    (row,) = benchmark(jmp(DIRECT, num_blocks=0), WATER, repeats=1, batch_size=3).rows
    assert (row.speed.structures, row.step.structures) == (3, 1)
    assert (row.speed.atoms, row.step.atoms) == (9, 3)
    assert row.speed.edges == 3 * row.step.edges


def test_passes_that_a_task_or_the_device_forbids_are_noted() -> None:
    model = jmp(CONSERVATIVE, num_blocks=0).float()
    found = benchmark(
        model, WATER, modes=["train", "forces"], precisions=["highest", "high", "tf32", "fast"], repeats=1
    )
    assert [(row.mode, row.precision) for row in found.rows] == [
        ("train", "fp32"),
        ("forces", "fp32"),
        ("forces", "bf16"),
    ]
    assert found.notes[0] == "train in tf32 is left out: this CPU has no tf32 arithmetic."
    assert found.notes[1].startswith("train in fast is left out: derivatives need a wider format")
    assert found.notes[0] in list(found.words())


def test_energies_cost_nothing_that_only_forces_need() -> None:
    direct, plain = jmp(DIRECT, num_blocks=1), jmp(CONSERVATIVE, num_blocks=1, direct_forces=False)
    batch = from_ase(molecule("CH3CH2OH"))
    models = {"direct": direct, "conservative": plain}
    runs = [Job(model, task, "energy").on(batch, model.topology(batch)) for task, model in models.items()]
    assert count_flops(runs[0]) == count_flops(runs[1])
    everything = Job(direct, "direct", "forces").on(batch, direct.topology(batch))
    assert count_flops(everything) > 1.1 * count_flops(runs[0])


def test_a_training_step_clips_and_has_an_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    model = jmp(DIRECT, num_blocks=1).float()
    batch = from_ase(molecule("H2O"))
    norms: list[float] = []

    def step(optimiser: torch.optim.AdamW) -> None:
        gradients = [weight.grad for group in optimiser.param_groups for weight in group["params"]]
        norms.append(float(sum(grad.square().sum() for grad in gradients if grad is not None) ** 0.5))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    Job(model, "direct", "train").on(batch, model.topology(batch))()
    assert norms == [pytest.approx(CLIP, rel=1e-3)]


def test_a_training_step_in_fp16_scales_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_fp16", lambda: True)
    model = jmp(DIRECT, num_blocks=0).float()
    batch = from_ase(molecule("H2O"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scaled: list[torch.dtype] = []
    scale = torch.amp.GradScaler.scale

    def noted(scaler: torch.amp.GradScaler, loss: torch.Tensor) -> Any:
        scaled.append(loss.dtype)
        assert scaler.is_enabled()
        return scale(scaler, loss)

    monkeypatch.setattr(torch.amp.GradScaler, "scale", noted)
    run = Job(model, "direct", "train", "fp16").on(batch, model.topology(batch))
    run()
    run()
    assert scaled == [torch.float32] * 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_that_are_not_finite_are_said() -> None:
    model = jmp(DIRECT, num_blocks=1)
    batch = from_ase(molecule("H2O"))
    run = Job(model, "direct", "train").on(batch, model.topology(batch))
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(AtomslimError, match="not finite: check the model's weights"):
        run()


def test_a_task_without_forces_is_measured_by_its_numbers() -> None:
    model = jmp(DIRECT.model_copy(update={"targets": DIRECT.targets[:1]}), num_blocks=1)
    assert [row.mode for row in benchmark(model, WATER, repeats=1).rows] == ["energy"]
    with pytest.raises(
        ConfigError, match="nothing to measure: forces in highest is left out: task direct has no forces"
    ):
        benchmark(model, WATER, modes=["forces"], repeats=1)


@pytest.mark.parametrize("mode", ["energy", "forces", "train"])
def test_passes_leave_the_model_as_it_was(mode: Mode) -> None:
    model = jmp(CONSERVATIVE, num_blocks=1)
    batch = from_ase(molecule("H2O"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Job(model, "conservative", mode).on(batch, model.topology(batch))()
    assert not model.training
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_needs_something_to_train() -> None:
    model = jmp(DIRECT, num_blocks=1).requires_grad_(False)
    with pytest.raises(ConfigError, match="all weights of the model are frozen"):
        benchmark(model, WATER, modes=["train"], repeats=1)


def test_stages_add_up_and_leave_no_hooks() -> None:
    model = jmp(DIRECT, num_blocks=2)
    batch = from_ase(molecule("H2O"))
    seconds = stage_seconds(model, Job(model, "direct").on(batch, model.topology(batch)), torch.device("cpu"))
    assert list(seconds) == ["embedding", "blocks", "readout", "heads", REST]
    assert all(part > 0 for part in seconds.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_growing_cells_give_the_power_of_growth() -> None:
    found = benchmark(jmp(DIRECT, num_blocks=0), WATER, repeats=1, growing=128)
    assert [cell.atoms for cell in found.growth] == [64, 144]
    assert found.exponent is None  # one repeat shows no spread
    assert "not reported: the machine was busy" in list(found.words())[-1]
    growth = [timed(cell, [scale] * 5) for cell, scale in zip(found.growth, (1.0, (144 / 64) ** 1.5), strict=True)]
    steady = replace(found, growth=tuple(growth))
    assert steady.exponent == pytest.approx(1.5)
    assert "the power 1.50 of the number of atoms (1 is linear)" in list(steady.words())[-1]
    assert Benchmark("a", "b", (), (), ()).exponent is None


def timed(speed: Speed, times: list[float]) -> Speed:
    """The same with made-up times of a pass whose graphs take as long again."""
    same: dict[str, Any] = {"times": tuple(times), "graph_times": tuple(times)}
    return replace(speed, seconds=min(times), graph_seconds=min(times), spread=half_range(times), **same)


def test_a_speed_up_is_claimed_only_of_steady_times() -> None:
    found = benchmark(jmp(DIRECT, num_blocks=1), WATER, blocks=(1, 0), repeats=1)
    whole, cut = found.rows
    times = {True: [1.0, 1.01, 1.0, 1.02, 1.0], False: [1.0, 9.0, 1.2, 7.0, 3.0]}
    for steady, after in times.items():
        rows = (replace(whole, speed=timed(whole.speed, [2.0] * 5)), replace(cut, speed=timed(cut.speed, after)))
        made = replace(found, rows=rows)
        shown = [row[-5] for row in made.tables()[0].rows]
        assert shown[0] == "1.00 ×"
        assert shown[1].startswith("2.00 ×" if steady else "unclear (±")
        said = " ".join(made.words())
        assert ("1 of 2 speed-ups are not reported: the machine was busy" in said) is not steady
        flops = whole.speed.flops / cut.speed.flops
        assert (f"FLOPs suggest {flops:.2f} ×." in said) is not steady


def test_models_of_one_architecture_share_one_time() -> None:
    first, second, cut = (jmp(DIRECT, num_blocks=count, seed=seed) for count, seed in ((1, 0), (1, 1), (0, 0)))
    found = measure_jobs(
        {"a": Job(first, "direct"), "b": Job(second, "direct"), "c": Job(cut, "direct")}, [WATER["water"]]
    )
    assert found["a"] is found["b"]
    assert found["a"] is not found["c"]
    assert found["a"].gain(found["b"]) == Gain(1.0, 1.0, 0.0, 1.0)


def test_the_command_writes_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atomslim.save(jmp(DIRECT, num_blocks=1), tmp_path / "model.safetensors")
    molecule("H2O").write(tmp_path / "water.xyz")
    line = ["benchmark", str(tmp_path / "model.safetensors"), "--structures", str(tmp_path / "water.xyz")]
    assert main([*line, "--blocks", "1,0", "--repeats", "1", "-o", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [row["blocks"] for row in content["rows"]] == [1, 0]
    assert content["machine"] in (tmp_path / "out" / "benchmark.md").read_text()
    assert "multiply and add" in content["conventions"]
    assert "benchmark.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "7"], "7 blocks: the model has 1"),
        (["--blocks", "six"], "write whole numbers with commas"),
        (["--mode", "fast"], "mode 'fast': choose from energy, forces, train"),
        (["--precision", "8"], "precision '8': choose from highest, high, fast, fp32"),
        (
            ["--precision", "tf32"],
            "nothing to measure: forces in tf32 is left out: the weights are float64, not float32",
        ),
        (["--largest", "much"], "--largest much: write an amount of memory, as in 16GiB"),
        (["--largest", "0"], "largest 0 bytes: "),
        (["--largest", "1e18"], "bytes are free: give no more than that"),
        (["--structures", "mof6"], "one of mof5, aspirin"),
        (["--structures", ","], "no structures to measure on"),
        (["--task", "other"], "unknown task 'other'"),
    ],
)
def test_wrong_use_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atomslim.save(jmp(DIRECT, num_blocks=1), tmp_path / "model.safetensors")
    assert main(["benchmark", str(tmp_path / "model.safetensors"), *options]) == 1
    assert message in capsys.readouterr().err


def test_numbers_have_no_exponent() -> None:
    shown = [number(value) for value in (0.0, 0.000123456, 0.98765, 9.9, 14000.3, float("nan"))]
    assert shown == ["0", "0.000123", "0.988", "9.90", "14,000", "nan"]
