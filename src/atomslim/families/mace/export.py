"""Writing a MACE model in the package's own format, for its calculators and tools."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from atomslim.errors import ConfigError
from atomslim.families.mace.layers import GATES, Block, Head, contractions
from atomslim.families.mace.model import MACE
from atomslim.families.mace.package import blocks, building, irreps, models, o3
from atomslim.files import atomic_write
from atomslim.models.metadata import OWN_ENTRY, Metadata
from atomslim.models.tasks import Target, Task


def write_mace(model: MACE, path: Path) -> None:
    """Write a file of the package; raises ConfigError for a model that the package cannot hold."""
    targets = [_energy(task) for task in model.tasks.values()]
    heads = [_head(model, name, target) for (name, target) in zip(model.tasks, targets, strict=True)]
    _check(model, heads)
    made = _package_model(model, targets, heads)
    setattr(made, OWN_ENTRY, Metadata.of(model).model_dump_json())
    buffer = io.BytesIO()
    with building(compiled=True):
        torch.save(made, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _energy(task: Task) -> Target:
    """Return the energy of a task that the package can hold."""
    kinds = sorted(target.kind for target in task.targets)
    energy = task.of_kind("energy")
    if energy is None or kinds != ["conservative_forces", "energy"] or energy.reduction != "sum":
        raise ConfigError(f"task {task.name}: the package has one energy and its forces, and no other targets")
    if energy.mean:
        raise ConfigError(
            f"task {task.name}: the package has energies of atoms and no mean of structures: tune with "
            "targets.energy.references=true and targets.energy.mean=0"
        )
    return energy


def _head(model: MACE, task: str, target: Target) -> Head:
    return cast("Head", model.heads.get_submodule(f"{task}.{target.name}"))


def _check(model: MACE, heads: Sequence[Head]) -> None:
    """Raise ConfigError if a block is read as the package does not read it."""
    if not model.num_blocks:
        raise ConfigError("a MACE model without blocks: the package has at least one")
    if model.config.pair_repulsion and any(
        not torch.allclose(head.pair, torch.ones(1).to(head.pair)) for head in heads
    ):
        raise ConfigError("its repulsion energies have another scale than the rest, which the package cannot express")
    hidden = [index for index in range(model.num_blocks) if _hidden(model, heads, index)]
    straight = [index for index in range(model.num_blocks) if bool(_straight(model, heads, index).any())]
    if len(hidden) > 1 or set(hidden) & set(straight):
        raise ConfigError(
            "its re-aligned readout reads a block both linearly and through an activation, or several together "
            "through one, which the package cannot express: save it as .safetensors, or cut with --realign sliced"
        )


def _hidden(model: MACE, heads: Sequence[Head], index: int) -> bool:
    rows = _term(model, index)[model.config.linear :]
    return any(bool(rows[_units(head)].any()) for head in heads)


def _straight(model: MACE, heads: Sequence[Head], index: int) -> Tensor:
    """Return each head's linear map of a block, (scalars, heads)."""
    rows = _term(model, index)[: model.config.linear]
    return torch.stack([head.linear.detach() @ rows for head in heads], dim=1)


def _term(model: MACE, index: int) -> Tensor:
    return cast("nn.Linear", model.readout[index]).weight.detach()


def _units(head: Head) -> Tensor:
    """Return which hidden features a head uses."""
    used = head.last.detach() != 0
    if head.middle is not None:
        used = used | (head.middle.detach() != 0).any(1) | (head.middle.detach() != 0).any(0)
    return torch.nonzero(used).flatten()


def _package_model(model: MACE, targets: Sequence[Target], heads: Sequence[Head]) -> Any:
    """Return an object of the package's class with our weights, in evaluation mode."""
    config, weight = model.config, next(model.parameters())
    with building(compiled=True):
        made: Any = _empty(model, targets)
        embedding = model.embedding
        for name in ("node_embedding", "radial_embedding", "pair_repulsion_fn"):
            there = getattr(embedding, name)
            if there is not None:
                getattr(made, name).load_state_dict(there.state_dict(), strict=False)
        ours = [_compiled(model, index) for index in range(model.num_blocks)]
        made.interactions = nn.ModuleList(block.interaction for block in ours)
        made.products = nn.ModuleList(block.product for block in ours)
        made.readouts = nn.ModuleList(_readout(model, heads, index) for index in range(model.num_blocks))
    made.num_interactions.fill_(model.num_blocks)
    made = made.to(weight.dtype)
    made.r_max.fill_(config.cutoff)
    return made.cpu().eval()


def _empty(model: MACE, targets: Sequence[Target]) -> Any:
    """Return a small model of the package in which everything except the blocks is right."""
    config, first = model.config, model.config.blocks[0]
    rows = [[target.references.get(number, 0.0) for number in config.species] for target in targets]
    return models.ScaleShiftMACE(
        atomic_inter_scale=[target.std for target in targets],
        atomic_inter_shift=[_constant(model, target, name) for name, target in zip(model.tasks, targets, strict=True)],
        r_max=config.cutoff,
        num_bessel=config.num_radial,
        num_polynomial_cutoff=config.cutoff_power,
        max_ell=config.lmax_edge,
        interaction_cls=getattr(blocks, first.interaction),
        interaction_cls_first=getattr(blocks, first.interaction),
        num_interactions=1,
        num_elements=len(config.species),
        hidden_irreps=o3.Irreps([(config.width, (0, 1))]),
        MLP_irreps=o3.Irreps("1x0e"),
        atomic_energies=rows,
        avg_num_neighbors=first.average_neighbours,
        atomic_numbers=list(config.species),
        correlation=1,
        gate=None,
        pair_repulsion=config.pair_repulsion,
        apply_cutoff=config.cutoff_on_basis,
        use_so3=not config.parity,
        distance_transform=config.transform,
        radial_MLP=list(first.radial_hidden),
        radial_type=config.radial,
        heads=list(model.tasks),
        edge_irreps=None,
    )


def _constant(model: MACE, target: Target, task: str) -> float:
    """Return a head's output for zero input, if no block is read through its activation."""
    head = _head(model, task, target)
    if head.bias is None or any(_hidden(model, [head], index) for index in range(model.num_blocks)):
        return 0.0
    nothing = next(model.parameters()).new_zeros(1, model.config.linear + model.config.hidden)
    return target.std * float(head(nothing, None).detach())


def _compiled(model: MACE, index: int) -> Block:
    """Return a block of layers that are compiled as the package's are, with our weights."""
    block = Block(model.config, model.config.blocks[index], compiled=True)
    theirs = cast("Block", model.blocks[index])
    numbers = {name: value.cpu().double() for name, value in theirs.state_dict().items() if "_w3j" not in name}
    block.load_state_dict(numbers, strict=False)  # constants follow from the irreps
    for made in contractions(block):
        made.weights_max.requires_grad_(True)
    return block


def _readout(model: MACE, heads: Sequence[Head], index: int) -> Any:
    """Return the readout of a block: a linear map, or a network of one or two layers."""
    source, count = irreps(model.config.blocks[index].out), o3.Irreps([(len(heads), (0, 1))])
    if not _hidden(model, heads, index):
        linear = blocks.LinearReadoutBlock(source, count)
        _write(linear.linear, _straight(model, heads, index))
        return linear
    units = [_units(head) for head in heads]
    width = max(len(one) for one in units)
    second = model.config.second_layer
    kind = blocks.NonLinearBiasReadoutBlock if second else blocks.NonLinearReadoutBlock
    gate = None if model.config.gate is None else GATES[model.config.gate]
    hidden = o3.Irreps([(len(heads) * width, (0, 1))])
    made = kind(source, hidden, gate, count, len(heads))
    rows = _term(model, index)[model.config.linear :]
    first, last = rows.new_zeros(rows.shape[1], hidden.dim), rows.new_zeros(hidden.dim, len(heads))
    middle, bias = rows.new_zeros(hidden.dim, hidden.dim), rows.new_zeros(hidden.dim)
    for number, (head, mine) in enumerate(zip(heads, units, strict=True)):
        there = slice(number * width, number * width + len(mine))
        first[:, there], last[there, number] = rows[mine].T, head.last.detach()[mine]
        if head.middle is not None and head.middle_bias is not None:
            middle[there, there], bias[there] = head.middle.detach()[mine][:, mine], head.middle_bias.detach()[mine]
    _write(made.linear_1, first)
    _write(made.linear_2, last)
    if second:
        _write(made.linear_mid, middle)
        made.linear_mid.bias.data.copy_(bias)
        made.linear_2.bias.data.copy_(torch.cat([cast("Tensor", head.bias).detach() for head in heads]))
    return made


def _write(linear: Any, matrix: Tensor) -> None:
    """Set the weights of one of e3nn's linear maps of scalars."""
    linear.weight.data.copy_((matrix * matrix.shape[0] ** 0.5).flatten().to(linear.weight))
