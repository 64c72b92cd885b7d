"""Model files: `load` reads JMP checkpoints and our own files, `save` and `export_jmp` write them.

Our own file is a `.safetensors` file: the tensors of the model's state dict, and one entry of metadata, ``atomslim``,
with everything else in JSON (see `Metadata`), so that nothing but the file is needed to use the model.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.jmp.checkpoint import Alias, Weights, read_jmp, write_jmp
from atomslim.families.jmp.embedded import located
from atomslim.families.jmp.model import JMP
from atomslim.families.jmp.retask import replace_tasks
from atomslim.files import atomic_write
from atomslim.memory import keep_freed_memory
from atomslim.models.block_model import BlockModel
from atomslim.models.metadata import ARCHITECTURE, Metadata, checksum
from atomslim.models.precision import Policy, format_of
from atomslim.models.tasks import Task
from atomslim.models.tensors import is_finite, listed, require_fit
from atomslim.threads import limit_threads

__all__ = ["Weights", "checksum", "export_jmp", "load", "save"]

ENTRY = "atomslim"
"""Name of our entry in a file's metadata. It is the only one: the order of several would differ from run to run."""


def load(
    path: str | os.PathLike[str],
    *,
    weights: Weights = "ema",
    alias: Alias = "ema",
    tasks: Sequence[Task] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    precision: Policy | None = None,
) -> BlockModel:
    """Return the model of a file, ready to predict: a JMP checkpoint, whatever its sizes, or a file of `save`.

    ``"mini"`` is the model that comes with the package: small, trained on xTB labels, for learning and testing.

    The content decides, not the name. No code in a file is ever executed.

    Args:
        path: the file.
        weights: of a JMP checkpoint that has both, ``ema`` takes the averages over training, ``raw`` the last weights.
        alias: of a JMP checkpoint, which value the weights get that it has under two names: ``ema`` the average like
            all others, ``original`` the raw one, as the original program does.
        tasks: settings that replace those of the file's tasks: normalisation, references, graphs, units, names. JMP's
            fine-tuning checkpoints hold none of these. Tasks are found by name, or by place if all are given.
        dtype: float32 or float64; default: as in the file, but at least float32.
        device: where the model goes; default: the CPU.
        precision: what predictions are computed in: ``highest`` (float32, the default), ``high`` (TF32 where the device
            has it), ``fast`` (bfloat16 in dense layers); see `atomslim.models.precision`.

    Energies of JMP's pre-training checkpoints are relative to linear per-element references of each data set, which
    these files do not hold.

    Raises:
        CheckpointError: a file that is not there, cannot be read, is damaged, is no model, or was written by a newer
            version; missing, unknown, misshapen or non-finite tensors.
        ConfigError: tasks that do not fit the model's heads, a dtype below float32, or a precision that there is not.

    """
    if dtype not in {None, torch.float32, torch.float64}:
        raise ConfigError(f"dtype {dtype}: the geometry needs float32 or float64")
    keep_freed_memory()
    limit_threads()
    path = located(path)
    ours = _is_safetensors(path)
    model = _read(path) if ours else read_jmp(path, weights=weights, alias=alias)
    if tasks is not None:
        replace_tasks(model, tasks)
        model.history.append({"operation": "set tasks", "tasks": list(model.tasks)})
    model.to(device=device, dtype=dtype).eval()
    format_of(precision, next(model.parameters()))  # refuses what there is not
    model.precision = precision
    return model


def save(model: BlockModel, path: str | os.PathLike[str]) -> None:
    """Write a model to one self-describing `.safetensors` file, which appears whole or not at all.

    The same model gives the same bytes. Raises ConfigError for a model without a file format, OSError if the file
    cannot be written.
    """
    entry = Metadata.of(model).model_dump_json()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(serialised(tensors, {ENTRY: entry}))  # its own file only its owner could read


def export_jmp(model: BlockModel, path: str | os.PathLike[str]) -> None:
    """Write a model as a JMP checkpoint, for the original program and tools built on it.

    They read it with ``num_blocks`` set to the number of blocks the model has. Reading it back changes no output bit.
    Raises ConfigError for a model that the format cannot hold, OSError if the file cannot be written.
    """
    if not isinstance(model, JMP):
        raise ConfigError(f"models of the class {type(model).__name__} have no JMP format: only JMP models do")
    write_jmp(model, path)


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Tell the two formats apart by the first bytes; raises CheckpointError if a file is of neither."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"{path}: {(error.strerror or 'unreadable').lower()}; give the path of a model file"
        ) from error
    if not head:
        raise CheckpointError(f"{path}: is empty; copy or download it again")
    if head[8:] == b"{" and not head.startswith(b"PK\x03\x04"):
        return True  # first, because the header's length before the brace may look like the start of a pickle
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return False
    raise CheckpointError(f"{path}: is no model file: neither a .safetensors file nor a checkpoint of torch.save")


def _read(path: str | os.PathLike[str]) -> JMP:
    """Read a file of `save`."""
    where = str(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(file.metadata(), where)
            tensors = {name: _full(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cut off or damaged ({error}); copy or download it again") from error
    model = _empty(metadata, where)
    require_fit(where, {name: tensor.shape for name, tensor in model.state_dict().items()}, tensors)
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise CheckpointError(f"{where}: {listed('NaN or infinite numbers', broken)}")
    model.load_state_dict(tensors, assign=True)
    model.block_ids, model.history = metadata.block_ids, metadata.history
    return model


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """Give numbers that were stored in half precision in single, in memory of torch's own.

    A file's mapped memory is aligned otherwise, and some processors' products round differently there.
    """
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor.clone()


def _metadata(entries: dict[str, str] | None, where: str) -> Metadata:
    if not entries or ENTRY not in entries:
        raise CheckpointError(
            f"{where}: says nothing of its model; give a file that atomslim saved, or a JMP checkpoint"
        )
    metadata = Metadata.parse(entries[ENTRY], where)
    if metadata.architecture != ARCHITECTURE:
        raise CheckpointError(f"{where}: holds a model of the unknown architecture {metadata.architecture!r}")
    return metadata


def _empty(metadata: Metadata, where: str) -> JMP:
    """Return the model without weights."""
    if len(metadata.block_ids) != metadata.config.num_blocks:
        raise CheckpointError(f"{where}: names {len(metadata.block_ids)} blocks for {metadata.config.num_blocks}")
    try:
        with torch.device("meta"):
            return JMP(metadata.config, metadata.tasks)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
