"""Packages: one task of a model, compiled by AOTInductor to run without Python, or at least without this one.

A package is one ``.pt2`` file: machine code, weights, and an entry of metadata, ``atomslim``, that describes inputs and
outputs in JSON (see `atomslim.inference.program`). It is written only if it agrees with the model.
"""

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from torch import Tensor

from atomslim import __version__
from atomslim.arguments import checked
from atomslim.atoms import find_pairs, from_ase
from atomslim.errors import AtomslimError, ConfigError
from atomslim.files import atomic_write
from atomslim.inference.calculator import energy_target, ready
from atomslim.inference.compiler import compiler_failure, require_compiler
from atomslim.inference.program import INPUTS, OUTPUTS, Program, inputs_of, traced
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.modes import evaluating, without_parameter_gradients

ENTRY = "atomslim"
"""Name of our entry in a package's metadata."""

FORMAT = 2
"""Increased when programs that run packages have to change."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Tolerance of a package relative to the largest number (or 1 eV, 1 eV/Å), by dtype of the weights."""

ROUNDINGS = 4
"""Additional tolerance in units of the model's own rounding, its difference from float64."""

REFUSED = "it is not written; use the model itself, or another version of torch"

Run = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Deviations:
    """The largest deviations of a package from its model over all structures that both were given."""

    structures: int
    energy: float
    """eV."""
    forces: float
    """eV/Å."""


@checked
def package(
    model: BlockModel | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Deviations:
    """Compile one task of a model, its energy and forces, into a package for C++ and other programs.

    The package works for any number of atoms, in molecules and periodic cells. Before it is written, it is run on
    structures of 1 to 60 atoms and compared with the model.

    Args:
        model: a model of a family that can be packaged, or what `atomslim.load` takes.
        output: the ``.pt2`` file to write.
        task: the task to use; needed if the model has several.
        device: where the package runs; default: the model's device.
        dtype: of the weights; default: unchanged.

    Returns:
        The differences between package and model.

    Raises:
        ConfigError: an unknown task or one without energies in eV or forces, a model of a family that cannot be
            packaged, a name that does not end in ``.pt2``, a device that is not available, no C++ compiler that works.
        CheckpointError: a model file that cannot be read.
        AtomslimError: a compiler that fails, or a package that disagrees with the model; no file is written.

    """
    if Path(output).suffix != ".pt2":
        raise ConfigError(f"{output}: a package ends in .pt2: give it that ending")
    model = ready(model, device, dtype)
    program = _program(model, task)
    require_compiler()
    with atomic_write(output) as temporary, tempfile.TemporaryDirectory() as folder, evaluating(model):
        path = compiled(program, Path(folder) / "package.pt2")
        found = deviations(program, torch._inductor.aoti_load_package(str(path)))  # noqa: SLF001 - its documented name
        shutil.copyfile(path, temporary)
    return found


def compiled(program: Program, path: Path) -> Path:
    """Compile a program into a package at ``path``, unchecked; raises AtomslimError where the compiler fails."""
    on_cpu = next(program.model.parameters()).device.type == "cpu"
    options = {"aot_inductor.metadata": {ENTRY: json.dumps(description(program))}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of torch
        with without_parameter_gradients(program.model):
            exported = traced(program)
        with _plain_scatters() if on_cpu else nullcontext():
            try:
                torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its documented name
                    exported, package_path=str(path), inductor_configs=options
                )
            except RuntimeError as error:
                raise AtomslimError(f"{compiler_failure(error)}: nothing is written") from error
    return path


@contextmanager
def _plain_scatters() -> Iterator[None]:
    """Let compiled programs call torch's own kernels for sums at indices, as they do where results must repeat.

    Inductor's C++ for them (torch 2.13) adds numbers at wrong offsets where it transposes on the way, and does not
    compile for a single structure.
    """
    before, only_warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warn)


def description(program: Program) -> dict[str, Any]:
    """Return a package's metadata: inputs, outputs, the task with its graphs, versions, history."""
    weight = next(program.model.parameters())
    outputs = dict(list(OUTPUTS.items())[: 3 if program.task.conservative else 2])
    return {
        "format": FORMAT,
        "inputs": [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in INPUTS.items()],
        "outputs": [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in outputs.items()],
        "forces": "conservative" if program.task.conservative else "direct",
        "cutoff": program.task.graph.cutoff,
        "neighbours": program.task.graph.neighbours,
        "family": family_of(program.model).name,
        "task": program.task.model_dump(mode="json"),
        "device": weight.device.type,
        "weights": str(weight.dtype).removeprefix("torch."),
        "blocks": list(program.model.block_ids),
        "history": program.model.history,
        "versions": {"atomslim": __version__, "torch": torch.__version__},
    }


def deviations(program: Program, run: Run) -> Deviations:
    """Compare a package with its model; raises AtomslimError if they disagree."""
    found = [_deviation(program, run, atoms) for atoms in structures()]
    return Deviations(len(found), max(energy for energy, _ in found), max(forces for _, forces in found))


def structures() -> Iterator[Atoms]:
    """Molecules, crystals and a slab with an adsorbate, of different sizes, none at rest."""
    slab = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    add_adsorbate(slab, "O", 1.6)
    slab.set_tags([0] * 8 + [1] * 4 + [2])
    molecules = [molecule(name) for name in ("H2", "H2O", "CH3CH2OH", "C6H6", "C60")]
    for atoms in (*molecules, bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6, cubic=True), slab):
        atoms.rattle(0.05, seed=len(atoms))
        yield atoms


def _deviation(program: Program, run: Run, atoms: Atoms) -> tuple[float, float]:
    """Return the deviations of energy and forces for one structure; raises AtomslimError where they are too large."""
    weight = next(program.model.parameters())
    batch = from_ase(atoms).to(weight.device)
    pairs = find_pairs(batch, program.task.graph.cutoff + 0.3)  # a list for dynamics also has pairs beyond the cutoff
    if not len(pairs):
        return 0.0, 0.0
    expected = program.model.predict(batch, program.task.name, precision="highest")
    try:
        energy, forces = run(*inputs_of(batch, pairs))[:2]
    except RuntimeError as error:  # of its own checks of sizes, say
        raise AtomslimError(f"the package fails for {atoms.symbols}, {error}: {REFUSED}") from error
    wanted = _checked(program, expected, atoms)
    rest = expected[energy_target(program.task).name][0] - wanted["energy"]
    off = {"energy": _distance(energy - rest, wanted["energy"]), "forces": _distance(forces, wanted["forces"])}
    allowed = {name: TOLERANCE[weight.dtype] * max(1.0, float(value.abs().max())) for name, value in wanted.items()}
    if not all(off[name] <= allowed[name] for name in off):  # forces that cancel by symmetry are mere rounding
        exact = copy.deepcopy(program.model).double().predict(batch, program.task.name, precision="highest")
        for name, value in _checked(program, exact, atoms).items():
            allowed[name] += ROUNDINGS * _distance(value, wanted[name])
    for name, distance in off.items():
        _require(f"{name} of {atoms.symbols}", distance, allowed[name])
    return off["energy"], off["forces"]


def _checked(program: Program, outputs: dict[str, Tensor], atoms: Atoms) -> dict[str, Tensor]:
    """Return the model's energy, without the references of elements, and forces."""
    target = energy_target(program.task)
    rest = target.mean + sum(target.references.get(int(number), 0.0) for number in atoms.numbers)
    return {"energy": outputs[target.name][0] - rest, "forces": outputs[program.forces.name].double()}


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _require(what: str, distance: float, allowed: float) -> None:
    """Raise AtomslimError for a difference that is too large, or not a number."""
    if distance <= allowed:
        return
    raise AtomslimError(
        f"the package disagrees with the model: {what} by {distance:.1e} (eV, Å), more than {allowed:.1e}: {REFUSED}"
    )


def _program(model: BlockModel, task: str | None) -> Program:
    """Raises ConfigError for what cannot be packaged."""
    family_of(model).require("packages")
    whole = copy.copy(model)  # of the module only: weights are shared
    whole.checkpoint_blocks = False
    program = Program(whole, whole.task(task))
    energy_target(program.task)
    if not (program.task.direct or program.task.conservative):
        raise ConfigError(f"task {program.task.name} has no forces: package another task")
    return program
