"""Reading the files of `torch.save` without running anything that is in them.

The only things that such a file can make here are containers, numbers, strings, descriptions of tensors, and what its
reader lists besides. Every other class and function that it names is replaced by `Foreign`, which takes any arguments
and does nothing, so that files full of foreign classes can still be read.
"""

import math
import mmap
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from atomslim.errors import CheckpointError, one_line
from atomslim.unpickle.program import Buffer, Foreign, Inert, Names, Ordered, unpickled

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first number in a file of PyTorch before 1.6."""

MOST_SHOWN = 16
"""Most times that tensors may show the numbers of a storage: weights have a few names, not hundreds."""


class Storage(Inert):
    """``count`` numbers of ``dtype`` that begin at byte ``start`` of ``buffer``, which maps the file."""

    __slots__ = ("buffer", "count", "dtype", "shown", "start")

    def __init__(self, buffer: Buffer, dtype: Any, count: Any, start: int | None) -> None:
        if not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage of no known type or size")
        self.buffer, self.dtype, self.count, self.start = buffer, dtype, count, start
        self.shown = 0

    def show(self, count: int) -> None:
        """Note that a tensor shows so many of the numbers; each is a copy once it is read.

        Raises UnpicklingError when they are more than a file's size explains.
        """
        self.shown += count
        if count > self.count or self.shown > MOST_SHOWN * self.count:
            raise pickle.UnpicklingError("tensors that show the same numbers again and again")

    def numbers(self) -> Tensor:
        """Return all numbers, as a view of the file where they lie at a multiple of their size."""
        if not self.count:
            return torch.empty(0, dtype=self.dtype)
        start, buffer = self.start or 0, self.buffer
        if not start % self.dtype.itemsize and not isinstance(buffer, bytes):
            return torch.frombuffer(buffer, dtype=self.dtype, count=self.count, offset=start)
        return torch.frombuffer(bytearray(buffer[start : start + self.num_bytes]), dtype=self.dtype)

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return self.count * self.dtype.itemsize


class StoredTensor(Inert):
    """A tensor that is still in its file: shape and dtype are known, `read` fetches the numbers."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any) -> None:
        numbers = [offset, *shape, *stride]
        if not isinstance(storage, Storage) or len(shape) != len(stride) or any(type(n) is not int for n in numbers):
            raise pickle.UnpicklingError("a tensor that is not described by numbers")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if min(numbers) < 0 or (math.prod(shape) and last >= storage.count):
            raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
        storage.show(math.prod(shape))
        self.storage, self.offset, self.shape, self.stride = storage, offset, torch.Size(shape), tuple(stride)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.storage.dtype

    def read(self) -> Tensor:
        """Return the tensor: a view of the mapped file where it fills its storage, else a copy.

        The mapping is private: what is written to the tensor never reaches the file.
        """
        numbers = self.storage.numbers()
        view = numbers.as_strided(self.shape, self.stride, self.offset)
        whole = view.is_contiguous() and view.numel() == numbers.numel()
        return view if whole else view.clone(memory_format=torch.contiguous_format)


class Rebuild(Inert):
    """One of the functions by which `torch.save` describes tensors."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> Any:
        """Return the tensor, or a stand-in if the arguments are of a kind that is not rebuilt."""
        if self.name in {"_rebuild_tensor", "_rebuild_tensor_v2"}:
            return StoredTensor(*args[:4])
        if self.name == "_rebuild_from_type_v2":
            function, _, arguments, _ = args
            return function(*arguments) if isinstance(function, Rebuild) else Foreign
        return args[0]  # the tensor of a parameter


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TENSORS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Ordered,
    ("torch._tensor", "_rebuild_from_type_v2"): Rebuild("_rebuild_from_type_v2"),
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    **{
        ("torch._utils", name): Rebuild(name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
    },
}
"""What `torch.save` names to describe tensors."""


class _StorageStart(Protocol):
    """Says where in the file the storage with a key begins (None: not known yet)."""

    def __call__(self, key: str, num_bytes: int) -> int | None: ...


@dataclass
class _Source:
    """The mapped file, and the storages of it that were named so far."""

    buffer: Buffer
    storage_start: _StorageStart

    def __post_init__(self) -> None:
        self.storages: dict[str, Storage] = {}

    def storage(self, identity: Any) -> Any:
        """Return what a persistent identity stands for: a storage, or the class of a module in old files."""
        if not isinstance(identity, tuple):
            raise pickle.UnpicklingError("a reference out of place")
        kind, content = identity[0], identity[1:]
        if kind == "module":
            return Foreign
        dtype, key, _, count, *view = content
        if kind != "storage" or type(key) is not str or view not in ([], [None]):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        if key not in self.storages:
            storage = Storage(self.buffer, dtype, count, None)
            storage.start = self.storage_start(key, storage.num_bytes)
            self.storages[key] = storage
        if (self.storages[key].dtype, self.storages[key].count) != (dtype, count):
            raise pickle.UnpicklingError("one storage under two types or sizes")
        return self.storages[key]


def read_pt(path: str | os.PathLike[str], names: Names | None = None) -> Any:
    """Return what a file of `torch.save`, of any version since 0.4, holds.

    Tensors come as `StoredTensor`, everything that is not a container, number or string as `Foreign`, except what
    stands for some ``names``. Nothing in the file is executed and nothing it names is imported.

    Raises CheckpointError for a file that is cut off, damaged, or something else altogether.
    """
    try:
        with Path(path).open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return parse_pt(buffer, names)
    # a damaged pickle can raise anything
    except Exception as error:
        raise CheckpointError(
            f"{path}: cut off, damaged, or no file of torch.save ({one_line(error)}); copy or download it again"
        ) from error


def parse_pt(buffer: Buffer, names: Names | None = None) -> Any:
    """Return what the content of such a file holds; raises anything for one that is damaged."""
    known = {**TENSORS, **(names or {})}
    return _read_zip(buffer, known) if buffer[:4] == b"PK\x03\x04" else _read_legacy(buffer, known)


def _read_zip(buffer: Buffer, names: Names) -> Any:
    file: Any = buffer if isinstance(buffer, mmap.mmap) else BytesIO(buffer)
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: _span_of(info, buffer) for info in archive.infolist()}
    if sum(size for _, size in records.values()) > len(buffer):
        raise pickle.UnpicklingError("records that overlap")
    programs = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not programs:
        raise pickle.UnpicklingError("an archive without data.pkl")
    folder = programs[0].removesuffix("data.pkl")
    if _bytes(buffer, records.get(folder + "byteorder", (0, 0))) == b"big":
        raise pickle.UnpicklingError("written on a big-endian machine")

    def storage_start(key: str, num_bytes: int) -> int:
        start, size = records[f"{folder}data/{key}"]
        if size < num_bytes:
            raise pickle.UnpicklingError(f"record {key} is too short")
        return start

    program, source = _bytes(buffer, records[programs[0]]), _Source(buffer, storage_start)
    return unpickled(program, names, others=Foreign, references=source.storage, encoding="utf-8")[0]


def _span_of(info: zipfile.ZipInfo, buffer: Buffer) -> tuple[int, int]:
    """Return where the content of a record begins, and its size."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError("compressed records, which torch.save does not write")
    name_and_extra = struct.unpack_from("<HH", buffer, info.header_offset + 26)
    start = info.header_offset + 30 + sum(name_and_extra)
    if start + info.file_size > len(buffer):
        raise pickle.UnpicklingError("a record reaches beyond the file")
    return start, info.file_size


def _bytes(buffer: Buffer, span: tuple[int, int]) -> bytes:
    start, size = span
    return buffer[start : start + size]


def _read_legacy(buffer: Buffer, names: Names) -> Any:
    """Read the stream of pickles, followed by the storages' bytes, that PyTorch wrote before version 1.6."""
    source = _Source(buffer, lambda _key, _num_bytes: None)
    content, keys, start = _pickles(buffer, names, source)
    for key in keys:
        storage = source.storages[key]
        (count,) = struct.unpack_from("<q", buffer, start)
        storage.start = start + 8
        start = storage.start + storage.num_bytes
        if count != storage.count or start > len(buffer):
            raise pickle.UnpicklingError(f"storage {key} is incomplete")
    if any(storage.start is None for storage in source.storages.values()):
        raise pickle.UnpicklingError("a storage is missing")
    return content


def _pickles(buffer: Buffer, names: Names, source: _Source) -> tuple[Any, Any, int]:
    """Read the pickles: content, keys of the storages, and the offset where the storages begin."""
    found: list[Any] = []
    start = 0
    for references in (None, None, None, source.storage, None):
        content, start = unpickled(buffer, names, start=start, others=Foreign, references=references, encoding="utf-8")
        found.append(content)
        if len(found) == 3 and (found[0] != LEGACY_MAGIC or not content["little_endian"]):
            raise pickle.UnpicklingError("another kind of pickle, or written on a big-endian machine")
    return found[3], found[4], start
