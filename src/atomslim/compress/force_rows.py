"""Rows of force-aware least squares: outputs of the full model, and of a pruned one as functions of its map.

Energies, and derivatives of energies along a few directions (see `atomslim.compress.slopes`), with their weights (see
`atomslim.compress.force_fit`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.slopes import Direction, features_and_slopes, random_directions
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockFeatures, BlockModel
from atomslim.models.tasks import Target


@dataclass(frozen=True)
class Weights:
    """Weights of forces (eV/Å) and stress (as virial per atom, eV) relative to energies (eV/atom)."""

    forces: float = 3.0
    stress: float = 0.0


@dataclass(frozen=True)
class Rows:
    """What the fit needs of a batch: features and slopes of the pruned model, outputs of the full one."""

    batch: AtomsBatch
    task: str
    features: BlockFeatures
    slopes: list[tuple[Tensor, ...]]
    directions: list[Direction]
    energies: Float[Tensor, " b"]
    derivatives: Float[Tensor, "directions b"]
    rms_force: Float[Tensor, " b"]
    omega: Float[Tensor, " b"]

    @property
    def weights(self) -> Float[Tensor, "1+directions b"]:
        """Weight of each row: energies, then derivatives."""
        energy = 1.0 / self.batch.natoms.double().square()
        return torch.stack([energy, *(direction.weight * self.omega for direction in self.directions)])


def collect(
    small: BlockModel,
    full: BlockModel,
    batches: Iterable[tuple[AtomsBatch, Any, str]],
    weights: Weights,
    *,
    directions: int = 4,
    seed: int = 0,
) -> list[Rows]:
    """Return the rows of all batches (with topology and task), a list for each batch.

    Raises:
        ConfigError: a task without an energy and conservative forces.
        DataError: no calibration structures, or numbers that are not finite.

    """
    if directions < 1:
        raise ConfigError(f"{directions} directions: give 1 or more")
    if not all(0 <= weight < float("inf") for weight in (weights.forces, weights.stress)) or weights == Weights(0, 0):
        raise ConfigError(
            f"weights of forces {weights.forces:g} and stress {weights.stress:g}: give 0 or more, one > 0"
        )
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, (batch, topology, task) in enumerate(batches, start=1):
        _energy(small, task)
        found.append(_rows(small, full, batch, topology, task, weights, directions, generator))
        if not _is_finite(found[-1]):
            raise DataError(
                f"least-squares: calibration batch {number} has numbers that are not finite: check its data"
            )
    if not found:
        raise DataError("least-squares: there are no calibration structures: give some, with their task")
    return _with_omega(found)


def require_conservative(model: BlockModel, tasks: Iterable[str]) -> None:
    """Raise ConfigError unless forces of all tasks are derivatives of an energy that is a sum over atoms."""
    for task in tasks:
        _energy(model, task)


def errors(model: BlockModel, rows: Sequence[Rows]) -> dict[str, float]:
    """Return the objective of some rows, and its components: RMS of energies (eV/atom) and of forces (eV/Å)."""
    squares = torch.zeros(2, dtype=torch.float64)
    count = 0
    for one in rows:
        residuals = (wanted(one) - torch.cat(said(model, one, differentiable=False))).square() * one.weights
        squares += torch.stack([residuals[0].sum(), residuals[1:].sum()]).cpu()
        count += one.batch.num_structures
    energy, slopes = (squares / count).tolist()
    return {"energy": energy**0.5, "forces": slopes**0.5, "objective": energy + slopes}


def wanted(rows: Rows) -> Float[Tensor, "1+directions b"]:
    """Return the full model's outputs."""
    return torch.cat([rows.energies[None], rows.derivatives])


def said(model: BlockModel, rows: Rows, *, differentiable: bool = True) -> list[Float[Tensor, "_ b"]]:
    """Return the cut model's energies (1, b) and derivatives along directions (directions, b)."""
    target, batch = _energy(model, rows.task), rows.batch
    blocks = model.readout_maps()["node"].blocks
    with torch.enable_grad():
        node = [features.detach() for features in rows.features.node]
        for block in blocks:
            node[block] = node[block].requires_grad_()
        readout = model.read(replace(rows.features, node=tuple(node)))
        task = model.task(rows.task)
        energies = model.physical_outputs(model.raw_outputs(readout, task), task, batch)[target.name].double()
        read = [node[block] for block in blocks]
        gradients = torch.autograd.grad(energies.sum(), read, create_graph=differentiable)
        joined = torch.cat(gradients, dim=1)
        found = [(joined * torch.cat(slopes, dim=1)).sum(1).double() for slopes in rows.slopes]
        derivatives = [energies.new_zeros(len(energies)).index_add(0, batch.batch, values) for values in found]
    found = [energies[None], torch.stack(derivatives)]
    return found if differentiable else [part.detach() for part in found]


def _rows(
    small: BlockModel,
    full: BlockModel,
    batch: AtomsBatch,
    topology: Any,
    task: str,
    weights: Weights,
    count: int,
    generator: torch.Generator,
) -> Rows:
    along = random_directions(batch, count, generator, stress=weights.stress / max(weights.forces, 1e-30))
    along = [replace(one, weight=one.weight * weights.forces) for one in along]
    with torch.no_grad():
        features = small.features(batch, topology, edges=False)
    teacher = full.predict(batch, task, topology)
    energies = teacher[_energy(full, task).name]
    forces = teacher[full.task(task).of_kind("conservative_forces").name]  # type: ignore[union-attr]  # checked
    volume = torch.linalg.det(batch.cell).abs()[:, None, None]
    virial = (teacher["stress"] * volume).nan_to_num() if "stress" in teacher else torch.zeros_like(batch.cell)
    mean_square = forces.new_zeros(batch.num_structures).index_add(0, batch.batch, forces.square().mean(1))
    return Rows(
        batch,
        task,
        features,
        features_and_slopes(small, batch, topology, along),
        along,
        energies.double(),
        torch.stack([one.along(batch, forces, virial) for one in along]),
        (mean_square / batch.natoms).sqrt().double(),
        torch.ones_like(energies),
    )


def _with_omega(rows: list[Rows]) -> list[Rows]:
    middle = float(torch.cat([one.rms_force for one in rows]).median())
    return [replace(one, omega=1 / (1 + (one.rms_force / middle).square())) if middle else one for one in rows]


def _is_finite(rows: Rows) -> bool:
    every = [*rows.features.node, *(part for slopes in rows.slopes for part in slopes), rows.energies, rows.derivatives]
    return all(bool(torch.isfinite(values).all()) for values in every)


def _energy(model: BlockModel, task: str) -> Target:
    energy = model.task(task).of_kind("energy")
    if energy is None or not model.task(task).conservative:
        raise ConfigError(
            f"least-squares-forces: task {task} has no forces that are derivatives of its energy: use least-squares"
        )
    return energy
