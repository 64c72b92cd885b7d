"""Removes blocks of MACE, and irreps that are no longer given or read."""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from atomslim.families.mace.config import BlockConfig, MACEConfig
from atomslim.families.mace.layers import Block, Term, contractions
from atomslim.families.mace.package import blocks as package_blocks
from atomslim.families.mace.package import irreps, o3

if TYPE_CHECKING:
    from atomslim.families.mace.model import MACE


def with_blocks(model: "MACE", kept: Sequence[int]) -> "MACE":
    """Return a copy with these blocks (1 … b)."""
    new = copy.deepcopy(model)
    new.block_ids = tuple(model.block_ids[index - 1] for index in kept)
    specifications = narrowed(model.config, kept)
    new.config = model.config.model_copy(update={"blocks": specifications})
    old = [(cast("Block", new.blocks[index - 1]), model.config.blocks[index - 1]) for index in kept]
    new.blocks = nn.ModuleList(
        block if before == after else _narrow_block(new.config, block, after)
        for (block, before), after in zip(old, specifications, strict=True)
    )
    new.readout = nn.ModuleList(new.readout[index - 1] for index in kept)
    if not kept:
        term = Term(model.config.width, model.config.linear + model.config.hidden)
        nn.init.zeros_(term.weight)
        new.readout = nn.ModuleList([term]).to(next(model.parameters()))
    return new.train(model.training)


def narrowed(config: MACEConfig, kept: Sequence[int]) -> tuple[BlockConfig, ...]:
    """Return the kept blocks, each with the input that the one before gives and the output that the next one reads."""
    if tuple(kept) == tuple(range(1, len(config.blocks) + 1)):
        return config.blocks
    chosen = [config.blocks[index - 1] for index in kept]
    given = [f"{config.width}x0e", *(block.out for block in chosen)]
    sources = [_common(block.source, before) for block, before in zip(chosen, given, strict=False)]
    outs = [*sources[1:], "1x0e"][: len(chosen)]
    made = []
    for block, source, read in zip(chosen, sources, outs, strict=True):
        out = _common(block.out, read)
        paths = tuple(
            count for entry, count in zip(irreps(block.out), block.paths, strict=True) if entry.ir in irreps(out)
        )
        changes = {"source": source, "edge": _common(block.edge, source), "out": out, "paths": paths}
        made.append(block.model_copy(update=changes))
    return tuple(made)


def _common(text: str, other: str) -> str:
    """Return the irreps that both strings have."""
    return str(o3.Irreps([entry for entry in irreps(text) if entry.ir in irreps(other)]))


def _narrow_block(config: MACEConfig, old: Block, block: BlockConfig) -> Block:
    """Make a block with fewer irreps out of one with more."""
    new = Block(config, block).to(next(old.parameters()))
    mid_old, mid_new = _paths(old), _paths(new)
    theirs = dict(old.named_modules())
    done: set[str] = set()
    with torch.no_grad():
        for name, module in new.named_modules():
            if isinstance(module, o3.Linear):
                is_mid = name in {"interaction.linear", "interaction.linear_1"}
                keys = (mid_old, mid_new) if is_mid else (None, None)
                _copy_linear(theirs[name], module, *keys)
                done.add(f"{name}.weight")
            elif isinstance(module, o3.FullyConnectedTensorProduct):
                _copy_product(theirs[name], module)
                done.add(f"{name}.weight")
        done |= _copy_contractions(old, new) | _copy_radial(old, new, [mid_old.index(key) for key in mid_new])
        _copy_rest(old, new, done)
    for mine, yours in zip(new.parameters(), old.parameters(), strict=False):
        mine.requires_grad_(yours.requires_grad)
    return new


def _paths(block: Block) -> list[tuple[Any, Any, Any]]:
    """Return (source, edge, message) of the paths of a convolution, in the order of its messages."""
    product: Any = block.interaction.conv_tp
    found = {
        one.i_out: (
            product.irreps_in1[one.i_in1].ir,
            product.irreps_in2[one.i_in2].ir,
            product.irreps_out[one.i_out].ir,
        )
        for one in product.instructions
    }
    return [found[index] for index in sorted(found)]


def _key(entries: Any, keys: list[Any] | None) -> Callable[[int], Any]:
    return (lambda index: entries[index].ir) if keys is None else (lambda index: keys[index])


def _copy_linear(old: Any, new: Any, old_keys: list[Any] | None, new_keys: list[Any] | None) -> None:
    """Copy the weights of the remaining paths; e3nn scales them by their number."""
    source = _key(old.irreps_in, old_keys)
    views = {
        (source(one.i_in), old.irreps_out[one.i_out].ir): view * one.path_weight
        for _, one, view in old.weight_views(yield_instruction=True)
    }
    source = _key(new.irreps_in, new_keys)
    for _, one, view in new.weight_views(yield_instruction=True):
        view.copy_(views[source(one.i_in), new.irreps_out[one.i_out].ir] / one.path_weight)


def _copy_product(old: Any, new: Any) -> None:
    def key(of: Any, one: Any) -> tuple[Any, Any]:
        return of.irreps_in1[one.i_in1].ir, of.irreps_out[one.i_out].ir

    views = {key(old, one): view * one.path_weight for _, one, view in old.weight_views(yield_instruction=True)}
    for _, one, view in new.weight_views(yield_instruction=True):
        view.copy_(views[key(new, one)] / one.path_weight)


def _copy_contractions(old: Block, new: Block) -> set[str]:
    """Copy the parts of the product that make the remaining irreps."""
    theirs = dict(zip([entry.ir for entry in _made(old)], contractions(old), strict=True))
    for entry, contraction in zip(_made(new), contractions(new), strict=True):
        contraction.load_state_dict(theirs[entry.ir].state_dict())
    prefix = "product.symmetric_contractions."
    return {name for name in new.state_dict() if name.startswith(prefix)}


def _made(block: Block) -> Any:
    product: Any = block.product
    return product.symmetric_contractions.irreps_out


def _copy_radial(old: Block, new: Block, kept: list[int]) -> set[str]:
    """Copy the last layer that makes weights of distances: it has the channels of each path side by side."""
    net_old, net_new = cast("Any", old.interaction.conv_tp_weights), cast("Any", new.interaction.conv_tp_weights)
    names = [name for name, value in net_new.state_dict().items() if value.shape != net_old.state_dict()[name].shape]
    if not names:
        return set()
    sizes = [old.interaction.conv_tp.irreps_out[index].mul for index in range(len(_paths(old)))]
    rows = isinstance(net_new, package_blocks.RadialMLP)
    for name in names:
        value: Tensor = net_old.state_dict()[name]
        axis = 0 if rows else 1
        parts = value.split(_by_instruction(old, sizes), dim=axis)
        net_new.state_dict()[name].copy_(torch.cat([parts[index] for index in kept], dim=axis))
    return {f"interaction.conv_tp_weights.{name}" for name in names}


def _by_instruction(block: Block, sizes: list[int]) -> list[int]:
    """Return sizes in the order of the weights, which is that of the messages: the package sorts its paths by them."""
    order = [one.i_out for one in cast("Any", block.interaction.conv_tp).instructions]
    return [sizes[index] for index in order]


def _copy_rest(old: Block, new: Block, done: set[str]) -> None:
    """Copy what has the same name and shape; what follows from the irreps exists already."""
    theirs = old.state_dict()
    for name, value in new.state_dict().items():
        constant = "_w3j" in name or name.endswith("output_mask")
        if name not in done and not constant:
            value.copy_(theirs[name])
