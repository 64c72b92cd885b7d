"""The model of a simulation in TorchSim, which moves many structures at once (needs torch-sim-atomistic)."""

import os
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.atoms.batch import DEFAULT_TAG
from atomslim.atoms.charges import charge_or_spin
from atomslim.errors import ConfigError
from atomslim.inference.calculator import energy_target, ready
from atomslim.models.block_model import BlockModel
from atomslim.models.scope import Watch

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise ConfigError("TorchSim is not installed: pip install 'atomslim[torch-sim]'") from error


class TorchSimModel(ModelInterface):  # type: ignore[misc] # no type information where it is not installed
    """Lets TorchSim run a model: energies, forces and, where forces are conservative, stress of a batch of structures.

        from atomslim.inference.torch_sim import TorchSimModel
        torch_sim.integrate(system=[water, ethanol], model=TorchSimModel("aspirin.safetensors"), …)

    Results have the dtype ``dtype``, whatever the model computes in. Every atom has tag 2, as TorchSim knows no tags.
    Pairs are searched at every step, on the CPU.
    """

    def __init__(
        self,
        model: BlockModel | str | os.PathLike[str],
        *,
        task: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        strict: bool = False,
    ) -> None:
        """Make a model of TorchSim.

        Args:
            model: a model, or what `atomslim.load` takes.
            task: name of the task head; needed where the model has several.
            device: where the model runs; by default where it is.
            dtype: of results: float64 or float32.
            strict: refuse structures outside of what the task was trained on, or with a charge or spin.

        Raises:
            ConfigError: an unknown task or one without energies in eV or forces, a device that is not available,
                another dtype, or something other than a model: a package, an ASE calculator.
            CheckpointError: a model file that cannot be read.

        """
        super().__init__()
        if isinstance(model, str | os.PathLike) and (
            os.fspath(model).endswith(".pt2") or str(model).startswith("ase:")
        ):
            raise ConfigError(
                f"{model}: TorchSim takes models, not packages or ASE's calculators: give the model itself"
            )
        if dtype not in {torch.float32, torch.float64}:
            raise ConfigError(f"dtype {dtype}: use float64 or float32")
        self.model = ready(model, device, None).eval()
        self.task = self.model.task(task)
        forces = self.task.of_kind("conservative_forces") or self.task.of_kind("direct_forces")
        if forces is None:
            raise ConfigError(f"task {self.task.name} has no forces: choose another task")
        self._energy, self._forces = energy_target(self.task).name, forces.name
        self._device = next(self.model.parameters()).device
        self._dtype = dtype
        self._watch = Watch.over(self.model, self.task.name, strict=strict)
        self._looked_at: Tensor | None = None
        self._compute_forces = True
        self._compute_stress = self.model.gives_stress(self.task)

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Return ``energy`` (b,) in eV, ``forces`` (n, 3) in eV/Å and, where the task has it, ``stress`` (b, 3, 3).

        Stress is in eV/Å³, positive under tension, and zero for structures without a volume. Raises StructureError for
        structures that no model can take.
        """
        batch = _batch(state)
        self._look(state, batch)
        outputs = self.model.predict(batch, self.task.name)
        found = {"energy": outputs[self._energy], "forces": outputs[self._forces]}
        if self._compute_stress:
            stress = outputs.get("stress", found["energy"].new_zeros(len(found["energy"]), 3, 3))
            found["stress"] = torch.nan_to_num(stress, nan=0.0)
        return {name: values.to(self._dtype) for name, values in found.items()}

    def _look(self, state: Any, batch: AtomsBatch) -> None:
        """Check structures that differ from those of the last step."""
        if self._looked_at is not None and torch.equal(self._looked_at, batch.numbers):
            return
        given = {name: getattr(state, name, None) for name in ("charge", "spin")}
        for index in range(batch.num_structures):
            here = {name: float(value[index]) for name, value in given.items() if isinstance(value, Tensor)}
            numbers = batch.numbers[batch.batch == index].cpu().numpy()
            self._watch.look(f"structure {index}", numbers, charge_or_spin(Atoms(), here))
        self._looked_at = batch.numbers.clone()


def _batch(state: Any) -> AtomsBatch:
    """Take over a state's structures; TorchSim has lattice vectors in columns, and one periodicity for all."""
    numbers = state.atomic_numbers.long()
    periodic = torch.as_tensor(state.pbc, device=numbers.device).expand(3)
    return AtomsBatch(
        positions=state.positions.detach().double(),
        numbers=numbers,
        cell=state.cell.detach().double().transpose(1, 2),
        pbc=periodic.repeat(len(state.cell), 1),
        tags=torch.full_like(numbers, DEFAULT_TAG),
        fixed=torch.zeros_like(numbers, dtype=torch.bool),
        batch=state.system_idx.long(),
    )
