"""Files as graph datasets ship them, written without the package that they name."""

import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from atomslim.atoms.sample import Sample

DATA, STORAGE = "torch_geometric.data.data", "torch_geometric.data.storage"


class Data:
    pass


class DataEdgeAttr:
    pass


class DataTensorAttr:
    pass


class GlobalStorage:
    pass


def slab(**changes: Any) -> dict[str, Any]:
    """Fields of a record of OC20 with two atoms; those that are None are left out."""
    fields = {
        "y": -7.5,
        "pos": torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]),
        "cell": torch.eye(3)[None] * 4,
        "atomic_numbers": torch.tensor([29.0, 8.0]),
        "natoms": 2,
        "tags": torch.tensor([1, 2]),
        "fixed": torch.tensor([1.0, 0.0]),
        "force": torch.tensor([[0.0, 0.0, -0.25], [0.0, 0.0, 0.5]]),
        "sid": 17,
        "fid": 3,
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def molecule(**changes: Any) -> dict[str, Any]:
    """Fields of a methane molecule as JMP preprocessed it."""
    fields = {
        "y": -1100.5,
        "pos": torch.arange(15.0).reshape(5, 3),
        "atomic_numbers": torch.tensor([6.0, 1.0, 1.0, 1.0, 1.0]),
        "natoms": 5,
        "tags": torch.full((5,), 2),
        "pbc": torch.zeros(3),
        "force": torch.ones(5, 3),
        "sid": 17,
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def new_layout(protocol: int = 4, /, **fields: Any) -> bytes:
    """Pickle an object whose fields are in a storage that points back at it."""
    return _dumps(_new(fields), protocol)


def old_layout(protocol: int = 4, /, **fields: Any) -> bytes:
    """Pickle an object that holds its fields itself, with some that are None."""
    return _dumps(_old(fields), protocol)


def pickled_list(*records: dict[str, Any]) -> bytes:
    """Pickle a list of objects of the new layout."""
    return _dumps([_new(fields) for fields in records], 4)


def write_lmdb(path: Path, records: Sequence[bytes], *, length: int | None = -1, skip: Sequence[int] = ()) -> None:
    """Write records under "0" to "n-1" and "length" (None: leave it out), without those to skip."""
    lmdb = import_lmdb()
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(path), subdir=False, map_size=2**24, lock=False)
    with environment.begin(write=True) as transaction:
        for key, content in enumerate(records):
            if key not in skip:
                transaction.put(str(key).encode(), content)
        if length is not None:
            transaction.put(b"length", pickle.dumps(len(records) if length < 0 else length))
    environment.close()


def import_lmdb() -> Any:
    """Import lmdb, or skip the test."""
    import pytest

    return pytest.importorskip("lmdb")


def _new(fields: dict[str, Any]) -> Data:
    graph, storage = Data(), GlobalStorage()
    storage.__dict__.update(_mapping=dict(fields), _parent=graph)
    graph.__dict__.update(_edge_attr_cls=DataEdgeAttr, _tensor_attr_cls=DataTensorAttr, _store=storage)
    return graph


def _old(fields: dict[str, Any]) -> Data:
    graph = Data()
    graph.__dict__.update(x=None, edge_index=None, edge_attr=None, **fields)
    return graph


def _dumps(content: object, protocol: int) -> bytes:
    with _modules():
        return pickle.dumps(content, protocol)


@contextmanager
def _modules() -> Iterator[None]:
    """Give the classes above the names that files call them by."""
    names: dict[type, str] = {Data: DATA, DataEdgeAttr: DATA, DataTensorAttr: DATA, GlobalStorage: STORAGE}
    homes = {kind: kind.__module__ for kind in names}
    replaced = {name: sys.modules.get(name) for name in ("torch_geometric", "torch_geometric.data", DATA, STORAGE)}
    try:
        sys.modules.update({name: ModuleType(name) for name in replaced})
        for kind, name in names.items():
            kind.__module__ = name
            setattr(sys.modules[name], kind.__name__, kind)
        yield
    finally:
        for kind, name in homes.items():
            kind.__module__ = name
        for name, module in replaced.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def same(one: Sample, other: Sample, *, tolerance: float = 0.0, names: tuple[str, ...] = ("tags", "fixed")) -> None:
    for field in ("numbers", "pbc", *names):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for field in ("positions", "cell"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=0, atol=tolerance)
    for target in ("energy", "forces"):
        np.testing.assert_allclose(one.targets[target], other.targets[target], rtol=0, atol=tolerance)
