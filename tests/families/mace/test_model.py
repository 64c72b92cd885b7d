"""Small MACE models of the package beside its own calculator, and cuts of them."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

pytest.importorskip("families.mace.needed", exc_type=ImportError)

import atomslim
from atomslim.atoms import from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.errors import AtomslimWarning, ConfigError, StructureError
from atomslim.families.mace.model import MACE
from atomslim.families.mace.package import o3
from atomslim.models import BlockModel
from atomslim.models.graph import neighbour_vectors
from atomslim.testing import check_block_model, sample_structures
from families.mace.package_models import calculator, saved

pytestmark = pytest.mark.filterwarnings("ignore:.*Chebyshev")

DENSITY = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
}
NONLINEAR = {
    "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
    "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
    "readout_cls": "NonLinearBiasReadoutBlock",
    "use_agnostic_product": True,
    "apply_cutoff": False,
    "edge_irreps": "6x0e+6x1o",
}
MODELS: dict[str, dict[str, Any]] = {
    "two blocks": {},
    "density and repulsion": {
        **DENSITY,
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "atomic_inter_scale": [0.2],
        "correlation": 2,
    },
    "three blocks, two heads": {
        "num_interactions": 3,
        "heads": ["mp.r2scan", "other"],
        "hidden_irreps": "6x0e+6x1o+6x2e",
    },
    "nonlinear, two heads": {**NONLINEAR, "heads": ["a", "b"]},
    "residual, parity": {
        "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
        "hidden_irreps": "6x0e+6x0o+6x1o+6x1e",
        "correlation": 2,
        "distance_transform": "Soft",
        "radial_type": "gaussian",
    },
    "no scale, tanh": {
        "cls": "MACE",
        "gate": torch.tanh,
        "interaction_cls": "RealAgnosticInteractionBlock",
        "radial_type": "chebyshev",
        "distance_transform": "Agnesi",
    },
    "one block": {"num_interactions": 1, "correlation": [2]},
    "scalars, last readout only": {
        "hidden_irreps": "6x0e",
        "use_last_readout_only": True,
        "interaction_cls": "RealAgnosticAttResidualInteractionBlock",
        "correlation": 2,
    },
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mace")
    return {name: saved(folder / f"{index}.model", **made) for index, (name, made) in enumerate(MODELS.items())}


def structures() -> list[Atoms]:
    slab = fcc111("Na", (1, 1, 2), a=4.2, vacuum=6.0)
    slab.rattle(0.05, seed=2)
    thin = Atoms("NaCl", positions=[[0, 0, 0], [1.9, 0.1, 0]], cell=[3.9, 2.6, 3.2], pbc=True)
    return [*sample_structures(), slab, thin, bulk("Na", "bcc", a=3.6), Atoms("H", cell=[9, 9, 9], pbc=True)]


def differences(model: BlockModel, task: str, theirs: Any) -> tuple[float, float, float]:
    """Return the largest differences of energy per atom, forces and stress, structures together in one batch."""
    whole = structures()
    ours = model.predict(from_ase(whole), task)
    found, start = np.zeros(3), 0
    for index, atoms in enumerate(whole):
        atoms.calc = theirs
        forces = ours["forces"][start : start + len(atoms)].numpy()
        start += len(atoms)
        energy = abs(atoms.get_potential_energy() - float(ours["energy"][index])) / len(atoms)
        stress = 0.0
        if atoms.pbc.all():
            stress = np.abs(atoms.get_stress(voigt=False) - ours["stress"][index].numpy()).max()
        found = np.maximum(found, [energy, np.abs(atoms.get_forces() - forces).max(), stress])
    return float(found[0]), float(found[1]), float(found[2])


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_the_package(name: str, files: dict[str, Path]) -> None:
    model = atomslim.load(files[name])
    assert isinstance(model, MACE)
    heads = MODELS[name].get("heads", ["Default"])
    for task, head in zip(model.tasks, heads, strict=True):
        energy, forces, stress = differences(model, task, calculator(files[name], "float64", head=head))
        assert energy < 1e-12
        assert forces < 1e-11
        assert stress < 1e-12
    single = atomslim.load(files[name], dtype=torch.float32)
    energy, forces, stress = differences(
        single, next(iter(single.tasks)), calculator(files[name], "float32", head=heads[0])
    )
    assert energy < 5e-6
    assert forces < 2e-4
    assert stress < 3e-6


def test_functions_without_a_derivative_are_told(files: dict[str, Path]) -> None:
    with pytest.warns(AtomslimWarning, match=r"Chebyshev.*forces leave that part out"):
        atomslim.load(files["no scale, tanh"])


def test_a_thousand_atoms_in_float32(files: dict[str, Path]) -> None:
    """Beside the package in float64: in float32 it adds up a thousand energies in float32, and is 7e-6 eV/atom off."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (5, 5, 5)
    atoms.symbols[atoms.symbols == "Na"] = "O"
    atoms.rattle(0.1, seed=4)
    found = atomslim.load(files["one block"], dtype=torch.float32).predict(from_ase(atoms))
    atoms.calc = calculator(files["one block"], "float64")
    assert len(atoms) == 1000
    assert abs(atoms.get_potential_energy() - float(found["energy"])) / len(atoms) < 5e-6
    np.testing.assert_allclose(found["forces"], atoms.get_forces(), rtol=0, atol=2e-4)
    np.testing.assert_allclose(found["stress"][0], atoms.get_stress(voigt=False), rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", ["three blocks, two heads", "nonlinear, two heads", "density and repulsion"])
def test_it_is_a_block_model(name: str, files: dict[str, Path]) -> None:
    check_block_model(atomslim.load(files[name]))


@pytest.mark.parametrize("name", ["three blocks, two heads", "nonlinear, two heads", "residual, parity", "two blocks"])
def test_a_cut_is_the_model_with_zeros_for_what_is_missing(name: str, files: dict[str, Path]) -> None:
    model, batch = atomslim.load(files[name]), from_ase(sample_structures())
    whole = range(1, model.num_blocks + 1)
    for kept in (some for count in range(model.num_blocks) for some in combinations(whole, count)):
        cut = model.with_blocks(kept)
        found = cut.features(batch, cut.topology(batch, next(iter(cut.tasks)))).node
        for index, expected in enumerate(padded(model, kept, batch), start=1):
            assert torch.allclose(found[index], expected, rtol=1e-9, atol=1e-12)


def padded(model: Any, kept: tuple[int, ...], batch: Any) -> list[torch.Tensor]:
    """Run whole blocks on states that have zeros for irreps which the block before does not give."""
    graph = model.topology(batch, next(iter(model.tasks)))
    index = torch.stack([graph.source, graph.target])
    state, terms, _ = model.embedding(-neighbour_vectors(batch, graph), graph.kind, index)
    given, found = o3.Irreps([(model.config.width, (0, 1))]), []
    for block in kept:
        there = {entry.ir: part for entry, part in zip(given, given.slices(), strict=True)}
        wanted = o3.Irreps(model.config.blocks[block - 1].source)
        parts = [state[:, there[e.ir]] if e.ir in there else state.new_zeros(len(state), e.dim) for e in wanted]
        scalars, state = model.blocks[block - 1](torch.cat(parts, dim=1), terms)
        given = o3.Irreps(model.config.blocks[block - 1].out)
        found.append(scalars)
    return found


def test_a_cut_leaves_out_what_nothing_reads(files: dict[str, Path]) -> None:
    model: Any = atomslim.load(files["three blocks, two heads"])
    assert [block.out for block in model.with_blocks((1, 2)).config.blocks] == ["6x0e+6x1o+6x2e", "6x0e"]
    last = model.with_blocks((3,))
    assert [(block.source, block.out) for block in last.config.blocks] == [("6x0e", "6x0e")]
    count = sum(weight.numel() for weight in model.blocks[2].parameters())
    assert sum(weight.numel() for weight in last.blocks.parameters()) < count


def test_a_cut_drops_a_term_of_the_energy(files: dict[str, Path]) -> None:
    model: Any = atomslim.load(files["two blocks"])
    batch = from_ase(molecule("H2O"))
    features = model.features(batch, model.topology(batch))
    first = model.with_blocks((1,)).predict(batch)["energy"]
    head: Any = model.heads["Default"]
    task = model.task()
    raw = {"energy": head["energy"](model.readout[0](features.node[1]), None).sum()[None]}
    assert torch.allclose(first, model.physical_outputs(raw, task, batch)["energy"], rtol=1e-12)


def test_keeping_all_blocks_changes_no_bit(files: dict[str, Path]) -> None:
    model, batch = atomslim.load(files["two blocks"]), from_ase(sample_structures())
    same = model.with_blocks((1, 2))
    for name, values in model.predict(batch).items():
        assert torch.equal(same.predict(batch)[name].nan_to_num(), values.nan_to_num())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("three blocks, two heads", (2, 3)),
        ("nonlinear, two heads", (1,)),
        ("nonlinear, two heads", (2,)),
        ("density and repulsion", (1, 2)),
        ("residual, parity", (2,)),
    ],
)
def test_a_cut_model_runs_in_the_calculator_of_the_package(
    name: str, kept: tuple[int, ...], files: dict[str, Path], tmp_path: Path
) -> None:
    cut = keep_blocks(atomslim.load(files[name]), list(kept))
    atomslim.export(cut, tmp_path / "cut.model")
    for task in cut.tasks:
        energy, forces, stress = differences(cut, task, calculator(tmp_path / "cut.model", "float64", head=task))
        assert max(energy, forces, stress) < 1e-10
    again = atomslim.load(tmp_path / "cut.model")
    assert again.block_ids == kept
    batch, task = from_ase(sample_structures()), next(iter(cut.tasks))
    assert torch.allclose(again.predict(batch, task)["forces"], cut.predict(batch, task)["forces"], atol=1e-12)


def test_saved_cuts_come_back(files: dict[str, Path], tmp_path: Path) -> None:
    batch = from_ase(sample_structures()[2])
    model = keep_blocks(atomslim.load(files["three blocks, two heads"]), [1, 3])
    atomslim.save(model, tmp_path / "cut.safetensors")
    again = atomslim.load(tmp_path / "cut.safetensors")
    assert again.block_ids == (1, 3)
    assert list(again.tasks) == ["mp_r2scan", "other"]
    assert torch.equal(again.predict(batch, "other")["forces"], model.predict(batch, "other")["forces"])


def test_an_unknown_element_and_another_cutoff_are_refused(files: dict[str, Path]) -> None:
    model = atomslim.load(files["two blocks"])
    with pytest.raises(StructureError, match="structure 1: the model does not know Au"):
        model.topology(from_ase([molecule("H2O"), Atoms("Au")]))
    with pytest.raises(ConfigError, match="that of a MACE model is part of it"):
        model.family.check_graph(model, model.task().graph.model_copy(update={"cutoff": 3.0}))  # type: ignore[union-attr]
