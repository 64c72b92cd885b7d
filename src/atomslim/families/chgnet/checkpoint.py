"""Reads the package's files: shipped versions, and those of its trainer or of ``torch.save(model.as_dict())``.

They hold ``model_args`` (plain numbers and words) and ``state_dict``, bare or under ``model``, beside an optimiser's
state, a history and training options, which are ignored.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from atomslim.arguments import first_problem
from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.chgnet.config import CHGNetConfig, Composition, of_arguments
from atomslim.families.chgnet.family import FAMILY
from atomslim.families.chgnet.model import CHGNet
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.metadata import checksum, versions
from atomslim.models.tasks import Target, Task
from atomslim.models.tensors import is_finite, listed, require_fit
from atomslim.unpickle.program import Inert
from atomslim.unpickle.torch_file import StoredTensor, read_pt

TASK = "chgnet"
"""Name of the only task of a model that was read."""

_SIGN = "atom_conv_layers.0.twoBody_atom.mlp_core."
"""Names of tensors of every CHGNet model."""

COMPOSITION = "composition_model.fc.weight"

EMBEDDING = (
    "atom_embedding.",
    "bond_basis_expansion.",
    "bond_embedding.",
    "bond_weights_ag.",
    "bond_weights_bg.",
    "angle_basis_expansion.",
    "angle_embedding.",
)


class AtomRef(Inert):
    """Stands in for a composition model that was passed as an object: its content besides tensors."""

    __slots__ = ("by_atom", "fitted")

    def __init__(self) -> None:
        self.by_atom, self.fitted = True, True

    def __setstate__(self, *state: object) -> None:
        match state:
            case (dict(found),):
                self.by_atom, self.fitted = bool(found.get("is_intensive", True)), bool(found.get("fitted", True))


NAMES = {("chgnet.model.composition_model", "AtomRef"): AtomRef}
"""Objects in a file that are kept."""

UPDATES = {"atom_conv_layers": "atoms", "bond_conv_layers": "bonds", "angle_layers": "angles"}
_REMEDY = 'atomslim.load(FILE, composition="leave out") reads the network alone'

READOUT = {"readout_norm.": "readout.norm.", "site_wise.": "moments."}


def is_chgnet(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a CHGNet checkpoint; raises CheckpointError for one that cannot be read."""
    entry = _entry(read_pt(path))
    return entry is not None and any(str(name).startswith(_SIGN) for name in entry["state_dict"])


def read_chgnet(path: str | os.PathLike[str], *, composition: Composition = "add") -> CHGNet:
    """Return the model of a checkpoint in evaluation mode, its weights in float32 or wider.

    Nothing in the file is executed. The task ``chgnet`` has energy (eV, of the whole structure, also if the
    package gives it per atom) and conservative forces; its energy's references are the composition model, unless
    ``composition`` is ``leave out``.

    Raises CheckpointError for an unreadable file, for missing, unknown, misshapen or non-finite tensors, and, unless it
    is left out, for a composition model that is not linear, was not fitted, or gives energies per atom while the
    network gives those of structures, or the reverse; ConfigError for an unknown ``composition``, or where the package
    is missing.
    """
    if composition not in get_args(Composition):
        raise ConfigError(f"composition {composition!r}: give one of {', '.join(get_args(Composition))}")
    FAMILY.require_package()
    where, entry = str(path), _entry(read_pt(path, NAMES))
    if entry is None:
        raise CheckpointError(f"{where}: no CHGNet model: it holds no state_dict with model_args")
    state, arguments = dict(entry["state_dict"]), dict(entry["model_args"])
    others = [str(name) for name, value in state.items() if not isinstance(value, StoredTensor)]
    if others:
        raise CheckpointError(f"{where}: {listed('no tensors', others)}; expected the state_dict of a CHGNet model")
    config = _config(arguments, state, where)
    own = {name: state.pop(name) for name in list(state) if name.startswith("composition_model.")}
    references = _references(own, arguments, where) if own and composition == "add" else {}
    model = _filled(config, state, references, where)
    model.history = [_history_entry(path, composition, has_composition=bool(own))]
    return model.eval()


def names(config: CHGNetConfig, task: str = TASK, target: str = "energy") -> dict[str, str]:
    """Return the prefixes of the package's names of tensors, each with ours."""
    return {
        **{prefix: f"embedding.{prefix}" for prefix in EMBEDDING},
        **{
            f"{theirs}.{block}.": f"blocks.{block}.{ours}."
            for theirs, ours in UPDATES.items()
            for block in range(config.num_blocks)
        },
        **READOUT,
        "mlp.": f"heads.{task}.{target}.mlp.",
        "pooling.": f"heads.{task}.{target}.pooling.",
    }


def _entry(content: Any) -> Mapping[str, Any] | None:
    """Find the mapping that has both state_dict and model_args."""
    for found in (content, content.get("model") if isinstance(content, Mapping) else None):
        if isinstance(found, Mapping) and all(
            isinstance(found.get(key), Mapping) for key in ("state_dict", "model_args")
        ):
            return found
    return None


def _config(arguments: dict[str, Any], state: Mapping[str, Any], where: str) -> CHGNetConfig:
    bias = any(name.startswith("atom_conv_layers.0.mlp_out.") and name.endswith(".bias") for name in state)
    try:
        return of_arguments(arguments, output_bias=bias)
    except ValueError as error:
        raise CheckpointError(f"{where}: a CHGNet model that cannot be read: {first_problem(error)}") from error


def _references(own: Mapping[str, StoredTensor], arguments: Mapping[str, Any], where: str) -> dict[int, float]:
    """Return an energy of each element in eV, from the tensors of the composition model."""
    weight = own.get(COMPOSITION)
    if len(own) > 1 or weight is None or len(weight.shape) != 2 or weight.shape[0] != 1:
        raise CheckpointError(
            f"{where}: its composition model is not linear in the elements ({listed('it has', own)}): "
            f"only a linear one can be read; {_REMEDY}"
        )
    kind, by_atom = arguments.get("composition_model", "MPtrj"), bool(arguments.get("is_intensive", True))
    if isinstance(kind, AtomRef) and not kind.fitted:
        raise CheckpointError(f"{where}: its composition model was not fitted: the package gives no energy; {_REMEDY}")
    if isinstance(kind, str | AtomRef) and _is_by_atom(kind) != by_atom:
        kinds = ("of structures", "by atom") if by_atom else ("by atom", "of structures")
        raise CheckpointError(
            f"{where}: its composition model gives energies {kinds[0]}, its network {kinds[1]}: "
            f"the package adds them up as they are, which is not an energy; {_REMEDY}"
        )
    return {number: float(value) for number, value in enumerate(weight.read()[0].double(), start=1)}


def _is_by_atom(kind: str | AtomRef) -> bool:
    """Say whether a composition model gives energies by atom; of those that the package ships, only MPF does not."""
    return kind.by_atom if isinstance(kind, AtomRef) else kind != "MPF"


def _filled(config: CHGNetConfig, state: Mapping[str, Any], references: dict[int, float], where: str) -> CHGNet:
    """Return the model with a file's tensors."""
    targets = (
        Target(name="energy", kind="energy", references=references),
        Target(name="forces", kind="conservative_forces", unit="eV/Å"),
    )
    task = Task(name=TASK, targets=targets, graph=GraphSettings(cutoff=config.atom_graph_cutoff))
    try:
        model = CHGNet(config, [task])
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    ours = {_ours(name, names(config)): (name, tensor) for name, tensor in state.items()}
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name != "readout.first.weight"}
    read = {ours: both for ours, both in ours.items() if not _is_unread(ours, config)}
    theirs = {ours: name for ours, (name, _) in read.items()}
    require_fit(
        where,
        {theirs.get(name, name): shape for name, shape in expected.items()},
        dict(read.values()),
    )
    tensors = {name: tensor.read().clone() for name, (_, tensor) in read.items()}
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors.values()) else torch.float32
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    broken = [theirs[name] for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise CheckpointError(f"{where}: {listed('NaN or infinite numbers', broken)}; copy or download it again")
    model.to(dtype).load_state_dict(tensors, strict=False)
    return model


def _ours(name: str, prefixes: Mapping[str, str]) -> str:
    """Return our name of a tensor; one that the package does not have keeps its own."""
    found = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    return name if found is None else prefixes[found] + name.removeprefix(found)


def _is_unread(name: str, config: CHGNetConfig) -> bool:
    """Say whether a tensor belongs to an update whose result nothing reads: the package has it anyway."""
    parts = name.split(".")
    if parts[0] != "blocks" or parts[2] == "atoms":
        return False
    updates = config.bond_updates if parts[2] == "bonds" else config.angle_updates
    return not updates[int(parts[1])]


def _history_entry(path: str | os.PathLike[str], composition: str, *, has_composition: bool) -> dict[str, Any]:
    return {
        "operation": "read",
        "format": "CHGNet checkpoint",
        "file": Path(path).name,
        "sha256": checksum(path),
        "composition": composition if has_composition else "none in the file",
        "notes": [],
        "versions": versions(FAMILY),
    }
