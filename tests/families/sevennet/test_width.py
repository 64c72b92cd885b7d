"""SevenNet models with fewer channels of each degree."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

pytest.importorskip("sevenn", reason="needs the extra sevennet")

from ase.build import molecule

import atomslim
from atomslim.atoms import Sample, from_ase
from atomslim.compress.cheapest import cheapest
from atomslim.compress.cuts import Cut
from atomslim.errors import ConfigError
from atomslim.families.sevennet.model import SevenNet
from atomslim.models.family import family_of
from atomslim.models.modes import parameter_count
from atomslim.testing import check_block_model
from families.sevennet.small_sevennet import small

WAYS: tuple[Literal["sliced", "least-squares-forces"], ...] = ("sliced", "least-squares-forces")
NAMES = ("CH3CH2OH", "H2O2", "CH3OCH3", "CH3Cl")


def samples() -> list[Sample]:
    """Some molecules away from their minima."""
    found = []
    for number in range(12):
        atoms = molecule(NAMES[number % len(NAMES)])
        atoms.rattle(0.1, seed=number)
        found.append(Sample.from_ase(atoms, {}))
    return found


def predicted(model: SevenNet) -> dict[str, torch.Tensor]:
    return model.predict(from_ase([sample.to_ase() for sample in samples()[:3]]))


def test_a_permutation_of_channels_changes_nothing() -> None:
    full = small()
    of = family_of(full)
    sizes = of.channels(full).sizes
    other = of.narrowed(full, {stream: torch.randperm(size) for stream, size in sizes.items()})
    one, two = predicted(full), predicted(other)  # type: ignore[arg-type]
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-9, atol=1e-9)
    cuts = [atomslim.narrow(model, {"l0": 4, "l1": 2}, samples()) for model in (full, other)]
    one, two = (predicted(cut) for cut in cuts)  # type: ignore[arg-type]
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-5, atol=1e-6)


def test_channels_go_by_degree_and_nothing_changes_where_none_do(tmp_path: Path) -> None:
    full = small()
    same = atomslim.narrow(full, {"l0": 8, "l1": 5}, samples())
    for name, values in predicted(full).items():
        assert torch.equal(predicted(same)[name], values)
    cut = atomslim.narrow(full, {"l0": 5, "l1": 3, "lmax": 1}, samples())
    assert cut.config.irreps == ("5x0e", "5x0e+3x1o", "5x0e+2x0o+3x1o+3x1e", "6x0e")
    assert cut.config.lmax_edge == 1
    entry = cut.history[-1]
    assert entry["widths before"] == {"l0": 8, "l1": 5, "l2": 3, "lmax": 2}
    assert entry["widths after"] == {"l0": 5, "l1": 3, "l2": 0, "lmax": 1}
    check_block_model(cut)
    cut = cut.float()
    atomslim.save(cut, tmp_path / "cut.safetensors")
    again = atomslim.load(tmp_path / "cut.safetensors")
    atomslim.export(cut, tmp_path / "cut.pth")
    theirs = atomslim.load(tmp_path / "cut.pth")
    for name, values in predicted(cut).items():
        torch.testing.assert_close(predicted(again)[name], values, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]
        torch.testing.assert_close(predicted(theirs)[name], values, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def test_a_readout_fitted_to_forces_is_nearer_to_the_full_model() -> None:
    full = small()
    given: dict[str, Any] = {"limit": 6, "batch_size": 2}
    wanted = predicted(full)["forces"]
    cuts = [atomslim.narrow(full, {"l0": 5, "l1": 3}, samples(), realign=way, **given) for way in WAYS]
    sizes = [(predicted(cut)["forces"] - wanted).square().mean().sqrt() for cut in cuts]
    assert sizes[1] < 0.97 * sizes[0]
    fitted = cuts[1].history[-1]
    assert fitted["realign"] == "least-squares-forces"
    assert fitted["force fit"]["after"]["forces"] < fitted["force fit"]["before"]["forces"]
    whole = Cut(full.block_ids, widths=(("l0", 5), ("l1", 3)))
    same = whole.of(full, samples(), realign=WAYS[1], calibration=samples(), **given)
    assert [entry["operation"] for entry in same.history] == ["keep blocks", "narrow"]
    torch.testing.assert_close(predicted(same)["forces"], predicted(cuts[1])["forces"])


def test_a_channel_that_others_make_up_goes_for_nothing() -> None:
    full = small(irreps=("6x0e", "4x0e+4x1o+3x2e", "6x0e"), self_connection=("nequip", "linear"))
    with torch.no_grad():
        full.embedding.weight[:, 5] = full.embedding.weight[:, 0] - 2 * full.embedding.weight[:, 3]
        first = full.get_parameter("blocks.0.first.weights.0e")
        first[:, 5] = first[:, 1] + first[:, 2]
        last = full.get_parameter("blocks.0.convolution.last")
        for path in range(3):  # from scalars to each degree: as if of one distance
            for channel in (2, 5):
                last[:, 6 * path + channel] = last[:, 6 * path + 1]
    cut = atomslim.narrow(full, {"l0": 5}, samples())
    assert cut.config.irreps == ("5x0e", "4x0e+4x1o+3x2e", "6x0e")
    before, after = predicted(full), predicted(cut)
    torch.testing.assert_close(after["energy"], before["energy"], rtol=1e-4, atol=1e-4)


def test_channels_are_chosen_beside_degrees_and_blocks() -> None:
    full = small()
    size = int(0.7 * parameter_count(full))
    choice = cheapest(full, samples(), size=size, axes=("units", "widths"), limit=12)
    assert {"l0", "l1", "l2", "l 2"} <= {one.name.split(" channels")[0] for one in choice.tried}
    cut = choice.apply(full, samples(), limit=12)
    assert parameter_count(cut) == choice.count <= size
    gone = Cut(full.block_ids, ("l 2",), widths=(("l1", 3), ("l2", 2)))
    assert family_of(full).widths(gone.of(full, samples())) == {"l0": 8, "l1": 3, "lmax": 1}


def test_wrong_widths_are_said() -> None:
    full = small()
    with pytest.raises(ConfigError, match="no width 'edge': the model has l0 8, l1 5, l2 3, lmax 2"):
        atomslim.narrow(full, {"edge": 4}, samples())
    with pytest.raises(ConfigError, match="width l1 9: give a whole number from 1 to 5"):
        atomslim.narrow(full, {"l1": 9}, samples())
    with pytest.raises(ConfigError, match="above lmax 1"):
        atomslim.narrow(full, {"l2": 2, "lmax": 1}, samples())
    with pytest.raises(ConfigError, match="leave sweeps out"):
        atomslim.narrow(full, {"l1": 2}, samples(), sweeps=1)
