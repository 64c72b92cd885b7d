"""Reading weights that the package `orb-models` saved, without executing anything that is in them.

Its files are dictionaries of tensors. Sizes are read from these; what no tensor says
comes from the file's name or an option, or is as in the published models with such tensors.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from warnings import warn

import pydantic
import torch
from torch import Tensor, nn

from atomslim.arguments import first_problem
from atomslim.errors import AtomslimWarning, CheckpointError, ConfigError
from atomslim.families.orb.config import ALL_NEIGHBOURS, ENVELOPE, Activation, OrbConfig, OrbGraphSettings
from atomslim.families.orb.family import FAMILY
from atomslim.models.metadata import OWN_ENTRY, Metadata, checksum, restore, versions
from atomslim.models.tasks import Target, Task
from atomslim.models.tensors import is_finite, listed
from atomslim.unpickle.torch_file import StoredTensor, read_pt

if TYPE_CHECKING:
    from atomslim.families.orb.model import Orb

TASK = "orb"

OWN = f"heads.{OWN_ENTRY}"
"""Key of atomslim's metadata in a file: the package ignores heads that its model lacks."""

OLD_HEADS = {"node_head.": "heads.forces.", "graph_head.": "heads.energy.", "stress_head.": "heads.stress."}
"""Names in files of 2024."""

UNUSED = re.compile(r"model\._decoder\.|grad_(forces|stress)_normalizer\.|.*\.num_batches_tracked$")
"""Tensors that do not affect the package's predictions."""

EMBEDDING, STACKS = "model.atom_emb.embeddings.weight", re.compile(r"model\.gnn_stacks\.(\d+)\.")
SIGN = "gnn_stacks.0._receive_attn.weight"
ENCODER, EDGES = "model._encoder._node_fn", "model._encoder._edge_fn"
BESSEL = "model.rbf_transform.bessel_weights"


@dataclass
class _Tensors:
    """The tensors of a file by current names, and which of them were read."""

    where: str
    stored: Mapping[str, StoredTensor]
    read: set[str] = field(default_factory=set)

    @property
    def dtype(self) -> torch.dtype:
        """The model's dtype."""
        wide = any(tensor.dtype == torch.float64 for name, tensor in self.stored.items() if name.startswith("model."))
        return torch.float64 if wide else torch.float32

    def take(self, name: str, shape: torch.Size | None = None) -> Tensor:
        """Return a tensor; raises CheckpointError if it is missing or not as expected."""
        found = self.stored.get(name)
        if found is None:
            raise CheckpointError(f"{self.where}: the tensor {name} is missing: give the weights of a whole Orb model")
        self.read.add(name)
        values = found.read().clone()
        if not values.is_floating_point():
            raise CheckpointError(f"{self.where}: {name} has no floating-point numbers")
        if shape is not None and values.shape != shape:
            raise CheckpointError(f"{self.where}: {name} has the shape {tuple(values.shape)} instead of {tuple(shape)}")
        if not is_finite(values):
            raise CheckpointError(f"{self.where}: {name} has NaN or infinite numbers")
        return values

    def scale(self, name: str) -> tuple[float, float]:
        """Return mean and variance of a normaliser."""
        mean, variance = (self.take(f"{name}.bn.running_{what}").double().reshape(-1) for what in ("mean", "var"))
        if len(mean) != 1 or len(variance) != 1 or variance <= 0:
            raise CheckpointError(f"{self.where}: {name} is not a scale: its variance is not one number above zero")
        return float(mean), float(variance)

    def refuse_rest(self) -> None:
        """Raise CheckpointError if there are tensors that no part of the model reads."""
        unread = [name for name in self.stored if name not in self.read and not UNUSED.match(name)]
        if unread:
            raise CheckpointError(f"{self.where}: {listed('not part of the model', unread)}")


def is_orb(path: Path) -> bool:
    """Say whether a file has weights of Orb; raises CheckpointError for one that cannot be read."""
    content = read_pt(path)
    return isinstance(content, Mapping) and any(str(name).endswith(SIGN) for name in content)


def read_orb(
    path: Path, *, neighbours: str | int | None = None, activation: str | None = None, repulsion: str | None = None
) -> "Orb":
    """Return the model of a file, in evaluation mode, with the task ``orb``.

    Files lack some options. ``neighbours`` is the neighbour cap: by default from the file's name, as in those of
    published models (-20-, -inf-), else 20 for models with the layers of Orb v2, and 120 for others, with a warning.
    ``activation`` is ssp, silu or gelu: by default ssp for v2 and silu for v3. ``repulsion``, yes or no: by default yes
    for v3 only.

    Raises CheckpointError for a file that cannot be read, is none of Orb, or has parts that are not supported, and
    ConfigError for unknown values.
    """
    from atomslim.families.orb.model import Orb  # noqa: PLC0415 - it imports the package

    where, content = str(path), read_pt(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where}: holds no weights of Orb by name")
    own = content.get(OWN)
    tensors = _Tensors(where, _named({name: value for name, value in content.items() if name != OWN}, where))
    metadata = None if own is None else Metadata.parse(own, where)
    given = {"neighbours": neighbours, "activation": activation, "repulsion": repulsion}
    config, graph = _of_metadata(metadata, given, where) if metadata else _inferred(tensors, given, path)
    dropped = _without_unknown_heads(tensors)
    model = Orb(config, [_task(tensors, graph)]).to(tensors.dtype)
    _fill(model, tensors)
    tensors.refuse_rest()
    model.history = [_entry(path, config, graph, dropped)]
    if metadata is not None:
        restore(model, metadata, where)
    return model.eval()


def _named(content: Mapping[str, Any], where: str) -> dict[str, StoredTensor]:
    """Return the tensors by the package's current names."""
    others = [str(name) for name, value in content.items() if not isinstance(value, StoredTensor)]
    if others:
        raise CheckpointError(f"{where}: {listed('no tensors', others)}; expected the state_dict of an Orb model")
    renamed = {_today(str(name)): value for name, value in content.items()}
    if not any(name.startswith("heads.") for name in renamed):
        raise CheckpointError(f"{where}: has no heads: give the weights of a force field, not of a base model")
    if any(name.startswith("model.model.") for name in renamed):  # that of a denoiser around it
        inner = {
            name.removeprefix("model."): value for name, value in renamed.items() if name.startswith("model.model")
        }
        renamed = {name: value for name, value in renamed.items() if not name.startswith("model.")} | inner
    if any(name.startswith("model.conditioner.") for name in renamed):
        raise CheckpointError(
            f"{where}: takes charge and spin of structures, as omol models do, and structures here have none: give a "
            "model without them, omat or mpa"
        )
    return renamed


def _today(name: str) -> str:
    old = next((prefix for prefix in OLD_HEADS if name.startswith(prefix)), None)
    return name if old is None else OLD_HEADS[old] + name.removeprefix(old)


def _of_metadata(metadata: Metadata, given: Mapping[str, Any], where: str) -> tuple[OrbConfig, OrbGraphSettings]:
    """Return atomslim's metadata of a file that it wrote."""
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ConfigError(f"{where}: was written by atomslim and says itself what {named[0]} is: leave the option out")
    config, graph = metadata.config, metadata.tasks[0].graph
    if not isinstance(config, OrbConfig) or not isinstance(graph, OrbGraphSettings):
        raise CheckpointError(f"{where}: its entry {OWN!r} is about another model; remove the entry")
    return config.model_copy(update={"stress_heads": (TASK,) * bool(config.stress_heads)}), graph


def _inferred(tensors: _Tensors, given: Mapping[str, Any], path: Path) -> tuple[OrbConfig, OrbGraphSettings]:
    try:
        config = _config(tensors, given)
    except KeyError as error:
        raise CheckpointError(f"{path}: the tensor {error.args[0]} is missing: give a whole Orb model") from error
    except (pydantic.ValidationError, IndexError) as error:
        raise CheckpointError(f"{path}: has tensors of no Orb model: {first_problem(error)}") from error
    radius = min(ENVELOPE, config.radial_cutoff)
    return config, OrbGraphSettings(cutoff=radius, max_neighbours=_neighbours(given["neighbours"], config, path))


def _config(tensors: _Tensors, given: Mapping[str, Any]) -> OrbConfig:
    shapes = {name: tensor.shape for name, tensor in tensors.stored.items()}
    steps = [int(found[1]) for name in shapes if (found := STACKS.match(name))]
    norm = "layer_norm" if f"{ENCODER}.layer_norm.bias" in shapes else "rms_norm"
    conservative = any(name.startswith("grad_forces_normalizer.") for name in shapes)
    layers, head_layers = _layers(shapes, f"{ENCODER}.mlp"), _layers(shapes, "heads.energy.mlp")
    aggregated = "mean" if conservative else "sum"
    edges = shapes[f"{EDGES}.mlp.NN-0.weight"][1]
    radial = shapes[BESSEL][0] if BESSEL in shapes else edges - 3
    v3 = norm == "rms_norm"
    return OrbConfig(
        width=shapes[EMBEDDING][1],
        num_blocks=1 + max(steps, default=-1),
        mlp_layers=layers - 1,
        mlp_hidden=shapes[f"{ENCODER}.mlp.NN-0.weight"][0],
        head_layers=head_layers - 1,
        head_hidden=shapes["heads.energy.mlp.NN-0.weight"][0],
        activation=_activation(given["activation"], "silu" if v3 else "ssp"),
        norm=norm,
        num_radial=radial,
        radial_cutoff=float(tensors.take("model.rbf_transform.r_max").double()) if BESSEL in shapes else 10.0,
        lmax=_lmax(edges, radial, tensors.where) if BESSEL in shapes else None,
        repulsion=aggregated if _yes(given["repulsion"], default=v3) else "none",
        confidence=shapes["heads.confidence.bin_edges"][0] - 1 if "heads.confidence.bin_edges" in shapes else 0,
        stress_heads=(TASK,) if "heads.stress.mlp.NN-0.weight" in shapes and not conservative else (),
    )


def _layers(shapes: Mapping[str, torch.Size], prefix: str) -> int:
    """Count the linear layers of a network."""
    return sum(bool(re.fullmatch(rf"{re.escape(prefix)}\.NN-\d+\.weight", name)) for name in shapes)


def _lmax(edges: int, radial: int, where: str) -> int:
    degree = math.isqrt(edges // radial) - 1
    if radial * (degree + 1) ** 2 != edges:
        raise CheckpointError(
            f"{where}: its edges are not Bessel functions times spherical harmonics, the only ones known"
        )
    return degree


def _activation(given: str | None, default: Activation) -> Any:
    if given is not None and given not in get_args(Activation):
        raise ConfigError(f"activation {given!r}: give one of {', '.join(get_args(Activation))}")
    return given or default


def _yes(given: str | None, *, default: bool) -> bool:
    if given not in {None, "yes", "no"}:
        raise ConfigError(f"repulsion {given!r}: give yes or no")
    return default if given is None else given == "yes"


def _neighbours(given: str | int | None, config: OrbConfig, path: Path) -> int:
    """Return the neighbour cap: as given, from the file's name, or the usual one."""
    if given is not None:
        if not str(given).isdecimal() or not int(given):
            raise ConfigError(f"neighbours {given}: give the most neighbours that an atom looks at, 1 or more")
        return int(given)
    named = re.search(r"-(?:conservative|direct)-([1-9]\d{0,2}|inf)-", path.name)
    if named:
        return ALL_NEIGHBOURS if named[1] == "inf" else int(named[1])
    if config.norm == "layer_norm":
        return 20
    warn(
        f"{path}: does not say how many neighbours an atom looks at: {ALL_NEIGHBOURS} are assumed, as in models that "
        "are called -inf-; for others read it with atomslim.load(…, neighbours='20'), say, and save it",
        AtomslimWarning,
        stacklevel=5,
    )
    return ALL_NEIGHBOURS


def _without_unknown_heads(tensors: _Tensors) -> list[str]:
    """Leave out heads of other quantities, and those that duplicate derivatives; return and report their names."""
    conservative = any(name.startswith("grad_forces_normalizer.") for name in tensors.stored)
    known = {"energy", "confidence"} if conservative else {"energy", "forces", "stress", "confidence"}
    heads = {name: name.split(".")[1] for name in tensors.stored if name.startswith("heads.")}
    dropped = sorted(set(heads.values()) - known)
    tensors.stored = {name: value for name, value in tensors.stored.items() if heads.get(name, "energy") in known}
    if dropped:
        text = f"{tensors.where}: {listed('heads left out, which nothing here reads', dropped)}"
        warn(text, AtomslimWarning, stacklevel=4)
    return dropped


def _task(tensors: _Tensors, graph: OrbGraphSettings) -> Task:
    """Return the task: per-element energies, and the network's mean per-atom offset, are references."""
    mean, variance = tensors.scale("heads.energy.normalizer")
    table = tensors.take("heads.energy.reference.linear.weight").double().reshape(-1).tolist()
    references = {number: value + mean for number, value in enumerate(table) if number}
    energy = Target(name="energy", kind="energy", std=math.sqrt(variance), references=references)
    if "heads.forces.mlp.NN-0.weight" in tensors.stored:
        std = math.sqrt(tensors.scale("heads.forces.normalizer")[1])
        forces = Target(name="forces", kind="direct_forces", unit="eV/Å", std=std)
    elif any(name.startswith("grad_forces_normalizer.") for name in tensors.stored):
        forces = Target(name="forces", kind="conservative_forces", unit="eV/Å")
    else:
        return Task(name=TASK, targets=(energy,), graph=graph)
    return Task(name=TASK, targets=(energy, forces), graph=graph)


def _fill(model: "Orb", tensors: _Tensors) -> None:
    """Give the model the numbers of the file."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            theirs = theirs_of(name)
            if theirs is not None:
                value.copy_(tensors.take(theirs, value.shape))
        if model.task().direct:
            head = model.heads.get_submodule(f"{TASK}.forces")
            head.get_buffer("mean").fill_(tensors.scale("heads.forces.normalizer")[0])
        for stress in model.stresses.values():
            _scale_stress(stress, tensors)


def theirs_of(name: str, task: str = TASK, targets: Mapping[str, str] | None = None) -> str | None:
    """Return the package's name of one of our tensors, None for one that it does not have."""
    first, _, rest = name.partition(".")
    if first == "embedding":
        return rest.replace("network.", "model.", 1)
    if first == "blocks":
        return re.sub(r"^(\d+)\.layers\.", r"model.gnn_stacks.\1.", rest)
    if first == "confidence":
        return f"heads.confidence.{rest}"
    if first == "stresses" and rest.startswith(f"{task}.mlp."):
        return rest.replace(f"{task}.", "heads.stress.", 1)
    for ours, there in (targets or {"energy": "energy", "forces": "forces"}).items():
        if first == "heads" and rest.startswith(f"{task}.{ours}.mlp."):
            return rest.replace(f"{task}.{ours}.", f"heads.{there}.", 1)
    return None


def _scale_stress(head: nn.Module, tensors: _Tensors) -> None:
    """Take over the scales of stress: v2 has one, v3 one of the diagonal and one of the rest."""
    one = "heads.stress.normalizer"
    two = ["heads.stress.diag_normalizer", "heads.stress.offdiag_normalizer"]
    names = [one, one] if f"{one}.bn.running_mean" in tensors.stored else two
    for rows, name in zip((slice(3), slice(3, 6)), names, strict=True):
        mean, variance = tensors.scale(name)
        head.get_buffer("mean")[rows] = mean
        head.get_buffer("variance")[rows] = variance


def _entry(path: Path, config: OrbConfig, graph: OrbGraphSettings, dropped: list[str]) -> dict[str, Any]:
    return {
        "operation": "read",
        "format": "Orb weights",
        "file": path.name,
        "sha256": checksum(path),
        "neighbours": graph.max_neighbours,
        "activation": config.activation,
        "repulsion": config.repulsion,
        "heads left out": dropped,
        "versions": versions(FAMILY),
    }
