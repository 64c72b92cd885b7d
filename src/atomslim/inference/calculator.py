"""The ASE calculator: energy, forces and stress of one structure at a time, with neighbours reused between steps."""

import copy
import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes, all_properties
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from torch import Tensor

from atomslim.arguments import checked
from atomslim.atoms import AtomsBatch, Pairs, find_pairs, from_ase
from atomslim.atoms.charges import charge_or_spin
from atomslim.atoms.sample import ENERGIES
from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError, StructureError
from atomslim.inference.compiled import Compiled, Compiling, Results, left_out
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.models.modes import evaluating
from atomslim.models.precision import Policy, format_of
from atomslim.models.scope import Watch
from atomslim.models.tasks import Target, Task

SKIN_SLACK = 1e-9
"""Å: margin so that rounding never loses a pair."""


class Calculator(AseCalculator):
    """Lets ASE run a model: single points, relaxations, molecular dynamics.

        atoms.calc = atomslim.Calculator("aspirin.safetensors")
        atoms.get_potential_energy()

    Results: ``energy`` and ``free_energy`` (the same, eV), ``forces`` (eV/Å), ``stress`` (eV/Å³ in ASE's sign and
    Voigt order; only where forces are conservative, and only for periodic structures whose cell has a volume), the
    task's other numbers under their own names and in their own units, and further per-atom outputs (n,) of the model,
    such as ``magmoms`` (μB). ``energies`` (n,) of atoms, if the model sums them, are computed only on request. Results
    are float64, whatever the model computes in; positions are float64 throughout.

    Elements and compositions that the task was not trained on, charges and spins give one warning each, see
    `atomslim.models.scope`.

    Two things make an energy unfit for dynamics; each gives one `AtomslimWarning` per calculator:

    - The forces come from a separate head ("direct") and are not the gradient of the energy, while the atoms have
      velocities, which means that somebody runs molecular dynamics (relaxations give atoms none). Such forces do not
      conserve energy: NVE runs drift, and heat up or cool down. Use a task with conservative forces.
    - The model has a neighbour cap, and an atom has more neighbours within the cutoff. The energy jumps when two of
      them swap ranks. With ``strict``, the first such structure raises StructureError.

    Other effects depend on the model and are not checked: energies jump, too, when atoms cross a cutoff of the task
    that is shorter than the distance at which the model's radial basis ends (12 Å for JMP), and a little when JMP's
    smaller graphs, which keep fewer neighbours still, swap two of them.

    The search for pairs is repeated only when it must be (`CandidatePairs`); the nearest neighbours are chosen again at
    every step, so that results do not depend on the skin.
    """

    @checked
    def __init__(
        self,
        model: BlockModel | str | os.PathLike[str],
        *,
        task: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        precision: Policy | None = None,
        skin: float = 0.5,
        strict: bool = False,
        compiled: Compiling = "off",
    ) -> None:
        """Make a calculator.

        Args:
            model: a model, or what `atomslim.load` takes. A given model is never changed; a copy is made for another
                device or dtype.
            task: the task to use; needed if the model has several.
            device: where the model runs; default: its present device.
            dtype: of the model's parameters; default: unchanged.
            precision: number format, as for `atomslim.load`; default: the model's.
            skin: margin beyond the cutoff (Å) in the search for pairs, which are reused until an atom has moved by half
                of it; 0 searches at every step.
            strict: refuse structures with more neighbours than the model takes, outside of what the task was trained
                on, or with a charge or spin.
            compiled: ``auto`` compiles the task in the background once the run is some steps long, keeps the package in
                the user's cache, and switches to it if it is faster and agrees (see
                `atomslim.inference.compiled`); for energies, forces and stress in full precision.

        Raises:
            ConfigError: an unknown task (the message lists those there are) or one without energies in eV, a negative
                skin, a device that is not available, or a precision that it lacks.
            CheckpointError: a model file that cannot be read.

        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = ready(model, device, dtype)
        self.task = self.model.task(task)
        self.precision = precision or self.model.precision
        format_of(self.precision, next(self.model.parameters()))  # refuses unknown ones
        self.strict = strict
        self.implemented_properties = [*_properties(self.model, self.task), *self.model.atom_outputs]
        self.ignored_changes = {"initial_charges", "initial_magmoms"}
        self._steps = self.model.steps(self.task.name, precision=self.precision)
        self._candidates = CandidatePairs(self.task.graph.cutoff, skin, next(self.model.parameters()).device)
        self._watch = Watch.over(self.model, self.task.name, strict=strict)
        self._said: set[str] = set()
        self._compiled = self._compiling() if compiled == "auto" else None

    @property
    def neighbour_searches(self) -> int:
        """How often pairs were searched, rather than reused, so far."""
        return self._candidates.searches

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything the task predicts for ``atoms`` (default: the last ones); atomic energies if asked for.

        Raises StructureError for what no model can take (a position that is not finite, atoms on top of each other, an
        unknown element, a flat cell), AtomslimError when the model gives numbers that are not finite.
        """
        self.results = {}
        super().calculate(atoms, properties or ["energy"], system_changes)  # type: ignore[no-untyped-call]
        if self.atoms is None:
            raise StructureError("the calculator has no atoms yet: give calculate() some")
        self._warn_of_direct_forces(self.atoms)
        self._watch.look("the structure", self.atoms.numbers, charge_or_spin(self.atoms))
        batch = from_ase(self.atoms)
        pairs = self._candidates.of(batch)
        shared = ENERGIES in (properties or ())
        compiled = None if shared else self._compiled
        if compiled is not None and (answer := compiled.answer(batch, pairs, self.atoms)) is not None:
            self.results, close = answer
            self._report_cap(left_out(close, self.task.graph.neighbours))
            return
        start, found = time.perf_counter(), batch
        batch = batch.to(next(self.model.parameters()).device)
        with evaluating(self.model) if self.model.training else nullcontext():
            outputs, capped_fraction = self._with_energies(batch, pairs) if shared else self._steps(batch, pairs)
        self._report_cap(capped_fraction)
        self.results = _results(outputs, self.task, self.atoms, self.model.atom_outputs)
        if compiled is not None:
            compiled.look(found, pairs, self.results, time.perf_counter() - start)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation; tags count, as they decide which atoms are a surface."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]
        if self.atoms is not None and "numbers" not in changes and (atoms.get_tags() != self.atoms.get_tags()).any():
            changes.append("tags")
        return changes

    def _with_energies(self, batch: AtomsBatch, pairs: Pairs) -> tuple[dict[str, Tensor], float]:
        topology = self.model.topology(batch, self.task.name, pairs=pairs)
        found = self.model.predict(batch, self.task.name, topology, precision=self.precision, energies=True)
        return found, float(topology.left_out().max())

    def _compiling(self) -> Compiled | None:
        """Return the compiling wrapper; None, with a message, if a package would not give all results."""
        more = set(self.implemented_properties) - {"energy", "free_energy", "forces", "stress", ENERGIES}
        full = format_of(self.precision, next(self.model.parameters())) in {"fp32", "fp64"}
        if "forces" not in self.implemented_properties or more or not full:
            self._note(f"not compiled: packages give energies, forces and stress in full precision only{_but(more)}")
            return None
        return Compiled(self.model, self.task, self._note)

    @staticmethod
    def _note(text: str) -> None:
        print(f"atomslim: {text}", file=sys.stderr)  # noqa: T201 - progress of a long run

    def _get_name(self) -> str:
        return "atomslim"

    def _warn_of_direct_forces(self, atoms: Atoms) -> None:
        direct = self.task.direct and not self.task.conservative
        if direct and atoms.has("momenta") and atoms.get_momenta().any():
            self._warn_once(
                "direct forces",
                f"the atoms have velocities, but the forces of task {self.task.name} are direct, not the gradient of "
                "its energy: molecular dynamics with them conserves no energy (NVE drifts): use a task with "
                "conservative forces",
            )

    def _report_cap(self, fraction: float) -> None:
        if fraction <= 0:
            return
        graph = self.task.graph
        problem = (
            f"task {self.task.name} keeps the {graph.neighbours} nearest neighbours of an atom, which leaves out "
            f"{fraction:.1%} of the pairs within {graph.cutoff:g} Å, and the energy can jump when atoms change ranks"
        )
        if self.strict:
            raise StructureError(f"{problem}: use a task that keeps more neighbours, or strict=False")
        self._warn_once("cap", f"{problem}: use a task that keeps more, or strict=True to refuse such structures")

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(message, AtomslimWarning, stacklevel=2)


class CandidatePairs:
    """Pairs of one structure within cutoff + skin, searched again only when one within the cutoff could be missing.

    Let F deform the periodic lattice vectors at the time of the search into the current ones, C₀ F = C, and w = r − r₀
    F be an atom's displacement beyond that. A pair that is not listed was farther apart than cutoff + skin; it is now
    farther apart than σ_min(F) (cutoff + skin) − 2 max|w|. As long as that is no less than the cutoff, nothing is
    missing. With the cell at rest F = 1: the usual rule that no atom has moved by more than skin/2.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device | str = "cpu") -> None:
        """Search within cutoff + skin (Å), on a device if possible; raises ConfigError for a negative skin."""
        if not 0 <= skin < np.inf:
            raise ConfigError(f"skin {skin}: give a length in Å, 0 or more")
        self.cutoff, self.skin, self.device = cutoff, skin, device
        self.searches = 0
        self._searched: tuple[AtomsBatch, Pairs] | None = None

    def of(self, batch: AtomsBatch) -> Pairs:
        """Return pairs that include all within the cutoff; raises StructureError as `find_pairs` does."""
        if self._searched is not None and self._covers(self._searched[0], batch):
            return self._searched[1]
        pairs = find_pairs(batch.to(self.device), self.cutoff + self.skin)
        self._searched = batch, pairs
        self.searches += 1
        return pairs

    def _covers(self, before: AtomsBatch, now: AtomsBatch) -> bool:
        """Say whether the pairs found in ``before`` suffice; positions that are not finite never do."""
        if not (torch.equal(before.numbers, now.numbers) and torch.equal(before.pbc, now.pbc)):
            return False
        carried, shrinking = before.positions.numpy(), 1.0
        if not torch.equal(before.cell, now.cell):
            periodic = now.pbc[0].numpy()
            deformation = _deformation(before.cell[0].numpy()[periodic], now.cell[0].numpy()[periodic])
            if not np.isfinite(deformation).all():
                return False
            carried = carried @ deformation
            shrinking = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        moved = float(np.linalg.norm(now.positions.numpy() - carried, axis=1).max())
        return shrinking * (self.cutoff + self.skin) - 2 * moved >= self.cutoff + SKIN_SLACK


def _deformation(before: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F (3, 3) with before · F = now for linearly independent rows; the identity at right angles to them."""
    return np.eye(3) + np.linalg.pinv(before) @ (now - before)


def ready(
    model: BlockModel | str | os.PathLike[str], device: torch.device | str | None, dtype: torch.dtype | None
) -> BlockModel:
    """Load the model, or return a given one: itself if it is on ``device`` in ``dtype`` already, otherwise a copy."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA fails an assertion
        raise ConfigError(f"device {device}: torch cannot use it here: use cpu") from error
    if not isinstance(model, BlockModel):
        return load(model, device=device, dtype=dtype)
    parameter = next(model.parameters())
    wanted = parameter.detach().flatten()[:1].to(device=device, dtype=dtype)
    if (wanted.device, wanted.dtype) == (parameter.device, parameter.dtype):
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def _properties(model: BlockModel, task: Task) -> list[str]:
    """Return the names of what ASE can ask for; raises ConfigError for a task without energies in eV."""
    energy_target(task)
    forces = ["forces"] if task.conservative or task.direct else []
    stress = ["stress"] if model.gives_stress(task) else []
    energies = [ENERGIES] if model.adds_up_atoms(task) else []
    return ["energy", "free_energy", *forces, *stress, *energies, *_scalars(task)]


def energy_target(task: Task) -> Target:
    """Return the task's energy; raises ConfigError where there is none in eV."""
    energy = task.of_kind("energy")
    if energy is None or energy.unit != "eV":
        what = "no energy" if energy is None else f"energies in {energy.unit}, not eV"
        raise ConfigError(f"task {task.name} has {what}: the calculator needs another task")
    return energy


def _scalars(task: Task) -> list[str]:
    """Names of the task's other numbers, unless ASE uses the name otherwise (dipole is a vector there)."""
    return list(_other_targets(task))


def _other_targets(task: Task) -> dict[str, str]:
    """Return ASE's name of the task's other numbers → the target's name."""
    return {
        target.output_name: target.name
        for target in task.targets
        if target.kind in {"scalar", "r2", "binary"} and target.output_name not in all_properties
    }


def _but(more: set[str]) -> str:
    return f", and the task has {', '.join(sorted(more))}" if more else ""


def _results(outputs: dict[str, Tensor], task: Task, atoms: Atoms, atom_outputs: Iterable[str] = ()) -> Results:
    arrays = {name: values.double().cpu().numpy() for name, values in outputs.items()}
    results: Results = {shown: float(arrays[name][0]) for shown, name in _other_targets(task).items()}
    results["energy"] = results["free_energy"] = float(arrays[energy_target(task).name][0])
    forces = task.of_kind("conservative_forces") or task.of_kind("direct_forces")
    if forces is not None:
        results["forces"] = arrays[forces.name]
    if "stress" in arrays and atoms.pbc.any() and atoms.cell.rank == 3:
        results["stress"] = full_3x3_to_voigt_6_stress(arrays["stress"][0])
    results |= {name: arrays[name] for name in (*atom_outputs, ENERGIES) if name in arrays}
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise AtomslimError(f"the model's {name} is not finite: check the structure and the model's history")
    return results
