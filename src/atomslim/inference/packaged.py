"""The ASE calculator of packages, see `atomslim.inference.package`."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from atomslim.arguments import checked
from atomslim.atoms import from_ase
from atomslim.atoms.charges import charge_or_spin
from atomslim.atoms.neighbours import update_distances, within
from atomslim.errors import AtomslimError, CheckpointError, StructureError
from atomslim.files import DAMAGED_ZIP
from atomslim.inference.calculator import Calculator, CandidatePairs
from atomslim.inference.compiled import left_out
from atomslim.inference.package import ENTRY, FORMAT
from atomslim.inference.program import inputs_of
from atomslim.memory import keep_freed_memory
from atomslim.models.registry import family
from atomslim.models.scope import Watch
from atomslim.models.tasks import Task
from atomslim.parsing import parse_json

LONGEST_NOTE = 2**24
"""Most bytes of a package's metadata."""

ANEW = "make it again with atomslim package"


class PackagedCalculator(Calculator):
    """Lets ASE run a package of `atomslim package`: energy, forces and, with conservative forces, stress.

        atoms.calc = atomslim.PackagedCalculator("aspirin.pt2")

    Gives the same warnings as `Calculator`, and reuses pairs in the same way. A package is a program: **load only files
    that you trust**. It runs on the kind of processor, and with the version of torch, that it was made for.
    """

    @checked
    def __init__(self, package: str | os.PathLike[str], *, skin: float = 0.5, strict: bool = False) -> None:
        """Load a package.

        Args:
            package: the ``.pt2`` file.
            skin: margin beyond the cutoff (Å) in the search for pairs, as for `Calculator`.
            strict: refuse structures, as for `Calculator`.

        Raises:
            CheckpointError: a file that is missing, or is not a package of this program.
            ConfigError: a negative skin.

        """
        AseCalculator.__init__(self)
        self._run, self.description = load_package(package)
        self.task = _task(self.description)
        self.strict = strict
        stress = ["stress"] if self.task.conservative else []
        self.implemented_properties = ["energy", "free_energy", "forces", *stress]
        self.ignored_changes = {"initial_charges", "initial_magmoms"}
        self._candidates = CandidatePairs(self.task.graph.cutoff, skin, self.description["device"])
        self._watch = Watch(self.description["history"], self.task, strict=strict)
        self._said: set[str] = set()
        self._compiled = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything for ``atoms`` (default: the last ones), whatever is asked for.

        Raises StructureError for what no model can take, and where no two atoms are within the cutoff; AtomslimError
        when the package gives numbers that are not finite.
        """
        self.results = {}
        AseCalculator.calculate(self, atoms, properties or ["energy"], system_changes)
        if self.atoms is None:
            raise StructureError("the calculator has no atoms yet: give calculate() some")
        self._warn_of_direct_forces(self.atoms)
        self._watch.look("the structure", self.atoms.numbers, charge_or_spin(self.atoms))
        batch = from_ase(self.atoms)
        pairs = update_distances(self._candidates.of(batch), batch)
        pairs = within(pairs, batch, self.task.graph.cutoff)
        if not len(pairs):
            raise StructureError(f"no two atoms are within {self.task.graph.cutoff:g} Å: a package needs a pair")
        self._report_cap(left_out(pairs, self.task.graph.neighbours))
        inputs = inputs_of(batch, pairs)
        outputs = self._run(*(tensor.to(self.description["device"]) for tensor in inputs))
        self._keep([tensor.cpu() for tensor in outputs], self.atoms)

    def _keep(self, outputs: Sequence[Tensor], atoms: Atoms) -> None:
        energy, forces, *derivative = outputs
        results: dict[str, Any] = {"energy": float(energy), "free_energy": float(energy), "forces": forces.numpy()}
        if derivative and atoms.pbc.any() and atoms.cell.rank == 3:
            results["stress"] = full_3x3_to_voigt_6_stress(derivative[0].numpy() / atoms.cell.volume)
        for name, value in results.items():
            if not np.isfinite(value).all():
                raise AtomslimError(f"the package's {name} is not finite: check the structure and the model's history")
        self.results = results


def load_package(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Return the callable of a package and its description.

    Runs code of the file. Raises CheckpointError for a file that is missing, is not a package of atomslim, or was made$
    for another machine or version.
    """
    found = describe_package(path)
    if found["format"] != FORMAT:
        raise CheckpointError(f"{path}: a package of another version of atomslim: {ANEW}")
    keep_freed_memory()
    try:
        return torch._inductor.aoti_load_package(os.fspath(path)), found  # noqa: SLF001 - its documented name
    except RuntimeError as error:
        made = f"it was made with torch {found['versions']['torch']} for {found['device']}"
        raise CheckpointError(f"{path}: does not run here ({made}): {ANEW}") from error


def describe_package(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a package's metadata, without running code of the file; raises CheckpointError as above."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".wrapper_metadata.json"))
            if archive.getinfo(name).file_size > LONGEST_NOTE:
                raise ValueError("too long")  # noqa: TRY301
            found = dict(parse_json(parse_json(archive.read(name))[ENTRY]))
    # zip archives of others, and damaged ones, can raise anything
    except (*DAMAGED_ZIP, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: is not a package of atomslim: {ANEW}") from error
    return found


def _task(found: Mapping[str, Any]) -> Task:
    """Return the task of a description, with the graph settings of the model's family."""
    graph = family(found["family"]).graph_settings.model_validate(found["task"]["graph"])
    return Task.model_validate(found["task"] | {"graph": graph})
