"""Hand-over: what a block takes in after removed ones is mapped to what it took in before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import atomslim
from atomslim.atoms import from_ase
from atomslim.cli.main import main
from atomslim.compress.hand_over import after_gaps
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError
from atomslim.families.sevennet.model import SevenNet
from families.sevennet.package_models import calculator, checkpoint
from families.sevennet.small_sevennet import small
from small_models import CONSERVATIVE, jmp
from train.water import waters

EVEN = ("7x0e", "7x0e+4x1o+3x2e", "7x0e+4x1o+3x2e", "7x0e+4x1o+3x2e", "6x0e")


def model(**changes: Any) -> SevenNet:
    return small(irreps=EVEN, self_connection=("nequip", "linear", "nequip", "linear"), **changes)


def test_gaps_are_found_also_in_models_that_were_cut_before() -> None:
    full = model()
    assert after_gaps(keep_blocks(full, [2, 4]), full) == [2, 4]
    assert after_gaps(keep_blocks(full, [1, 2]), full) == []
    assert after_gaps(keep_blocks(full, [1, 4]), full) == [4]
    again = keep_blocks(full, [1, 3, 4])
    assert after_gaps(keep_blocks(again, [1, 4]), again) == [4]
    assert after_gaps(keep_blocks(again, [1, 3]), again) == []


@pytest.mark.parametrize("biases", [False, True])
def test_a_map_in_the_weights_is_a_map_of_what_the_block_takes_in(biases: bool) -> None:
    full, batch = model(biases=biases), from_ase(molecule("CH3Cl"))
    graph = full.topology(batch)
    torch.manual_seed(3)
    maps = {
        kind: torch.randn(x.shape[-1], x.shape[-1], dtype=torch.float64)
        for kind, x in full.block_inputs(batch, graph)[2].items()
    }
    block, state = full.blocks[2], full.block_inputs(batch, graph)[2]

    def mapped(_module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return ({kind: x @ maps[str(kind)] for kind, x in given[0].items()}, *given[1:])

    with block.register_forward_pre_hook(mapped):
        expected = full.predict(batch)
    full.map_block_input(2, maps)
    assert set(state) == {"0e", "1o", "2e"}
    for name, value in full.predict(batch).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)


def test_what_the_block_takes_in_comes_nearer_on_structures_that_were_not_fitted() -> None:
    full = model()
    plain = keep_blocks(full, [1, 3, 4])
    given = keep_blocks(full, [1, 3, 4], hand_over=True, calibration=waters(24), batch_size=4)
    batch = from_ase([sample.to_ase() for sample in waters(6, seed=5)])
    graph = full.topology(batch)
    with torch.no_grad():
        wanted = full.block_inputs(batch, graph)[2]
        before = plain.block_inputs(batch, graph)[1]
    fitted = {kind: x.clone() for kind, x in before.items()}
    blocks: list[Any] = [one.blocks[1] for one in (given, plain)]
    given_weight, plain_weight = (block.first.weights for block in blocks)
    for kind, weight in plain_weight.items():
        found = torch.linalg.lstsq(weight.detach().T, given_weight[kind].detach().T).solution.T
        fitted[kind] = before[kind] @ found
    errors = {kind: (float((before[kind] - x).norm()), float((fitted[kind] - x).norm())) for kind, x in wanted.items()}
    assert errors["0e"][1] < 0.7 * errors["0e"][0]
    (entry,) = given.history[-1]["hand-over"]
    assert entry["block"] == 3
    assert set(entry["after"]) == {"0e", "1o", "2e"}
    assert all(entry["after"][kind] >= entry["before"][kind] for kind in entry["after"])
    assert given.history[-1]["realign"] == "sliced"
    assert sum(p.numel() for p in given.parameters()) == sum(p.numel() for p in plain.parameters())


def test_where_nothing_is_gone_nothing_changes() -> None:
    full, batch = model(), from_ase(molecule("CH3Cl"))
    for kept in (4, 2):
        plain = keep_blocks(full, kept)
        given = keep_blocks(full, kept, hand_over=True, calibration=waters(4))
        for name, value in plain.predict(batch).items():
            assert torch.equal(value, given.predict(batch)[name])


def test_it_goes_back_to_the_package_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase.io import write

    checkpoint(tmp_path / "full.pth")
    write(tmp_path / "water.xyz", [sample.to_ase() for sample in waters(8)], format="extxyz")
    cut = ["-o", str(tmp_path / "small.safetensors"), "--keep", "1,3", "--export", str(tmp_path / "small.pth")]
    fit = ["--hand-over", "--realign", "least-squares-forces", "--data", f"xyz:{tmp_path / 'water.xyz'}"]
    assert main(["prune", str(tmp_path / "full.pth"), *cut, *fit]) == 0
    assert "hand-over to block 3: R² of values and slopes of 0e" in capsys.readouterr().out
    atoms = molecule("H2O")
    found = atomslim.load(tmp_path / "small.safetensors").predict(from_ase(atoms))
    atoms.calc = calculator(tmp_path / "small.pth")
    assert atoms.get_potential_energy() == pytest.approx(float(found["energy"]), abs=2e-5)
    np.testing.assert_allclose(atoms.get_forces(), found["forces"].numpy(), atol=2e-5)


def test_wrong_use_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sliced with hand-over needs calibration structures"):
        keep_blocks(model(), [1, 4], hand_over=True)
    with pytest.raises(ConfigError, match="JMP models have blocks with skip connections"):
        keep_blocks(jmp(CONSERVATIVE), 1, hand_over=True, calibration=waters(2))
    checkpoint(tmp_path / "full.pth")
    command = ["prune", str(tmp_path / "full.pth"), "-o", str(tmp_path / "small.safetensors")]
    assert main([*command, "--hand-over", "--cutoff", "3.5"]) != 0
    assert "--hand-over: needs removed blocks" in capsys.readouterr().err
