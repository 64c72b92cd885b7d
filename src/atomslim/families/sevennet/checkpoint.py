"""Reading and writing checkpoints of the package `sevenn`, without executing anything that is in them.

Two things differ in checkpoints before 0.11: weights of paths are in the order in which paths are found, and some 3j
symbols have the opposite sign, which the file holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from e3nn.o3 import wigner_3j
from sevenn.scripts.backward_compatibility import map_old_model
from torch import Tensor

from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.family import FAMILY, is_sevennet
from atomslim.families.sevennet.geometry import RadialBasis
from atomslim.families.sevennet.irreps import TensorPath, all_paths, read_paths, scalar_widths
from atomslim.families.sevennet.layout import slots
from atomslim.families.sevennet.model import SevenNet
from atomslim.families.sevennet.options import understood
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.metadata import OWN_ENTRY, Metadata, checksum, restore, versions
from atomslim.models.tasks import Target, Task, task_name
from atomslim.models.tensors import is_finite, listed
from atomslim.unpickle.torch_file import StoredTensor, read_pt

CONSTANTS = ("output_mask", "_w3j", "equivariant_gate.", "convolution.convolution.", "linear.bias", ".tp.", "module.")
"""Parts of the names of tensors that follow from the configuration."""

SORTED_SINCE = (0, 11, 0)
"""The first version in which weights of paths are sorted by message."""

TASK = "potential"
"""The task of a model of one level of theory."""


@dataclass
class _Tensors:
    """The tensors of a checkpoint, and which of them were read."""

    where: str
    stored: Mapping[str, Any]
    read: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def take(self, name: str, count: int | None = None) -> Tensor:
        """Return a tensor in float32 or wider; raises CheckpointError if it is missing or not as expected."""
        found = self.stored.get(name)
        if not isinstance(found, StoredTensor) or not found.dtype.is_floating_point:
            raise CheckpointError(f"{self.where}: the tensor {name} is missing: give a whole checkpoint of SevenNet")
        self.read.add(name)
        values = found.read().clone()
        values = values if values.dtype == torch.float64 else values.float()
        if count is not None and values.numel() != count:
            raise CheckpointError(f"{self.where}: {name} has {values.numel()} numbers instead of {count}")
        if not is_finite(values):
            raise CheckpointError(f"{self.where}: {name} has NaN or infinite numbers")
        return values

    def refuse_rest(self) -> None:
        """Raise CheckpointError if there are tensors that no part of the model reads."""
        unread = [name for name in self.stored if name not in self.read and not any(c in name for c in CONSTANTS)]
        if unread:
            raise CheckpointError(f"{self.where}: {listed('not part of the model', unread)}")


def read_sevennet(path: Path) -> SevenNet:
    """Return the model of a checkpoint of SevenNet, in evaluation mode.

    Raises CheckpointError for a file that is not one, is damaged, or has options that are not supported.
    """
    where, content = str(path), read_pt(path)
    if not is_sevennet(content):
        raise CheckpointError(f"{where}: is not a checkpoint of SevenNet: it needs model_state_dict and config")
    version, config = understood(content["config"], where)
    names = content["model_state_dict"]
    tensors = _Tensors(where, map_old_model(names) if version < (0, 10, 0) else names)
    config, tasks = _tasks(tensors, config)
    weights = dict(_weights(tensors, config, sort=_is_sorted(content["config"], version)))
    weights |= _heads(tensors, config, tasks)
    tensors.refuse_rest()
    model = SevenNet(config, tasks)
    model.load_state_dict(weights, assign=True)
    model.history = [_entry(content, path)]
    if OWN_ENTRY in content:
        restore(model, Metadata.parse(content[OWN_ENTRY], where), where)
    return model.eval()


def _is_sorted(options: Mapping[str, Any], version: tuple[int, int, int]) -> bool:
    return version > SORTED_SINCE or (version == SORTED_SINCE and not str(options["version"]).endswith(".dev0"))


def _weights(tensors: _Tensors, config: SevenNetConfig, *, sort: bool) -> Iterator[tuple[str, Tensor]]:
    """Give all weights except those of the heads."""
    basis = "edge_embedding.basis_function.coeffs"
    if basis in tensors:
        yield "radial.frequencies", tensors.take(basis, config.num_radial)
    else:  # they are not trained
        yield "radial.frequencies", RadialBasis(config).frequencies.detach()
    for slot in slots(config):
        yield from slot.read(tensors.take(slot.theirs, slot.count))
    for index in range(config.num_blocks):
        yield f"blocks.{index}.convolution.last", _last_layer(tensors, config, index, sort=sort)


def _last_layer(tensors: _Tensors, config: SevenNetConfig, index: int, *, sort: bool) -> Tensor:
    """Return the radial weights of a convolution's paths in our order, with the signs of the file's 3j symbols."""
    paths, fan_in = all_paths(config, index, sort=sort), ((config.num_radial, *config.radial_hidden))[-1]
    name = f"{index}_convolution.weight_nn.layer{len(config.radial_hidden)}.weight"
    values = tensors.take(name, fan_in * sum(path.channels for path in paths)).reshape(fan_in, -1)
    columns = dict(zip(map(path_key, paths), values.split([path.channels for path in paths], dim=1), strict=True))
    ours = [columns[path_key(path)] * _sign(tensors, index, path) for path in read_paths(config, index)]
    return torch.cat(ours, dim=1) * fan_in**-0.5


def path_key(path: TensorPath) -> tuple[Any, ...]:
    """Return the key of a path within its convolution."""
    return path.source, path.edge, path.message


def _sign(tensors: _Tensors, index: int, path: TensorPath) -> float:
    """Return −1 if the file's 3j symbol is minus e3nn's; raises CheckpointError if it is something else."""
    degrees = path.source.l, path.edge.l, path.message.l
    name = f"{index}_convolution.convolution._compiled_main_left_right._w3j_" + "_".join(map(str, degrees))
    if name not in tensors:
        return 1.0
    stored, ours = tensors.take(name).float(), wigner_3j(*degrees, dtype=torch.float32)
    for sign in (1.0, -1.0):
        if stored.shape == ours.shape and torch.allclose(stored, sign * ours, atol=1e-5):
            return sign
    raise CheckpointError(
        f"{tensors.where}: {name} is not a 3j symbol of e3nn 0.5 or later: convert the checkpoint first"
    )


def _tasks(tensors: _Tensors, config: SevenNetConfig) -> tuple[SevenNetConfig, list[Task]]:
    """Return a task for each level of theory, with its shifts as references and its scale."""
    names = [task_name(level) for level in config.modality.names] or [TASK]
    shifts, scales = (
        _by_level(tensors, f"rescale_atomic_energy.{kind}", config, len(names)) for kind in ("shift", "scale")
    )
    uniform = all(len(set(scale)) == 1 for scale in scales)
    changes = {"element_scales": not uniform, "task_modalities": dict(zip(names, config.modality.names, strict=False))}
    config = config.model_copy(update=changes)
    try:
        return config, [
            _task(name, dict(zip(config.species, shift, strict=True)), scale[0] if uniform else 1.0, config)
            for name, shift, scale in zip(names, shifts, scales, strict=True)
        ]
    except ConfigError as error:
        raise CheckpointError(f"{tensors.where}: a level of theory or its scale: {error}") from error


def _by_level(tensors: _Tensors, name: str, config: SevenNetConfig, levels: int) -> list[list[float]]:
    """Return shifts or scales by level of theory and element."""
    values, elements = tensors.take(name), len(config.species)
    if values.numel() not in {1, elements, levels * elements}:
        raise CheckpointError(f"{tensors.where}: {name} has {values.numel()} numbers for {elements} elements")
    rows = values.reshape(-1, 1 if values.numel() == 1 else elements)
    return rows.expand(levels, elements).tolist()


def _task(name: str, shift: dict[int, float], scale: float, config: SevenNetConfig) -> Task:
    energy = Target(name="energy", kind="energy", std=scale, references=shift)
    forces = Target(name="forces", kind="conservative_forces", unit="eV/Å")
    return Task(name=name, targets=(energy, forces), graph=GraphSettings(cutoff=config.cutoff))


def _heads(tensors: _Tensors, config: SevenNetConfig, tasks: Sequence[Task]) -> dict[str, Tensor]:
    """Return the readout's first layer and the heads of all tasks."""
    read = _fcn_readout if config.act_readout else _linear_readout
    first, offsets, later, bias = read(tensors, config)
    found = {"readout.weight": first.T.contiguous()}
    for level, task in enumerate(tasks):
        head = f"heads.{task.name}.energy"
        found |= {f"{head}.layers.{index}": layer.clone() for index, layer in enumerate(later)}
        if offsets is not None:
            found[f"{head}.offset"] = offsets[level].clone()
        if bias is not None:
            found[f"{head}.bias"] = bias.clone()
    if config.element_scales:
        scales = _by_level(tensors, "rescale_atomic_energy.scale", config, len(tasks))
        found |= {f"heads.{t.name}.energy.scale": torch.tensor(s) for t, s in zip(tasks, scales, strict=True)}
    return found


def _fcn_readout(tensors: _Tensors, config: SevenNetConfig) -> tuple[Tensor, None, list[Tensor], None]:
    widths = (scalar_widths(config)[-1], *config.readout_hidden, 1)
    layers = [
        tensors.take(f"readout_FCN.fcn.layer{index}.weight", a * b).reshape(a, b) * a**-0.5
        for index, (a, b) in enumerate(pairwise(widths))
    ]
    return layers[0], None, layers[1:], None


def _linear_readout(
    tensors: _Tensors, config: SevenNetConfig
) -> tuple[Tensor, Tensor | None, list[Tensor], Tensor | None]:
    width, (hidden,) = scalar_widths(config)[-1], config.readout_hidden
    levels = len(config.modality.names) if config.modality.readout else 0
    rows = tensors.take("reduce_input_to_hidden.linear.weight", (width + levels) * hidden).reshape(-1, hidden)
    rows = rows * (width + levels) ** -0.5
    last = tensors.take("reduce_hidden_to_energy.linear.weight", hidden).reshape(hidden, 1) * hidden**-0.5
    if not (levels or config.readout_biases):
        return rows, None, [last], None
    count = max(len(config.modality.names), 1)
    offsets = rows[width:] if levels else rows.new_zeros(count, hidden)
    bias = None
    if config.readout_biases:
        offsets = offsets + tensors.take("reduce_input_to_hidden.linear.bias", hidden)
        bias = tensors.take("reduce_hidden_to_energy.linear.bias", 1).reshape(1)
    return rows[:width], offsets, [last], bias


def _entry(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    epoch, version = content.get("epoch"), content["config"]["version"]
    return {
        "operation": "read",
        "format": "SevenNet",
        "file": path.name,
        "sha256": checksum(path),
        "notes": [f"written by sevenn {version}" + (f" after epoch {epoch}" if isinstance(epoch, int) else "")],
        "versions": versions(FAMILY),
    }
