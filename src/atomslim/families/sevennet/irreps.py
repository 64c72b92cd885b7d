"""The irreducible representations ("irreps") of the layers of a SevenNet model.

A state is a direct sum of irreps: channels × (2l + 1) components, even or odd under inversion. Its even scalars (0e)
come first and are invariant.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from e3nn.o3 import Irrep, Irreps

from atomslim.families.sevennet.config import SevenNetConfig

SCALAR = Irrep("0e")


@dataclass(frozen=True)
class TensorPath:
    """One way from a neighbour's irrep and a spherical harmonic to a message: l₁ ⊗ l₂ → l₃."""

    source: Irrep
    edge: Irrep
    message: Irrep
    channels: int


def checked_irreps(irreps: object) -> Irreps:
    """Parse the irreps of a state; raises ValueError unless even scalars come first and none comes twice."""
    found = Irreps(irreps).simplify().remove_zero_multiplicities()
    kinds = [entry.ir for entry in found]
    if not kinds or kinds[0] != SCALAR or len(set(kinds)) < len(kinds):
        raise ValueError(f"irreps {irreps}: even scalars must come first, and each irrep once")
    return found


def gated_irreps(irreps: Irreps) -> Irreps:
    """Return the input of a block's gate: its output, and one even scalar as gate of each channel with l > 0."""
    gates = sum(entry.mul for entry in irreps if entry.ir.l > 0)
    return Irreps([(gates, SCALAR), *irreps]).regroup()


@lru_cache(maxsize=256)
def convolution_paths(source: str, edge: str, out: str, *, last: bool) -> tuple[TensorPath, ...]:
    """Return all paths of a block's convolution, in the order in which they are found.

    There are messages of any degree up to the highest of the block's output, even ones only in the last block,
    whether or not they are used.
    """
    lmax = Irreps(out).lmax
    return tuple(
        TensorPath(entry.ir, harmonic.ir, message, entry.mul)
        for entry in Irreps(source)
        for harmonic in Irreps(edge)
        for message in entry.ir * harmonic.ir
        if message.l <= lmax and (message.p == 1 or not last)
    )


def in_order(paths: Iterable[TensorPath]) -> tuple[TensorPath, ...]:
    """Sort paths by message, as weights and messages are; those to one message keep their order."""
    return tuple(sorted(paths, key=lambda path: path.message))


def wanted(paths: Iterable[TensorPath], out: Irreps) -> tuple[TensorPath, ...]:
    """Return the paths whose messages a block with this output uses."""
    read = {entry.ir for entry in gated_irreps(out)}
    return tuple(path for path in paths if path.message in read)


def channels(irreps: Irreps) -> dict[Irrep, int]:
    """Return irrep → number of channels, in the order of the irreps."""
    return {entry.ir: entry.mul for entry in irreps}


def scalar_widths(config: SevenNetConfig) -> tuple[int, ...]:
    """Return the number of even scalars of the embedding and of every block."""
    return tuple(Irreps(entry).count(SCALAR) for entry in config.irreps)


def edge_irreps(config: SevenNetConfig) -> Irreps:
    """Return the spherical harmonics of an edge."""
    return Irreps.spherical_harmonics(config.lmax_edge, -1 if config.parity else 1)


def all_paths(config: SevenNetConfig, index: int, *, sort: bool = True) -> tuple[TensorPath, ...]:
    """Return all paths of block ``index``'s convolution (from 0), including unused ones.

    Unless asked to ``sort``, they are in the order in which they are found.
    """
    last = index == config.num_blocks - 1
    paths = convolution_paths(config.irreps[index], str(edge_irreps(config)), config.irreps[index + 1], last=last)
    return in_order(paths) if sort else paths


def read_paths(config: SevenNetConfig, index: int) -> tuple[TensorPath, ...]:
    """Return the paths of block ``index``'s convolution (from 0) whose messages the block uses."""
    return wanted(all_paths(config, index), Irreps(config.irreps[index + 1]))
