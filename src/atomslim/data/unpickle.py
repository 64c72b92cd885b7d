"""Reading the pickles that datasets ship without running anything that is in them.

A pickle is a program: it names functions and calls them. Graph datasets need a dozen names, and each of them is
answered here by an object of ours that only stores or rebuilds numbers; a file that names anything else is refused,
with the name in the message. Tensors and arrays come out as numpy arrays, graph objects as `Graph`.

Tensors inside such pickles are pickles again: `torch.storage._load_from_bytes` loads them, and torch's own function
would run whatever is hidden there. Ours reads them as a file of `torch.save`, unless they are byte for byte what it
writes for a storage: then the numbers are read directly from there, ten times as fast.
"""

import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomslim.errors import DataError, one_line, printable
from atomslim.unpickle.arrays import ARRAYS, plain
from atomslim.unpickle.program import Function, Inert, Ordered, RefusedError, unpickled
from atomslim.unpickle.torch_file import Storage, parse_pt

MOST_EXPANDED = 2**20
"""Numbers that a tensor may show beyond those it stores (an expanded one): more would be an attack."""

PLAIN_STORAGE = re.compile(
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.\x80\x02M\xe9\x03\.\x80\x02}q\x00\("
    rb"X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88"
    rb"X\n\x00\x00\x00type_sizesq\x03}q\x04\(X\x05\x00\x00\x00shortq\x05K\x02"
    rb"X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu\.\x80\x02\("
    rb"X\x07\x00\x00\x00storageq\x00ctorch\n(\w{3,8}Storage)\nq\x01X.\x00\x00\x00\d+q\x02"
    rb"X\x03\x00\x00\x00cpuq\x03(?:K.|M..|J....)Ntq\x04Q\.\x80\x02]q\x00X.\x00\x00\x00\d+q\x01a\.",
    re.DOTALL,
)
"""What `torch.save` writes before the count and the numbers of a storage in the computer's memory, little-endian."""

STORAGE_TYPES: dict[bytes, np.dtype[Any]] = {
    b"DoubleStorage": np.dtype("<f8"),
    b"FloatStorage": np.dtype("<f4"),
    b"LongStorage": np.dtype("<i8"),
    b"IntStorage": np.dtype("<i4"),
    b"BoolStorage": np.dtype("?"),
}


class _Stateful:
    """Keeps the state that a pickle sets on it, a dictionary."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a graph object whose state is not a dictionary")
        self.state = state


class _Storage(_Stateful):
    """Stands in for the storage in which newer graph objects keep their fields."""

    __slots__ = ()


class Graph(_Stateful):
    """A graph object of any version: in newer ones a storage holds the fields, in older ones the object itself."""

    __slots__ = ()

    def fields(self) -> dict[str, Any]:
        """Give the fields that are set, by name: numpy arrays, numbers, texts.

        Raises:
            pickle.UnpicklingError: the object is not built like a graph object.

        """
        content = getattr(self, "state", {})
        if "_store" in content:
            store = content["_store"]
            content = getattr(store, "state", {}).get("_mapping") if isinstance(store, _Storage) else None
        if not isinstance(content, dict):
            raise pickle.UnpicklingError("a graph object without fields")
        return {str(name): plain(value) for name, value in content.items() if value is not None}


class _Unused(Inert):
    """Stands in for classes that are only mentioned."""

    __slots__ = ()


def _load_storage(content: object) -> NDArray[Any]:
    """Read the stream of a tensor's storage."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a storage that is not bytes")
    numbers = _plain_storage(content)
    if numbers is not None:
        return numbers
    storage = parse_pt(content)
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("something else where a storage is expected")
    array: NDArray[Any] = storage.numbers().numpy()
    return array


def _plain_storage(content: bytes) -> NDArray[Any] | None:
    """Take the numbers out of the stream of a storage; None where it is not exactly as expected."""
    match = PLAIN_STORAGE.match(content)
    kind = STORAGE_TYPES.get(match[1]) if match else None
    if match is None or kind is None:
        return None
    start = match.end() + 8
    count = int.from_bytes(content[match.end() : start], "little")
    if start + count * kind.itemsize != len(content):
        return None
    return np.frombuffer(content, kind, count, start)


def _rebuild_tensor(storage: object, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Any:
    """View a storage as a tensor, as `torch._utils._rebuild_tensor_v2` does, within its bounds."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or len(shape) != len(stride):
        raise pickle.UnpicklingError("a tensor that is not described by numbers")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if min(offset, *shape, *stride, 0) < 0 or (count and last >= len(storage)) or count > len(storage) + MOST_EXPANDED:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps) if count else np.empty(shape, storage.dtype)


def _new_graph(kind: object, *_: object) -> _Stateful:
    """Make the object that `copyreg._reconstructor` makes in old protocols."""
    if kind is Graph or kind is _Storage:
        return kind()
    raise pickle.UnpicklingError("an object of an unknown class")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch_geometric.data.data", "Data"): Graph,
    ("torch_geometric.data.data", "DataEdgeAttr"): _Unused,
    ("torch_geometric.data.data", "DataTensorAttr"): _Unused,
    ("torch_geometric.data.storage", "GlobalStorage"): _Storage,
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("torch.storage", "_load_from_bytes"): Function(_load_storage),
    ("collections", "OrderedDict"): Ordered,
    **ARRAYS,
    **{(module, "_reconstructor"): Function(_new_graph) for module in ("copyreg", "copy_reg")},
    **{(module, "object"): _Unused for module in ("builtins", "__builtin__")},
}
"""What stands for each global name; old protocols use the module names of Python 2."""


def load(path: str | os.PathLike[str]) -> Any:
    """Return what a pickle file holds; see `loads`. Raises DataError also for a file that cannot be opened."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}): check the path") from error
    return loads(content, str(path))


def loads(content: bytes, location: str) -> Any:
    """Return what a pickle holds; nothing in it is executed and nothing that it names is imported.

    Raises:
        DataError: a name that graph datasets do not need (nothing has been run then), or a pickle that is cut off,
            damaged, or asks for more memory than its length explains; names `location`.

    """
    try:
        return unpickled(content, _ALLOWED)[0]
    except RefusedError as error:
        name = printable(" ".join(str(error).split()))[:200]
        raise DataError(
            f"{location}: refused, as it names {name}, which no graph dataset needs; nothing was run: "
            "get the file from its original source"
        ) from error
    # a damaged pickle can raise anything
    except Exception as error:
        raise DataError(f"{location}: cut off or damaged ({one_line(error)}): download it again") from error


def graph_fields(graph: object, location: str) -> dict[str, Any]:
    """Give the fields of an unpickled graph object; raises DataError, naming `location`, for anything else."""
    if not isinstance(graph, Graph):
        raise DataError(f"{location}: holds a {_kind(graph)} where a graph object is expected: check the file")
    try:
        return graph.fields()
    except pickle.UnpicklingError as error:
        raise DataError(f"{location}: {error}: download the file again") from error


def plain_dictionary(content: object, location: str) -> Mapping[Any, Any]:
    """Give an unpickled dictionary with its arrays; raises DataError, naming `location`, for anything else."""
    if not isinstance(content, dict):
        raise DataError(f"{location}: holds a {_kind(content)} where a dictionary is expected: check the file")
    return {key: plain(value) for key, value in content.items()}


def _kind(value: object) -> str:
    return "mapping" if isinstance(value, Ordered) else type(value).__name__.lstrip("_").lower()
