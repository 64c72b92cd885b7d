"""Force-aware least squares: the readout's map fitted to energies, forces and stress of the full model at once.

Least squares on features alone sees values, not slopes, and brings energies back but not forces. With a readout that is
linear in its map W, so are forces and stress. Where layers that are not linear follow (JMP, CHGNet) this holds to first
order about the present W, and the fit is repeated from where it got to (Gauss-Newton). With r the differences between
full and cut model on calibration structures, and J their derivatives by W,

    ΔW = argmin ‖J ΔW − r‖² + λ Σ_k D_k ‖Δw_k‖²  =  D⁻¹ Jᵀ (J D⁻¹ Jᵀ + λ)⁻¹ r

| symbol | variable | meaning |
|---|---|---|
| r | residuals | energies per atom, and derivatives of energies along directions, times roots of weights, (rows,) |
| J | jacobian | derivatives of what the cut model says by its map, the same rows, (rows, d, k) |
| D_k | scale | sum of squares of J over rows and outputs for feature k, so that λ is a pure number |
| w_k | | column k of W |
| λ | ridge | chosen on every fourth batch, which is held out, by the errors themselves |

A derivative along a direction is −F · displacement + V σ : strain (see `atomslim.compress.slopes`): a few random
directions of each structure stand for all its forces, at the cost of as many backward passes; of a structure with no
more degrees of freedom than directions, they are all of them. Rows are far fewer than weights, so that the system is
solved in the space of rows. The objective is

    mean over structures of (ΔE / n)² + ω [w_F mean over components of ΔF² + w_S mean over components of (V Δσ / n)²]

in eV and Å, with ω = 1 / (1 + F² / F₀²) of a structure with RMS force F, F₀ its median: a few structures far from
equilibrium would decide otherwise. The fit begins at the sliced map or at that of plain least squares, whichever leads
further on held-out structures. Changes outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.slopes import Direction, features_and_slopes, random_directions
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockFeatures, BlockModel
from atomslim.models.readout import ReadoutMap
from atomslim.models.tasks import Target

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0)

STEPS = 3
"""At most so many linearisations."""

LARGEST = 2**30
"""At most so many numbers in the Jacobian (float32: 4 GiB)."""


@dataclass(frozen=True)
class Weights:
    """What forces (eV/Å) and stress (as virial per atom, eV) count beside energies (eV/atom)."""

    forces: float = 3.0
    stress: float = 0.0


@dataclass(frozen=True)
class ForceFit:
    """How far a cut model is from the full one on held-out structures: root mean squares, as the fit weighs them."""

    structures: int
    held_out: int
    """Structures among them that errors are of; 0: too few batches to hold one out, and they are of those fitted."""
    rows: int
    began_at: str
    ridges: tuple[float, ...]
    """One for each linearisation; none: no step made held-out errors smaller."""
    before: dict[str, float]
    """Errors of the sliced model."""
    after: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self) | {"ridges": list(self.ridges)}


@dataclass(frozen=True)
class Rows:
    """What of a batch the fit needs: features and slopes of the cut model, and what the full model says."""

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
        """What each row counts: energies, then derivatives."""
        energy = 1.0 / self.batch.natoms.double().square()
        return torch.stack([energy, *(direction.weight * self.omega for direction in self.directions)])


def fit_forces(
    small: BlockModel,
    starts: dict[str, Float[Tensor, "d k"]],
    fitted: Sequence[Rows],
    held_out: Sequence[Rows],
) -> ForceFit:
    """Fit the map of atoms' features of ``small`` in place, from the best of ``starts``, maps by name.

    The first of them is what errors are compared with. Raises ConfigError where the Jacobian would be too large.
    """
    readout = small.readout_maps()["node"]
    every, tested = [*fitted, *held_out], held_out or fitted
    _require_room(readout, every)
    readout.assign(next(iter(starts.values())))
    before = errors(small, tested)
    paths = {name: _path(small, start, fitted, tested) for name, start in starts.items()}
    name = min(paths, key=lambda one: paths[one][1])
    readout.assign(starts[name])
    for ridge in paths[name][0]:
        _step(small, fitted, ridge)
    after = errors(small, tested)
    if held_out and paths[name][0]:  # the same steps on all structures
        readout.assign(starts[name])
        for ridge in paths[name][0]:
            _step(small, every, ridge)
    count = sum(rows.batch.num_structures for rows in every)
    held = sum(rows.batch.num_structures for rows in held_out)
    return ForceFit(count, held, sum(rows.weights.numel() for rows in every), name, paths[name][0], before, after)


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
    """Return the objective of some rows, and what it consists of: RMS of energies (eV/atom) and of forces (eV/Å)."""
    squares = torch.zeros(2, dtype=torch.float64)
    count = 0
    for one in rows:
        residuals = (_wanted(one) - torch.cat([part.detach() for part in _said(model, one)])).square() * one.weights
        squares += torch.stack([residuals[0].sum(), residuals[1:].sum()]).cpu()
        count += one.batch.num_structures
    energy, slopes = (squares / count).tolist()
    return {"energy": energy**0.5, "forces": slopes**0.5, "objective": energy + slopes}


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


def _require_room(readout: ReadoutMap, rows: Sequence[Rows]) -> None:
    count = sum(one.weights.numel() for one in rows)
    size = count * readout.in_features * readout.out_features
    if size > LARGEST:
        raise ConfigError(
            f"least-squares-forces: {count} rows by {readout.in_features * readout.out_features} weights are "
            f"{size * 4 / 2**30:.0f} GiB: take fewer structures or directions, to have a share of {LARGEST / size:.0%}"
        )


def _wanted(rows: Rows) -> Float[Tensor, "1+directions b"]:
    return torch.cat([rows.energies[None], rows.derivatives])


def _said(model: BlockModel, rows: Rows) -> list[Float[Tensor, "_ b"]]:
    """Return the cut model's energies (1, b) and derivatives along directions (directions, b), differentiable by W."""
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
        gradients = torch.autograd.grad(energies.sum(), read, create_graph=True)
        joined = torch.cat(gradients, dim=1)
        found = [(joined * torch.cat(slopes, dim=1)).sum(1).double() for slopes in rows.slopes]
        derivatives = [energies.new_zeros(len(energies)).index_add(0, batch.batch, values) for values in found]
    return [energies[None], torch.stack(derivatives)]


def _path(
    small: BlockModel, start: Tensor, fitted: Sequence[Rows], tested: Sequence[Rows]
) -> tuple[tuple[float, ...], float]:
    """Return the ridges of steps that make held-out errors smaller, one after the other, and the objective there."""
    readout = small.readout_maps()["node"]
    readout.assign(start)
    best, ridges = errors(small, tested)["objective"], []
    for _ in range(STEPS):
        here = readout.weight().detach().clone()
        scores = {}
        for ridge, weight in _solutions(small, fitted, RIDGES):
            readout.assign(weight)
            scores[ridge] = errors(small, tested)["objective"]
        ridge = min(scores, key=scores.__getitem__)
        if not scores[ridge] < 0.98 * best:
            readout.assign(here)
            break
        best = scores[ridge]
        ridges.append(ridge)
        readout.assign(here)
        _step(small, fitted, ridge)
    return tuple(ridges), best


def _step(small: BlockModel, rows: Sequence[Rows], ridge: float) -> None:
    ((_, weight),) = _solutions(small, rows, [ridge])
    small.readout_maps()["node"].assign(weight)


def _solutions(
    small: BlockModel, rows: Sequence[Rows], ridges: Sequence[float]
) -> list[tuple[float, Float[Tensor, "d k"]]]:
    """Return the map after one step from where it is, by ridge."""
    readout = small.readout_maps()["node"]
    here = readout.weight().detach().double()
    jacobian, residuals = (torch.cat(parts) for parts in zip(*(_linearised(small, one) for one in rows), strict=True))
    scale = jacobian.square().sum((0, 1), dtype=torch.float64)
    scale = torch.where(scale > 0, scale, 1.0)
    scaled = (jacobian / scale.sqrt().to(jacobian)).flatten(1)
    gram = scaled.double() @ scaled.double().T
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ residuals
    found = []
    for ridge in ridges:
        part = vectors @ (turned / (values.clamp(min=0) + ridge))
        step = (part.to(scaled) @ scaled).view(here.shape).double() / scale.sqrt()
        found.append((ridge, here + step))
    return found


def _linearised(small: BlockModel, rows: Rows) -> tuple[Float[Tensor, "rows d k"], Float[Tensor, " rows"]]:
    """Return derivatives by the map, and differences from the full model, both times roots of weights."""
    layers = [piece.layer.weight for piece in small.readout_maps()["node"].pieces]
    asked = [layer.requires_grad for layer in layers]
    try:
        for layer in layers:
            layer.requires_grad_(True)
        said = torch.cat(_said(small, rows))
        roots = rows.weights.sqrt()
        counted = [(row, place) for row, place in roots.nonzero().tolist()]
        made = [torch.cat(_gradient(said[at], layers), dim=1) * roots[at].to(layers[0]) for at in counted]
    finally:
        for layer, was in zip(layers, asked, strict=True):
            layer.requires_grad_(was)
    residuals = (_wanted(rows) - said.detach()) * roots
    return torch.stack(made), torch.stack([residuals[at] for at in counted])


def _gradient(value: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, layers, retain_graph=True, materialize_grads=True, allow_unused=True)
