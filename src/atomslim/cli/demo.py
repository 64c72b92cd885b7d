"""`atomslim demo`: the tools on a small model, from information to a relaxation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from ase import Atoms

    from atomslim.models import JMP

UNTRAINED = "This model is UNTRAINED: its weights are random, and none of the energies and forces below mean anything."


def demo(*, folder: Annotated[Path, Parameter(name=["--folder", "-o"])] = Path("demo")) -> None:
    """Show information, prediction, a cut and a relaxation on a small untrained model, made on the spot.

    Example: atomslim demo --folder demo

    Parameters
    ----------
    folder
        Where the models, structures and predictions are written.

    """
    from rich.console import Console

    from atomslim import keep_blocks, save
    from atomslim.measure.describe import describe
    from atomslim.memory import keep_freed_memory
    from atomslim.use.predict import predict_file

    keep_freed_memory()
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    full_path, small_path = folder / "untrained.safetensors", folder / "untrained-2-blocks.safetensors"

    console.rule("a model")
    console.print(UNTRAINED, style="bold yellow")
    model = _untrained_model()
    save(model, full_path)
    console.rule(f"atomslim info {full_path}")
    console.print(describe(full_path))

    structures, predicted = folder / "structures.extxyz", folder / "predicted.extxyz"
    _write_structures(structures)
    console.rule(f"atomslim predict {full_path} {structures} -o {predicted}")
    console.print(f"{predicted}: {predict_file(full_path, structures, predicted)}")

    console.rule("atomslim.keep_blocks(model, 2)")
    small = keep_blocks(model, 2)
    save(small, small_path)
    _compare(console, {"4 blocks": model, "2 blocks": small})

    console.rule("a relaxation with each of them")
    for name, one in {"4 blocks": model, "2 blocks": small}.items():
        console.print(f"{name}: {_relax(one)}")
    console.rule()
    console.print(f"Models, structures and predictions are in {folder}/.")
    console.print(UNTRAINED, style="bold yellow")


def _untrained_model() -> "JMP":
    """Return a small JMP with conservative forces whose scale factors are fitted, as before training from scratch."""
    import torch

    from atomslim import from_ase
    from atomslim.models import JMP, energy_and_forces, jmp_s
    from atomslim.models.gemnet_oc.scaling import fit_scale_factors

    torch.manual_seed(0)
    sizes = jmp_s(emb_size_atom=64, emb_size_edge=128, direct_forces=False)
    model = JMP(sizes, [energy_and_forces("untrained", forces="conservative")]).eval()
    batch = from_ase(_structures())
    fit_scale_factors(model, batch, model.topology(batch))
    return model


def _structures() -> "list[Atoms]":
    from ase.build import bulk, fcc111, molecule

    structures = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH3CONH2", "CO2")]
    structures += [fcc111("Cu", (2, 2, 3), vacuum=8), bulk("MgO", "rocksalt", a=4.21, cubic=True)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    return structures


def _write_structures(path: Path) -> None:
    from ase.io.extxyz import write_extxyz

    from atomslim.files import atomic_write

    structures = _structures()
    for atoms in structures:
        atoms.info = {}
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        write_extxyz(file, structures)


def _compare(console: object, models: "dict[str, JMP]") -> None:
    """Print parameters and time per step of each model."""
    from rich.table import Table

    table = Table("model", "blocks", "parameters", "ms per energy and forces")
    for name, model in models.items():
        parameters = sum(parameter.numel() for parameter in model.parameters())
        blocks = ", ".join(map(str, model.block_ids))
        table.add_row(name, blocks, f"{parameters:,}", f"{1000 * _seconds_per_step(model):.0f}")
    console.print(table)  # type: ignore[attr-defined]


def _seconds_per_step(model: "JMP", repeats: int = 5) -> float:
    from statistics import median
    from time import perf_counter

    from ase.build import molecule

    from atomslim import from_ase

    batch = from_ase(molecule("C6H6"))
    topology = model.topology(batch)
    times = []
    for _ in range(repeats + 1):
        start = perf_counter()
        model.predict(batch, topology=topology)
        times.append(perf_counter() - start)
    return median(times[1:])


def _relax(model: "JMP") -> str:
    import numpy as np
    from ase.build import molecule
    from ase.optimize import FIRE

    from atomslim import Calculator

    ethanol = molecule("CH3CH2OH")
    ethanol.calc = Calculator(model)
    before = ethanol.get_potential_energy()
    optimiser = FIRE(ethanol, logfile=None, maxstep=0.02)
    optimiser.run(fmax=0.02, steps=40)
    force = float(np.abs(ethanol.get_forces()).max())
    change = ethanol.get_potential_energy() - before
    return f"ethanol, {optimiser.nsteps} steps, energy {change:+.3f} eV, largest force {force:.3f} eV/Å"
