"""Reading models that the package `mace-torch` saved, without executing anything that is in them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from atomslim.arguments import first_problem
from atomslim.errors import AtomslimWarning, CheckpointError, ConfigError
from atomslim.families.mace.config import BlockConfig, MACEConfig
from atomslim.families.mace.family import FAMILY
from atomslim.families.mace.model import MACE
from atomslim.families.mace.package import irreps, o3, scalars
from atomslim.families.mace.stored import (
    GATES,
    INTERACTIONS,
    MODELS,
    READOUTS,
    Stored,
    irreps_of,
    is_model,
    read_stored,
    tensors_of,
)
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.metadata import OWN_ENTRY, Metadata, checksum, restore, versions
from atomslim.models.tasks import Target, Task, task_name
from atomslim.models.tensors import is_finite, listed
from atomslim.unpickle.torch_file import StoredTensor

CONSTANTS = re.compile(
    r"output_mask$|\.bias$|conv_tp\.weight$|_zeroed$|^atomic_numbers$|r_max$|^num_interactions$|\.p$"
)
"""Names of tensors that follow from the configuration; biases only if they are empty."""

RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}


@dataclass
class _Tensors:
    """The tensors of a file, and which of them were read."""

    where: str
    stored: Mapping[str, StoredTensor]
    dtype: torch.dtype
    read: set[str] = field(default_factory=set)

    def take(self, name: str, shape: torch.Size | None = None) -> Tensor:
        """Return a tensor; raises CheckpointError if it is missing or not as expected."""
        found = self.stored.get(name)
        if found is None:
            raise CheckpointError(f"{self.where}: the tensor {name} is missing: give a whole model of MACE")
        self.read.add(name)
        values = found.read().clone()
        if values.is_floating_point():
            values = values.to(self.dtype)
        if shape is not None and values.shape != shape:
            raise CheckpointError(f"{self.where}: {name} has the shape {tuple(values.shape)} instead of {tuple(shape)}")
        if not is_finite(values):
            raise CheckpointError(f"{self.where}: {name} has NaN or infinite numbers")
        return values

    def refuse_rest(self) -> None:
        """Raise CheckpointError if there are tensors that no part of the model reads."""
        unread = [
            name
            for name, tensor in self.stored.items()
            if name not in self.read
            and not (CONSTANTS.search(name) and not (name.endswith("bias") and any(tensor.shape)))
            and 0 not in tensor.shape
        ]
        if unread:
            raise CheckpointError(f"{self.where}: {listed('not part of the model', unread)}")


def read_mace(path: Path) -> MACE:
    """Return the model of a file, in evaluation mode.

    Raises CheckpointError for a file that is not a model of MACE, is damaged, or has parts that are not supported.
    """
    where, content = str(path), read_stored(path)
    if not is_model(content):
        raise CheckpointError(
            f"{where}: holds no whole model of MACE: give the file that the package saved as .model, neither a "
            "checkpoint of a training run nor a compiled model"
        )
    _refuse(content, where)
    stored = dict(tensors_of(content))
    first = stored.get("node_embedding.linear.weight")
    tensors = _Tensors(where, stored, torch.float64 if first and first.dtype == torch.float64 else torch.float32)
    try:
        config = _config(content, tensors)
    except (KeyError, AttributeError, TypeError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{where}: is not a model of MACE as the package saves it: {first_problem(error)}"
        ) from error
    if config.radial == "chebyshev":
        warn(
            f"{where}: torch gives no derivative of its radial functions (Chebyshev): here as in the package, forces "
            "leave that part out, are not the slope of the energy, and dynamics will drift",
            AtomslimWarning,
            stacklevel=3,
        )
    tasks = _tasks(content, tensors, config)
    model = MACE(config, tasks).to(tensors.dtype)
    _fill(model, content, tensors)
    tensors.refuse_rest()
    model.history = [_entry(path)]
    if isinstance(content.get(OWN_ENTRY), str):
        restore(model, Metadata.parse(content.get(OWN_ENTRY), where), where)
    return model.eval()


def _refuse(content: Stored, where: str) -> None:
    """Raise CheckpointError, with the name of what is not supported, if the model has such parts."""
    if content.kind not in MODELS:
        raise CheckpointError(f"{where}: a {content.kind} is not supported: {' and '.join(MODELS)} are")
    if content.get("joint_embedding") is not None:
        raise CheckpointError(f"{where}: embeds charge, spin or similar besides elements, which is not supported")
    layers = [*content.modules("interactions"), *content.modules("products")]
    if any(_enabled(layer.get(name)) for layer in layers for name in ("cueq_config", "oeq_config")):
        raise CheckpointError(f"{where}: is in cuequivariance's layout: convert it with the package first")
    for name, known in (("interactions", INTERACTIONS), ("readouts", READOUTS)):
        kinds = [one.kind for one in content.modules(name)]
        there = content.get(name)
        count = len(there.state.get("_modules", {})) if isinstance(there, Stored) else 0
        unknown = [kind for kind in kinds if kind not in known]
        if unknown or len(kinds) != count or not kinds:
            found = unknown[0] if unknown else "a class that is not known"
            raise CheckpointError(f"{where}: has {found} among its {name}, which is not supported")


def _enabled(value: object) -> bool:
    return isinstance(value, Stored) and bool(value.get("enabled"))


def _config(content: Stored, tensors: _Tensors) -> MACEConfig:
    radial, readouts = content.get("radial_embedding"), content.modules("readouts")
    transform = radial.get("distance_transform")
    basis = radial.get("bessel_fn")
    blocks = tuple(
        _block(interaction, product)
        for interaction, product in zip(content.modules("interactions"), content.modules("products"), strict=True)
    )
    without = next((block.out for block in blocks if not scalars(block.out)), None)
    if without is not None:
        raise ValueError(f"a block gives {without}, which does not begin with even scalars: there is nothing to read")
    nonlinear = [one for one in readouts if one.kind != "LinearReadoutBlock"]
    heads = len(_heads(content))
    first: Any = content.modules("interactions")[0]
    harmonics = irreps(irreps_of(first.get("edge_attrs_irreps")))
    return MACEConfig(
        species=tuple(tensors.take("atomic_numbers").tolist()),
        cutoff=float(tensors.take("r_max").double()),
        cutoff_power=int(tensors.take("radial_embedding.cutoff_fn.p")),
        lmax_edge=harmonics.lmax,
        parity=harmonics == o3.Irreps.spherical_harmonics(harmonics.lmax),
        radial=RADIAL[basis.kind],
        num_radial=irreps(irreps_of(first.get("edge_feats_irreps"))).num_irreps,
        transform="None" if transform is None else TRANSFORMS[transform.kind],
        cutoff_on_basis=bool(radial.get("apply_cutoff", True)),
        pair_repulsion=content.get("pair_repulsion_fn") is not None,
        width=irreps(blocks[0].source).count("0e"),
        blocks=blocks,
        linear=heads,
        hidden=irreps(irreps_of(nonlinear[0].get("hidden_irreps"))).num_irreps if nonlinear else 1,
        gate=_gate(nonlinear[0]) if nonlinear else None,
        second_layer=bool(nonlinear) and nonlinear[0].kind == "NonLinearBiasReadoutBlock",
    )


def _gate(readout: Stored) -> str | None:
    acts = readout.get("non_linearity").get("acts")
    entries = list(acts.state["_modules"].values()) if isinstance(acts, Stored) else []
    if not entries or entries[0] is None:
        return None
    name = entries[0].get("f") if isinstance(entries[0], Stored) else None
    if not isinstance(name, str) or name not in GATES:
        raise ValueError("an activation in its readout that is not supported")
    return name


def _block(interaction: Stored, product: Stored) -> BlockConfig:
    contraction = product.get("symmetric_contractions")
    parts = contraction.modules("contractions")
    source = irreps_of(interaction.get("node_feats_irreps"))
    edge = interaction.get("edge_irreps")
    hidden = interaction.get("conv_tp_weights").get("hs")
    return BlockConfig(
        interaction=interaction.kind,
        source=source,
        edge=source if edge is None else irreps_of(edge),
        target=irreps_of(interaction.get("target_irreps")),
        out=irreps_of(interaction.get("hidden_irreps")),
        radial_hidden=tuple(interaction.get("radial_MLP") or hidden[1:-1]),
        average_neighbours=_number(interaction.get("avg_num_neighbors")),
        correlation=parts[0].get("correlation"),
        self_connection=bool(product.get("use_sc")),
        agnostic=bool(product.get("use_agnostic_product", False)),
        paths=tuple(
            tuple(one.get(f"U_matrix_{power}").shape[-1] for power in range(1, one.get("correlation") + 1))
            for one in parts
        ),
    )


def _number(value: Any) -> float:
    return float(value.read()) if isinstance(value, StoredTensor) else float(value)


def _heads(content: Stored) -> list[str]:
    """Return the names of heads as valid task names."""
    heads = content.get("heads")
    names = [str(name) for name in heads] if isinstance(heads, list) and heads else ["Default"]
    return list(map(task_name, names))


def _tasks(content: Stored, tensors: _Tensors, config: MACEConfig) -> list[Task]:
    """Return a task for each head, with energies of atoms and shifts as references."""
    names, elements = _heads(content), len(config.species)
    energies = tensors.take("atomic_energies_fn.atomic_energies").double().reshape(-1, elements)
    scaled = content.kind == "ScaleShiftMACE"
    scale, shift = (
        tensors.take(f"scale_shift.{name}").double().reshape(-1) if scaled else torch.tensor([default])
        for name, default in (("scale", 1.0), ("shift", 0.0))
    )
    if bool((scale <= 0).any()):
        raise CheckpointError(f"{tensors.where}: scale_shift.scale has numbers that are not above zero")
    try:
        rows = energies.expand(len(names), -1) + shift.double().expand(len(names))[:, None]
        tables = [dict(zip(config.species, row, strict=True)) for row in rows.tolist()]
        scales = scale.expand(len(names)).tolist()
        return [_task(*one, config) for one in zip(names, tables, scales, strict=True)]
    except (RuntimeError, ConfigError) as error:
        raise CheckpointError(f"{tensors.where}: its energies do not fit its heads: {first_problem(error)}") from error


def _task(name: str, references: dict[int, float], scale: float, config: MACEConfig) -> Task:
    energy = Target(name="energy", kind="energy", std=scale, references=references)
    forces = Target(name="forces", kind="conservative_forces", unit="eV/Å")
    return Task(name=name, targets=(energy, forces), graph=GraphSettings(cutoff=config.cutoff))


def _fill(model: MACE, content: Stored, tensors: _Tensors) -> None:
    """Give the model the numbers of the file."""
    with torch.no_grad():
        for ours, theirs, value in _names(model):
            if "_w3j" in ours or ours.endswith("output_mask"):
                continue
            value.copy_(tensors.take(theirs, value.shape))
        _fill_readout(model, content, tensors)


def _names(model: MACE) -> Iterator[tuple[str, str, Tensor]]:
    """Give our name, the file's name, and our tensor for everything that is stored identically."""
    for name, value in model.embedding.state_dict().items():
        yield name, name, value
    for index, block in enumerate(model.blocks):
        for name, value in block.state_dict().items():
            yield name, re.sub(r"^(interaction|product)\.", rf"\1s.{index}.", name), value


def _fill_readout(model: MACE, content: Stored, tensors: _Tensors) -> None:
    """Read the blocks' readouts as rows of their terms, and what follows the last one as heads."""
    config = model.config
    terms = [term.get_parameter("weight") for term in model.readout]
    for weight in terms:
        weight.zero_()
    for task in model.tasks:
        for weight in model.heads.get_submodule(f"{task}.energy").parameters():
            weight.zero_()
    for index, task in enumerate(model.tasks):
        model.heads.get_submodule(f"{task}.energy").get_parameter("linear")[index] = 1.0
    readouts = content.modules("readouts")
    blocks = [len(terms) - 1] if len(readouts) == 1 else range(len(readouts))
    for number, (block, readout) in enumerate(zip(blocks, readouts, strict=True)):
        weight, name = terms[block], f"readouts.{number}"
        if readout.kind == "LinearReadoutBlock":
            weight[: config.linear] = _matrix(tensors, f"{name}.linear", weight.shape[1], config.linear).T
        else:
            weight[config.linear :] = _matrix(tensors, f"{name}.linear_1", weight.shape[1], config.hidden).T
            _fill_heads(model, tensors, name)


def _fill_heads(model: MACE, tensors: _Tensors, name: str) -> None:
    config, count = model.config, len(model.tasks)
    units = config.hidden // count
    last = _matrix(tensors, f"{name}.linear_2", config.hidden, count)
    for index, task in enumerate(model.tasks):
        head: Any = model.heads.get_submodule(f"{task}.energy")
        mine = slice(index * units, (index + 1) * units)
        head.last[mine] = last[mine, index]
        if config.second_layer:
            head.middle[mine, mine] = _matrix(tensors, f"{name}.linear_mid", config.hidden, config.hidden)[mine, mine]
            head.middle_bias[mine] = tensors.take(f"{name}.linear_mid.bias")[mine]
            head.bias[0] = tensors.take(f"{name}.linear_2.bias")[index]


def _matrix(tensors: _Tensors, name: str, fan_in: int, out: int) -> Tensor:
    """Return the matrix of one of e3nn's linear maps of scalars, its factor included."""
    return tensors.take(f"{name}.weight", torch.Size([fan_in * out])).reshape(fan_in, out) * fan_in**-0.5


def _entry(path: Path) -> dict[str, Any]:
    return {
        "operation": "read",
        "format": "MACE",
        "file": path.name,
        "sha256": checksum(path),
        "versions": versions(FAMILY),
    }
