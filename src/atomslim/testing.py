"""Checks that every block model must pass, whatever its architecture.

    from atomslim.testing import check_block_model
    check_block_model(model)

Each check raises AssertionError with the number it found. They run in float64, where an error of method shows and
rounding does not, on molecules small enough that no neighbour is trimmed.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.models.block_model import BlockModel

TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    # Relative to the largest magnitude. Rounding of sums over edges grows with their number; symmetries and batching
    # only reorder such sums. Finite differences lose half the digits.
    torch.float64: {"reorder": 1e-10, "finite difference": 1e-6},
    torch.float32: {"reorder": 2e-4, "finite difference": 5e-2},
}


def check_block_model(model: BlockModel) -> None:
    """Run all checks on a float64 copy of the model, in evaluation mode."""
    model = _double(model)
    check_symmetries(model)
    check_batching(model)
    check_gradients(model)
    check_features(model)
    check_blocks(model)
    check_round_trip(model)


def sample_structures() -> list[Atoms]:
    """Return a bent, a straight and a large molecule, and a periodic crystal out of equilibrium."""
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.rattle(0.1, seed=1)
    return [molecule("H2O"), molecule("CO2"), molecule("CH3CH2OH"), crystal]


def check_symmetries(model: BlockModel) -> None:
    """Require that rotating, mirroring, shifting, wrapping and renumbering atoms changes nothing that it should not."""
    model = _double(model)
    for atoms in sample_structures():
        batch = from_ase(atoms)
        expected = _all_outputs(model, batch)
        turn = _orthogonal()
        turned = replace(batch, positions=batch.positions @ turn, cell=batch.cell @ turn)
        _compare("rotation with mirror image", _all_outputs(model, turned), _turned(expected, turn))
        shifted = replace(batch, positions=batch.positions + torch.tensor([0.3, -11.0, 2.7]).double())
        _compare("translation", _all_outputs(model, shifted), expected)
        if batch.pbc.all():
            wrapped = from_ase(_wrapped(atoms))
            _compare("wrapping", _all_outputs(model, wrapped), expected)
        else:
            order = torch.randperm(batch.num_atoms)
            permuted = replace(batch, positions=batch.positions[order], numbers=batch.numbers[order])
            _compare("renumbering", _all_outputs(model, permuted), _permuted(expected, order))


def check_batching(model: BlockModel) -> None:
    """Require that a structure's numbers do not depend on what else is in the batch."""
    model = _double(model)
    structures = sample_structures()
    together = _all_outputs(model, from_ase(structures))
    alone = [_all_outputs(model, from_ase(atoms)) for atoms in structures]
    expected = {}
    for key, values in together.items():
        parts = [one.get(key, torch.full((1, 3, 3), torch.nan)) for one in alone]
        expected[key] = torch.cat([part.to(values) for part in parts])
    _compare("batching", together, expected)


def check_gradients(model: BlockModel, step: float = 1e-4) -> None:
    """Require that conservative forces are minus the central difference of the energy along a random direction."""
    model = _double(model)
    for task in (task for task in model.tasks.values() if task.conservative):
        energy, forces = task.of_kind("energy"), task.of_kind("conservative_forces")
        assert energy is not None  # noqa: S101 - a conservative task has one
        assert forces is not None  # noqa: S101
        for atoms in sample_structures():
            batch = from_ase(atoms)
            topology = model.topology(batch, task.name)
            direction = torch.randn_like(batch.positions)
            ahead, behind = (
                model.predict(replace(batch, positions=batch.positions + sign * step * direction), task.name, topology)
                for sign in (1, -1)
            )
            slope = (ahead[energy.name] - behind[energy.name]) / (2 * step)
            found = -(model.predict(batch, task.name, topology)[forces.name] * direction).sum()
            _require_close(f"forces of {task.name}", found, slope.sum(), "finite difference")


def check_features(model: BlockModel) -> None:
    """Require one feature per block and the embedding, and that features, readout and heads make up the model."""
    model = _double(model)
    batch = from_ase(sample_structures()[2])
    topology = model.topology(batch, next(iter(model.tasks)))
    features = model.features(batch, topology)
    _require(len(features.node) == model.num_blocks + 1, f"{len(features.node)} node features")
    without = model.features(batch, topology, edges=False)
    for found, expected in zip(without.node, features.node, strict=True):
        _require_close("features without edges", found, expected, "reorder")
    _require(len(features.edge) in {0, model.num_blocks + 1}, f"{len(features.edge)} edge features")
    _require({"node"} | ({"edge"} if features.edge else set()) == set(model.readout_first_layers()), "first layers")
    readout = model.read(features)
    for task in model.tasks.values():
        raw = model.raw_outputs(readout, task)
        whole = model(batch, topology, [task.name], normalised=True)[task.name]
        _compare("features, readout, heads", raw, {key: whole[key] for key in raw})
    counted = [id(p) for modules in model.parts().values() for module in modules for p in module.parameters()]
    _require(sorted(counted) == sorted(id(p) for p in model.parameters()), "parts() must hold each parameter once")


def check_blocks(model: BlockModel) -> None:
    """Require that cut copies are independent, keep the features of an unbroken start, and read them consistently."""
    model = _double(model)
    batch = from_ase(sample_structures()[2])
    full = model.with_blocks(range(1, model.num_blocks + 1))
    _compare("keeping all blocks", _all_outputs(full, batch), _all_outputs(model, batch))
    for kept in range(model.num_blocks):
        small = model.with_blocks(range(1, kept + 1))
        _require(small.block_ids == model.block_ids[:kept], f"block_ids are {small.block_ids}")
        _check_cut(model, small, batch)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.zero_()
    _require(any(bool(p.any()) for p in model.parameters()), "a cut copy must not share weights with the model")


def check_round_trip(model: BlockModel) -> None:
    """Require that saving and loading changes no bit of the outputs."""
    from atomslim.models.model_file import load, save  # noqa: PLC0415 - not needed by the other checks

    model = _double(model)
    batch = from_ase(sample_structures()[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        again = load(path)
    expected, found = _all_outputs(model, batch), _all_outputs(again, batch)
    _require(all(torch.equal(found[key], expected[key]) for key in expected), "save and load changed outputs")
    _require(again.tasks == model.tasks, "tasks changed on the way")
    _require(again.block_ids == model.block_ids, "block_ids changed on the way")


def _check_cut(model: BlockModel, small: BlockModel, batch: AtomsBatch) -> None:
    topology = model.topology(batch, next(iter(model.tasks)))
    features, fewer = model.features(batch, topology), small.features(batch, topology)
    for branch in ("node", "edge"):
        whole, start = getattr(features, branch), getattr(fewer, branch)
        for first, second in zip(whole, start, strict=False):
            _require_close(f"{branch} features of a cut model", second, first, "reorder")
    if model.readout_kind != "concat":
        return
    kept = small.num_blocks + 1
    zeroed = replace(
        features,
        node=features.node[:kept] + tuple(torch.zeros_like(f) for f in features.node[kept:]),
        edge=features.edge[:kept] + tuple(torch.zeros_like(f) for f in features.edge[kept:]),
    )
    expected, found = model.read(zeroed), small.read(fewer)
    _require_close("readout of a cut model", found.node, expected.node, "reorder")
    if found.edge is not None and expected.edge is not None:
        _require_close("edge readout of a cut model", found.edge, expected.edge, "reorder")


def _double(model: BlockModel) -> BlockModel:
    if not model.training and all(p.dtype == torch.float64 for p in model.parameters()):
        return model
    return model.with_blocks(range(1, model.num_blocks + 1)).double().eval()


def _all_outputs(model: BlockModel, batch: AtomsBatch) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for name in model.tasks:
        predicted = model.predict(batch, name)
        outputs |= {f"{name} {target}": values for target, values in predicted.items()}
    return outputs


def _orthogonal() -> Tensor:
    turn: Tensor = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    return turn * -torch.sign(torch.linalg.det(turn))


def _wrapped(atoms: Atoms) -> Atoms:
    moved = atoms.copy()
    moved.positions += 0.37 * moved.cell.sum(axis=0)
    moved.wrap()
    return moved


def _turned(outputs: dict[str, Tensor], turn: Tensor) -> dict[str, Tensor]:
    turned = {}
    for key, values in outputs.items():
        if values.ndim == 2:
            turned[key] = values @ turn
        elif values.ndim == 3:
            turned[key] = turn.T @ values @ turn
        else:
            turned[key] = values
    return turned


def _permuted(outputs: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    return {key: values[order] if values.ndim == 2 else values for key, values in outputs.items()}


def _compare(what: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    _require(found.keys() == expected.keys(), f"{what}: {sorted(found)} instead of {sorted(expected)}")
    for key, values in expected.items():
        _require_close(f"{what}: {key}", found[key], values, "reorder")


def _require_close(what: str, found: Tensor, expected: Tensor, kind: str) -> None:
    found, expected = found.detach(), expected.detach()
    tolerance = TOLERANCES[torch.float64][kind]
    scale = max(float(expected.abs().nan_to_num().max()), 1e-3) if expected.numel() else 1.0
    difference = float((found - expected).abs().nan_to_num().max()) / scale if expected.numel() else 0.0
    same_nan = bool((found.isnan() == expected.isnan()).all())
    _require(same_nan and difference <= tolerance, f"{what}: relative difference {difference:.1e} > {tolerance:.0e}")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(message)


__all__: Sequence[str] = [
    "TOLERANCES",
    "check_batching",
    "check_block_model",
    "check_blocks",
    "check_features",
    "check_gradients",
    "check_round_trip",
    "check_symmetries",
    "sample_structures",
]
