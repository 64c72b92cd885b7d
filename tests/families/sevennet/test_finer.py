"""What is finer than blocks in SevenNet models: degrees of irreps, and the cutoff."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import atomslim
from atomslim.atoms import Sample, from_ase
from atomslim.cli.main import main
from atomslim.compress.cutoff import with_cutoff
from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance import batch_scores
from atomslim.errors import ConfigError
from atomslim.evaluation.batches import batches
from atomslim.families.sevennet.model import SevenNet
from atomslim.models.losses import task_terms
from atomslim.testing import check_block_model
from families.sevennet.package_models import calculator, checkpoint
from families.sevennet.small_sevennet import small
from small_models import DIRECT, jmp


def test_degrees_are_units() -> None:
    full = small()
    assert full.fine_units == ("l 1", "l 2")
    flat = keep_blocks(full, 3, without=["l 2"])
    assert flat.fine_units == ("l 1",)
    assert flat.config.irreps == ("6x0e", "7x0e+4x1o", "8x0e+2x0o+5x1o+3x1e", "6x0e")
    assert flat.config.lmax_edge == 1
    assert flat.history[-1]["without"] == ["l 2"]
    scalars = full.without_units(["l 2", "l 1"])
    assert scalars.config.irreps == ("6x0e", "7x0e", "8x0e", "6x0e")
    assert not scalars.fine_units
    with pytest.raises(ConfigError, match="no unit 'l 3' to leave out: the model has l 1, l 2"):
        full.without_units(["l 3"])
    check_block_model(flat)


def test_leaving_a_degree_out_is_zero_weights_for_it() -> None:
    full, batch = small(), from_ase(molecule("CH3Cl"))
    without = full.without_units(["l 2"])
    with torch.no_grad():
        blocks: list[Any] = list(full.blocks)
        for index, block in enumerate(blocks):
            for name in ("connection", "first", "second"):
                for kind, weight in getattr(block, name).weights.items():
                    if kind.startswith("2"):
                        weight.zero_()
            start = 0
            for path in block.convolution.paths:
                if path.edge.l == 2:  # it makes messages of lower degrees, too
                    block.convolution.last[:, start : start + path.channels] = 0
                start += path.channels
            assert start == block.convolution.last.shape[1], index
    for name, value in full.predict(batch).items():
        torch.testing.assert_close(without.predict(batch)[name], value, rtol=1e-10, atol=1e-10)


def test_scores_of_degrees_turn_with_nothing() -> None:
    full, atoms = small(), molecule("CH3Cl")
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3))
    scores = []
    for one in (atoms, turned):
        sample = Sample.create(one.numbers, one.positions, {"energy": 1e3})
        batch = next(batches(full, "potential", [sample], 1))
        scores.append(batch_scores(full, batch, task_terms(full.task())))
    for name in ("gradcam", "taylor"):
        first, second = (found[name]["unit"] for found in scores)
        assert first.shape == (2,)
        assert float(first[0]) > float(first[1]) > 0  # "l 1" has those above it, too
        torch.testing.assert_close(first, second, rtol=1e-8, atol=0)


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize(("unit", "cutoff"), [("l 2", None), ("l 1", None), (None, 3.2), ("l 2", 3.2)])
def test_what_is_left_runs_in_the_packages_calculator(
    unit: str | None, cutoff: float | None, parity: bool, tmp_path: Path
) -> None:
    full = atomslim.load(checkpoint(tmp_path / "full.pth", is_parity=parity))
    cut = full if unit is None else keep_blocks(full, 3, without=[unit])
    cut = cut if cutoff is None else with_cutoff(cut, cutoff)
    atomslim.export(cut, tmp_path / "cut.pth")
    atoms = molecule("CH3Cl")
    found = cut.predict(from_ase(atoms))
    atoms.calc = calculator(tmp_path / "cut.pth")
    assert atoms.get_potential_energy() == pytest.approx(float(found["energy"]), abs=2e-5)
    np.testing.assert_allclose(atoms.get_forces(), found["forces"].numpy(), atol=2e-5)


@pytest.mark.parametrize("envelope", [{}, {"envelope": "XPLOR", "envelope_onset": 3.5}])
def test_a_shorter_cutoff_has_no_step(envelope: dict[str, Any]) -> None:
    full = small(**envelope)
    near = with_cutoff(full, 3.0)
    assert near.task().graph.cutoff == near.config.cutoff == 3.0
    check_block_model(near)

    def energies(model: SevenNet, distances: list[float]) -> list[float]:
        pairs = [Atoms("OH", positions=[[0, 0, 0], [0, 0, distance]]) for distance in distances]
        return model.predict(from_ase(pairs))["energy"].tolist()

    inside, outside, far = energies(near, [3 - 1e-4, 3 + 1e-4, 9.0])
    assert inside == pytest.approx(outside, abs=1e-7)
    assert outside == far
    assert energies(near, [2.9]) != energies(full, [2.9])
    assert energies(full, [3.2])[0] != pytest.approx(far, abs=1e-6)
    weight = near.blocks[0].get_parameter("convolution.hidden.0")
    torch.testing.assert_close(weight, full.blocks[0].get_parameter("convolution.hidden.0") * 0.75)


def test_the_radial_basis_is_the_same_but_for_its_envelope() -> None:
    full = small()
    near, distance = with_cutoff(full, 3.0), torch.linspace(0.5, 2.9, 7, dtype=torch.float64)
    fade = full.radial._envelope(distance)[:, None], near.radial._envelope(distance)[:, None]
    torch.testing.assert_close(near.radial(distance) * 0.75 / fade[1], full.radial(distance) / fade[0])


def test_wrong_cutoffs_are_said() -> None:
    with pytest.raises(ConfigError, match="give one between 0 and 4 Å"):
        with_cutoff(small(), 4.0)
    with pytest.raises(ConfigError, match="give one between 0 and 4 Å"):
        with_cutoff(small(), float("nan"))
    with pytest.raises(ConfigError, match="JMP models cannot be given another cutoff"):
        with_cutoff(jmp(DIRECT), 5.0)


def test_the_command_line_cuts_degrees_and_cutoff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "full.pth")
    given = [str(tmp_path / "full.pth"), "-o", str(tmp_path / "small.safetensors")]
    assert main(["prune", *given, "--without", "l 2", "--cutoff", "3.5", "--export", str(tmp_path / "small.pth")]) == 0
    printed = capsys.readouterr().out
    assert "without l 2" in printed
    assert "cutoff: potential 4 → 3.5 Å" in printed
    again = atomslim.load(tmp_path / "small.safetensors")
    assert again.task().graph.cutoff == 3.5
    assert [entry["operation"] for entry in again.history][1:] == ["keep blocks", "shorten cutoff"]
    assert main(["prune", *given, "--force", "--cutoff", "4.5"]) != 0
    assert "give one between 0 and 4" in capsys.readouterr().err
