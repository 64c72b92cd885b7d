"""Model files: `load` reads our own files and checkpoints of all families, `save` and `export` write them.

Our own file is a `.safetensors` file: the tensors of the model's state dict, and one entry of metadata, ``atomslim``,
with everything else in JSON (see `Metadata`), so that nothing but the file is needed to use the model.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from atomslim.arguments import checked
from atomslim.errors import CheckpointError, ConfigError
from atomslim.files import atomic_write
from atomslim.memory import keep_freed_memory
from atomslim.models.block_model import BlockModel
from atomslim.models.elsewhere import advice, elsewhere
from atomslim.models.family import Family, family_of
from atomslim.models.metadata import Metadata, checksum
from atomslim.models.precision import Policy, format_of
from atomslim.models.registry import family, located, recognised
from atomslim.models.retask import replace_tasks
from atomslim.models.tasks import Task
from atomslim.models.tensors import is_finite, listed, require_fit
from atomslim.threads import limit_threads

__all__ = ["checksum", "export", "load", "save"]

CHECKPOINT_ENDINGS = (".pt", ".pth", ".ckpt")
"""Of what torch.save writes."""

ENTRY = "atomslim"
"""Name of our entry in a file's metadata. It is the only one: the order of several would differ from run to run."""


@checked
def load(
    path: str | os.PathLike[str],
    *,
    tasks: Sequence[Task] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    precision: Policy | None = None,
    **options: str | None,
) -> BlockModel:
    """Return the model of a file or name, ready to predict: a file of `save`, or a checkpoint of any family.

    ``"mini"`` is the embedded model: small, trained on xTB labels, for learning and testing. ``"family:name"`` is a
    model shipped with a family's own package. A file is recognised by its content, not its name, and no code in it is
    ever executed.

    Args:
        path: the file, or a name.
        tasks: settings that replace those of the file's tasks: normalisation, references, graphs, units, names; some
            checkpoints hold none. Tasks are matched by name, or in order if all are given.
        dtype: float32 or float64; default: as in the file, but at least float32.
        device: where the model goes; default: the CPU.
        precision: number format of predictions: ``highest`` (float32, the default), ``high`` (TF32 where the device
            has it), ``fast`` (bfloat16 in dense layers); see `atomslim.models.precision`.
        options: of a checkpoint's family (docs/families.md); files of `save` have none. JMP's: ``weights="raw"`` uses
            the last weights instead of their averages over training, and ``alias="original"`` the raw value of weights
            stored under two names, as the original program does.

    Raises:
        CheckpointError: a file that is missing, cannot be read, is damaged, is not a model, or was written by a newer
            version; missing, unknown, misshapen or non-finite tensors.
        ConfigError: a name or an option that a family does not have, a package that is missing, tasks that do not fit
            the model's heads, a dtype below float32, or an unknown precision.

    """
    if dtype not in {None, torch.float32, torch.float64}:
        raise ConfigError(f"dtype {dtype}: the geometry needs float32 or float64")
    keep_freed_memory()
    limit_threads()
    file, of = located(path)
    model = _read(file) if _is_safetensors(file) else _read_checkpoint(file, of, options)
    if tasks is not None:
        replace_tasks(model, tasks)
        model.history.append({"operation": "set tasks", "tasks": list(model.tasks)})
    model.to(device=device, dtype=dtype).eval()
    format_of(precision, next(model.parameters()))  # refuses unknown ones
    model.precision = precision
    return model


@checked
def save(model: BlockModel, path: str | os.PathLike[str]) -> None:
    """Write a model to one self-describing `.safetensors` file, whole or not at all.

    The same model gives the same bytes. Raises ConfigError for a model without a file format, or a name that ends as
    checkpoints of torch do; OSError if the file cannot be written.
    """
    if Path(path).suffix.lower() in CHECKPOINT_ENDINGS:
        raise ConfigError(
            f"{path}: is the name of a checkpoint of torch, and models are saved as .safetensors: use that ending, or "
            "export it in the format of its family"
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded(model))  # its own file only its owner could read


def encoded(model: BlockModel) -> bytes:
    """Return what `save` writes; raises ConfigError for a model without a file format."""
    entry = Metadata.of(model).model_dump_json()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return serialised(tensors, {ENTRY: entry})


@checked
def export(model: BlockModel, path: str | os.PathLike[str]) -> None:
    """Write a model as a checkpoint of its family, for the family's own programs and tools built on them.

    Reading it back changes no output bit. Raises ConfigError for a model that the format cannot hold, a family without
    such a format, or a name that ends in .safetensors; OSError if the file cannot be written.
    """
    if Path(path).suffix.lower() == ".safetensors":
        raise ConfigError(
            f"{path}: a checkpoint of a model's family is not a .safetensors file: use the family's ending, as in .pt"
        )
    of = family_of(model)
    of.require("export")
    of.export(model, Path(path))


def _read_checkpoint(path: Path, named: Family | None, options: Mapping[str, str | None]) -> BlockModel:
    """Read a checkpoint of a family; options that are None count as not given."""
    of = named or recognised(path)
    return of.read(path, **{name: value for name, value in options.items() if value is not None})


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Distinguish the two formats by the first bytes; raises CheckpointError if a file is of neither."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(9)
    except OSError as error:
        if Path(path).name == str(path) and (other := elsewhere(Path(path))) is not None:
            raise CheckpointError(advice(Path(path), other)) from error
        raise CheckpointError(
            f"{path}: {(error.strerror or 'unreadable').lower()}; give the path of a model file"
        ) from error
    if not head:
        raise CheckpointError(f"{path}: is empty; copy or download it again")
    if head[8:] == b"{" and not head.startswith(b"PK\x03\x04"):
        return True  # first, because the header's length before the brace may look like the start of a pickle
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return False
    if (other := elsewhere(Path(path))) is not None:
        raise CheckpointError(advice(Path(path), other))
    raise CheckpointError(f"{path}: is not a model file: neither a .safetensors file nor a checkpoint of torch.save")


def _read(path: str | os.PathLike[str]) -> BlockModel:
    """Read a file of `save`."""
    where = str(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(file.metadata(), where)
            tensors = {name: _full(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cut off or damaged ({error}); copy or download it again") from error
    of = family(metadata.family)
    of.require_package()
    try:
        model = _empty(metadata, where, len(tensors))
        require_fit(where, {name: tensor.shape for name, tensor in model.state_dict().items()}, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_other_version(metadata, of)}") from error
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise CheckpointError(f"{where}: {listed('NaN or infinite numbers', broken)}")
    model.load_state_dict(tensors, assign=True)
    model.block_ids, model.history = metadata.block_ids, metadata.history
    return model.to(next(model.parameters()).dtype)  # what is not a part of the file, too


def _other_version(metadata: Metadata, of: Family) -> str:
    """Say if the family's package has another version than the one that wrote the file."""
    written, here = metadata.versions.get(of.package or ""), of.installed()
    if of.package is None or written == here:
        return ""
    return f"; it was written with {of.package} {written}, and {here} is installed: install {of.package}=={written}"


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """Give numbers that were stored in half precision in single, in memory allocated by torch.

    A file's mapped memory is aligned otherwise, and some processors' products round differently there.
    """
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor.clone()


def _metadata(entries: dict[str, str] | None, where: str) -> Metadata:
    if not entries or ENTRY not in entries:
        if (other := elsewhere(Path(where))) is not None:
            raise CheckpointError(advice(Path(where), other))
        raise CheckpointError(
            f"{where}: has no metadata of a model; give a file that atomslim saved, or a checkpoint of its family"
        )
    return Metadata.parse(entries[ENTRY], where)


def _empty(metadata: Metadata, where: str, tensors: int) -> BlockModel:
    """Return the model without its weights; one that must have far more tensors than the file is not built."""
    if (least := family(metadata.family).least_tensors(metadata.config)) > tensors + 1000:
        raise CheckpointError(
            f"{where}: says that its model has {least} tensors or more, and has {tensors}: copy it again"
        )
    try:
        model = family(metadata.family).build(metadata.config, metadata.tasks)
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    if len(metadata.block_ids) != model.num_blocks:
        raise CheckpointError(f"{where}: names {len(metadata.block_ids)} blocks for {model.num_blocks}")
    return model
