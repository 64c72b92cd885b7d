"""Checks that every block model must pass, whatever its architecture.

    from atomslim.testing import check_block_model
    check_block_model(model)

Each check raises AssertionError with the number it found. They run in float64, where errors of method show and
rounding does not, or in float32, with tolerances to match, for families that always compute in float32.
The molecules are small enough that no neighbour cap applies.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from atomslim.atoms import AtomsBatch, find_pairs, from_ase
from atomslim.atoms.sample import ENERGIES
from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures

Tolerances: TypeAlias = Mapping[str, float]
"""``reorder`` and ``finite difference``, relative to the largest magnitude."""

TOLERANCES: dict[torch.dtype, Tolerances] = {
    # Relative to the largest magnitude. Rounding of sums over edges grows with their number; symmetries and batching
    # only reorder such sums. Finite differences lose half the digits.
    torch.float64: {"reorder": 1e-10, "finite difference": 1e-6},
    torch.float32: {"reorder": 2e-4, "finite difference": 5e-2},
}


STEPS = {torch.float64: 2e-5, torch.float32: 1e-2}
"""Å: displacement of atoms in central differences."""

MOVED = 0.1
"""Å: standard deviation of displacements since pairs were found."""

DIFFERENCES = ((-1.0, 1 / 6), (-0.5, -4 / 3), (0.5, 4 / 3), (1.0, -1 / 6))
"""Steps and weights of the central difference of fourth order: straight angles of some families bend within 1e-3 Å."""


def check_block_model(
    model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None
) -> None:
    """Run all checks on a copy of the model, in evaluation mode.

    ``dtype`` is float32 for families that compute in nothing wider; ``tolerances`` replace those of `TOLERANCES`.
    """
    for check in (
        check_symmetries,
        check_batching,
        check_reuse,
        check_gradients,
        check_atoms,
        check_features,
        check_blocks,
        check_units,
    ):
        check(model, dtype=dtype, tolerances=tolerances)
    check_round_trip(model, dtype=dtype)


def sample_structures() -> list[Atoms]:
    """Return a bent, a straight and a large molecule, and a periodic crystal out of equilibrium."""
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.rattle(0.1, seed=1)
    return [molecule("H2O"), molecule("CO2"), molecule("CH3CH2OH"), crystal]


def check_symmetries(
    model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None
) -> None:
    """Require that rotating, mirroring, shifting, wrapping and renumbering atoms changes nothing that it should not.

    Rotations and mirror images are left out where the model says that they may differ.
    """
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    for atoms in sample_structures():
        batch = from_ase(atoms)
        expected = _all_outputs(model, batch)
        if model.rotations:
            turn = _orthogonal(mirror=model.mirror_images)
            turned = replace(batch, positions=batch.positions @ turn, cell=batch.cell @ turn)
            _compare(
                "rotation" + " with mirror image" * model.mirror_images,
                _all_outputs(model, turned),
                _turned(expected, turn),
                within,
            )
        shifted = replace(batch, positions=batch.positions + torch.tensor([0.3, -11.0, 2.7]).double())
        _compare("translation", _all_outputs(model, shifted), expected, within)
        if batch.pbc.all():
            wrapped = from_ase(_wrapped(atoms))
            _compare("wrapping", _all_outputs(model, wrapped), expected, within)
        else:
            order = torch.randperm(batch.num_atoms)
            permuted = replace(batch, positions=batch.positions[order], numbers=batch.numbers[order])
            _compare("renumbering", _all_outputs(model, permuted), _permuted(expected, order, model), within)


def check_batching(
    model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None
) -> None:
    """Require that a structure's outputs do not depend on what else is in the batch."""
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    structures = sample_structures()
    together = _all_outputs(model, from_ase(structures))
    alone = [_all_outputs(model, from_ase(atoms)) for atoms in structures]
    expected = {}
    for key, values in together.items():
        parts = [one.get(key, torch.full((1, 3, 3), torch.nan)) for one in alone]
        expected[key] = torch.cat([part.to(values) for part in parts])
    _compare("batching", together, expected, within)


def check_reuse(model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None) -> None:
    """Require that pairs found earlier, with a larger cutoff and before atoms moved, lead to the same outputs."""
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    for task in model.tasks.values():
        for atoms in sample_structures():
            batch = from_ase(atoms)
            before = replace(batch, positions=batch.positions + MOVED * torch.randn_like(batch.positions).clamp(-3, 3))
            pairs = find_pairs(before, task.graph.cutoff + 6 * 3**0.5 * MOVED)  # two atoms, three deviations in x, y, z
            found = model.predict(batch, task.name, model.topology(batch, task.name, pairs=pairs))
            _compare(f"pairs found earlier, task {task.name}", found, model.predict(batch, task.name), within)


def check_gradients(
    model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None
) -> None:
    """Require that conservative forces are minus the central difference of the energy along a random direction."""
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    step = STEPS[dtype]
    for task in (task for task in model.tasks.values() if task.conservative):
        energy, forces = task.of_kind("energy"), task.of_kind("conservative_forces")
        assert energy is not None  # noqa: S101 - a conservative task has one
        assert forces is not None  # noqa: S101
        for atoms in sample_structures():
            batch = from_ase(atoms)
            topology = model.topology(batch, task.name)
            direction = torch.randn_like(batch.positions)
            slope = torch.zeros((), dtype=torch.float64)
            for shift, weight in DIFFERENCES:
                moved = replace(batch, positions=batch.positions + shift * step * direction)
                slope += weight / step * model.predict(moved, task.name, topology)[energy.name].double().sum()
            found = -(model.predict(batch, task.name, topology)[forces.name] * direction).sum()
            _require_close(f"forces of {task.name}", found, slope, within["finite difference"])


def check_atoms(model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None) -> None:
    """Require that atomic energies, where the model says that it sums them, add up to those of structures."""
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    batch = from_ase(sample_structures())
    for task in (task for task in model.tasks.values() if model.adds_up_atoms(task)):
        energy = task.of_kind("energy")
        assert energy is not None  # noqa: S101 - it is a sum
        found = model.predict(batch, task.name, energies=True)
        total = torch.zeros_like(found[energy.name]).index_add(0, batch.batch, found[ENERGIES])
        _compare(f"energies of atoms, task {task.name}", {"energy": total}, {"energy": found[energy.name]}, within)


def check_features(
    model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None
) -> None:
    """Require one feature per block and the embedding, and that features, readout and heads make up the model."""
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    batch = from_ase(sample_structures()[2])
    topology = model.topology(batch, next(iter(model.tasks)))
    features = model.features(batch, topology)
    _require(len(features.node) == model.num_blocks + 1, f"{len(features.node)} node features")
    without = model.features(batch, topology, edges=False)
    for found, expected in zip(without.node, features.node, strict=True):
        _require_close("features without edges", found, expected, within["reorder"])
    _require(len(features.edge) in {0, model.num_blocks + 1}, f"{len(features.edge)} edge features")
    readout = model.read(features)
    _check_maps(model, features, readout)
    for task in model.tasks.values():
        raw = model.raw_outputs(readout, task)
        whole = model(batch, topology, [task.name], normalised=True)[task.name]
        _compare("features, readout, heads", raw, {key: whole[key] for key in raw}, within)
    counted = [id(p) for modules in model.parts().values() for module in modules for p in module.parameters()]
    _require(sorted(counted) == sorted(id(p) for p in model.parameters()), "parts() must hold each parameter once")


def check_blocks(
    model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None
) -> None:
    """Require that pruned copies are independent, keep the features of the first blocks, and read them consistently."""
    model, within = _ready(model, dtype), tolerances or TOLERANCES[dtype]
    batch = from_ase(sample_structures()[2])
    full = model.with_blocks(range(1, model.num_blocks + 1))
    _compare("keeping all blocks", _all_outputs(full, batch), _all_outputs(model, batch), within)
    for kept in range(model.num_blocks):
        small = model.with_blocks(range(1, kept + 1))
        _require(small.block_ids == model.block_ids[:kept], f"block_ids are {small.block_ids}")
        _check_cut(model, small, batch, within["reorder"])
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.zero_()
    _require(any(bool(p.any()) for p in model.parameters()), "a cut copy must not share weights with the model")


def check_units(model: BlockModel, *, dtype: torch.dtype = torch.float64, tolerances: Tolerances | None = None) -> None:
    """Require that each finer unit can be left out, alone or with all others, and changes the outputs."""
    del tolerances
    model, batch = _ready(model, dtype), from_ase(sample_structures())
    expected = _all_outputs(model, batch)
    for unit in model.fine_units:
        small = model.without_units([unit])
        _require(unit not in small.fine_units, f"{unit} is still there after it was left out")
        _require(small.block_ids == model.block_ids, f"without {unit} the blocks are {small.block_ids}")
        found = _all_outputs(small, batch)
        _require(any(not torch.equal(found[key], expected[key]) for key in expected), f"{unit} does not count")
    left = model.without_units(model.fine_units).fine_units
    _require(not left, f"without all fine units there are {', '.join(left)}")


def check_round_trip(model: BlockModel, *, dtype: torch.dtype = torch.float64) -> None:
    """Require that saving and loading changes no bit of the outputs."""
    from atomslim.models.model_file import load, save  # noqa: PLC0415 - not needed by the other checks

    model = _ready(model, dtype)
    batch = from_ase(sample_structures()[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        again = load(path)
    expected, found = _all_outputs(model, batch), _all_outputs(again, batch)
    _require(all(torch.equal(found[key], expected[key]) for key in expected), "save and load changed outputs")
    _require(again.tasks == model.tasks, "tasks changed on the way")
    _require(again.block_ids == model.block_ids, "block_ids changed on the way")


def _check_maps(model: BlockModel, features: BlockFeatures, readout: ReadoutFeatures) -> None:
    """Require that the readout's maps have the widths of their inputs and outputs."""
    maps = model.readout_maps()
    _require({"node"} | ({"edge"} if features.edge else set()) == set(maps), f"readout maps of {sorted(maps)}")
    for branch, found in maps.items():
        widths = tuple(block.shape[-1] for block in getattr(features, branch))
        _require(found.widths == widths, f"{branch} features are {widths} wide, and the map says {found.widths}")
        _require(found.weight().shape == (found.out_features, found.in_features), f"{branch} map: wrong shape")
        given = getattr(readout, branch).shape[-1]
        _require(given == found.out_features, f"{branch} readout is {given} wide, its map gives {found.out_features}")


def _check_cut(model: BlockModel, small: BlockModel, batch: AtomsBatch, tolerance: float) -> None:
    topology = model.topology(batch, next(iter(model.tasks)))
    features, fewer = model.features(batch, topology), small.features(batch, topology)
    for branch in ("node", "edge"):
        whole, start = getattr(features, branch), getattr(fewer, branch)
        for first, second in zip(whole, start, strict=False):
            _require_close(f"{branch} features of a cut model", second, first, tolerance)
    kept = small.num_blocks + 1
    if model.readout_kind == "last" and features.node[kept - 1].shape != features.node[-1].shape:
        return  # the full readout cannot take the inputs of the pruned one
    seen = replace(features, node=_as_cut(model, features.node, kept), edge=_as_cut(model, features.edge, kept))
    expected, found = model.read(seen), small.read(fewer)
    _require_close("readout of a cut model", found.node, expected.node, tolerance)
    if found.edge is not None and expected.edge is not None:
        _require_close("edge readout of a cut model", found.edge, expected.edge, tolerance)


def _as_cut(model: BlockModel, blocks: tuple[Tensor, ...], kept: int) -> tuple[Tensor, ...]:
    """Return features for which the full readout gives what that of the first blocks gives for theirs."""
    if model.readout_kind == "last":
        return (*blocks[:-1], _resized(blocks[kept - 1], blocks[-1].shape[-1])) if blocks else ()
    return blocks[:kept] + tuple(torch.zeros_like(block) for block in blocks[kept:])


def _resized(features: Tensor, width: int) -> Tensor:
    """Keep the first columns, padded with zeros, as a readout of another width sees them."""
    return torch.nn.functional.pad(features, (0, width - features.shape[-1]))


def _ready(model: BlockModel, dtype: torch.dtype) -> BlockModel:
    if not model.training and all(p.dtype == dtype for p in model.parameters()):
        return model
    return model.with_blocks(range(1, model.num_blocks + 1)).to(dtype).eval()


def _all_outputs(model: BlockModel, batch: AtomsBatch) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for name in model.tasks:
        predicted = model.predict(batch, name)
        outputs |= {f"{name} {target}": values for target, values in predicted.items()}
    return outputs


def _orthogonal(*, mirror: bool) -> Tensor:
    turn: Tensor = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    return turn * torch.sign(torch.linalg.det(turn)) * (-1 if mirror else 1)


def _wrapped(atoms: Atoms) -> Atoms:
    moved = atoms.copy()
    moved.positions += 0.37 * moved.cell.sum(axis=0)
    moved.wrap()
    return moved


def _turned(outputs: dict[str, Tensor], turn: Tensor) -> dict[str, Tensor]:
    turned = {}
    for key, values in outputs.items():
        if values.ndim == 2:
            turned[key] = values @ turn.to(values)
        elif values.ndim == 3:
            turned[key] = turn.T.to(values) @ values @ turn.to(values)
        else:
            turned[key] = values
    return turned


def _permuted(outputs: dict[str, Tensor], order: Tensor, model: BlockModel) -> dict[str, Tensor]:
    of_atoms = {f"{task} {name}" for task in model.tasks for name in model.atom_outputs}
    return {key: values[order] if values.ndim == 2 or key in of_atoms else values for key, values in outputs.items()}


def _compare(what: str, found: dict[str, Tensor], expected: dict[str, Tensor], within: Tolerances) -> None:
    _require(found.keys() == expected.keys(), f"{what}: {sorted(found)} instead of {sorted(expected)}")
    for key, values in expected.items():
        _require_close(f"{what}: {key}", found[key], values, within["reorder"])


def _require_close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    found, expected = found.detach(), expected.detach()
    scale = max(float(expected.abs().nan_to_num().max()), 1e-3) if expected.numel() else 1.0
    difference = float((found - expected).abs().nan_to_num().max()) / scale if expected.numel() else 0.0
    same_nan = bool((found.isnan() == expected.isnan()).all())
    _require(same_nan and difference <= tolerance, f"{what}: relative difference {difference:.1e} > {tolerance:.0e}")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(message)


__all__: Sequence[str] = [
    "STEPS",
    "TOLERANCES",
    "Tolerances",
    "check_batching",
    "check_block_model",
    "check_blocks",
    "check_features",
    "check_gradients",
    "check_reuse",
    "check_round_trip",
    "check_symmetries",
    "check_units",
    "sample_structures",
]
