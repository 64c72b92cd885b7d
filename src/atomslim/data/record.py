"""One sample as bytes, and back, exactly.

| bytes | what |
|---|---|
| 16 | natoms uint32; lengths of layout, name and group, and flags, uint16 each; four zeros |
| … | layout, name, group in UTF-8 |
| natoms each | numbers uint8; tags int8 unless all are 2; fixed uint8 unless none is |
| 0 to 7 | zeros, up to a multiple of 8 |
| 8 each | float64: positions, the cell if there is one, the targets in the layout's order |

Little-endian. The layout names the targets and their shapes: ``energy=;forces=n,3;stress=3,3``, where n is the
number of atoms. So a record explains itself, and the records of one container may carry different targets.
"""

import struct
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.batch import DEFAULT_TAG
from atomslim.atoms.sample import Sample
from atomslim.errors import DataError

_HEAD = struct.Struct("<IHHHHxxxx")
_LONGEST_TEXT = 2**16 - 1
_CELL, _TAGS, _FIXED = 8, 16, 32  # flags; the lowest three bits are pbc
_NO_CELL = bytes(72)
_PBC = [np.array([bits & 1, bits & 2, bits & 4], dtype=np.bool_) for bits in range(8)]


def encode(sample: Sample) -> bytes:
    """Give the bytes of a sample, a multiple of 8; raises DataError for what a record cannot hold."""
    texts = [text.encode() for text in (_layout(sample), sample.name, sample.group)]
    _require_encodable(sample, texts)
    flags = sum(1 << axis for axis in range(3) if sample.pbc[axis])
    floats, small = [sample.positions], [sample.numbers.astype(np.uint8)]
    if sample.cell.tobytes() != _NO_CELL:  # the bits: a cell of negative zeros comes back as such
        flags |= _CELL
        floats.append(sample.cell)
    if (sample.tags != DEFAULT_TAG).any():
        flags |= _TAGS
        small.append(sample.tags.astype(np.int8).view(np.uint8))
    if sample.fixed.any():
        flags |= _FIXED
        small.append(sample.fixed.view(np.uint8))
    head = _HEAD.pack(len(sample), *map(len, texts), flags)
    front = b"".join([head, *texts, *(array.tobytes() for array in small)])
    numbers = [array.astype("<f8").tobytes() for array in [*floats, *sample.targets.values()]]
    return b"".join([front, bytes(-len(front) % 8), *numbers])


def decode(record: memoryview) -> Sample:
    """Make a sample from the bytes of a record; its arrays are copies."""
    natoms, layout_length, name_length, group_length, flags = _HEAD.unpack_from(record)
    offset = _HEAD.size + layout_length + name_length + group_length
    layout, name, group = _split(bytes(record[_HEAD.size : offset]), layout_length, name_length)
    numbers = np.frombuffer(record, np.uint8, natoms, offset).astype(np.int64)
    offset += natoms
    tags, offset = _optional(record, flags & _TAGS, np.int8, natoms, offset)
    fixed, offset = _optional(record, flags & _FIXED, np.uint8, natoms, offset)
    floats = np.frombuffer(record, "<f8", -1, offset + -offset % 8).astype(np.float64)  # one copy for all of them
    start = 3 * natoms
    positions = floats[:start].reshape(natoms, 3)
    cell = np.zeros((3, 3))
    if flags & _CELL:
        cell, start = floats[start : start + 9].reshape(3, 3), start + 9
    targets = {}
    for key, shape, size in _parse(layout, natoms):
        targets[key] = floats[start : start + size].reshape(shape)
        start += size
    return Sample(
        numbers,
        positions,
        cell,
        _PBC[flags & 7].copy(),
        np.full(natoms, DEFAULT_TAG, np.int64) if tags is None else tags.astype(np.int64),
        np.zeros(natoms, np.bool_) if fixed is None else fixed.astype(np.bool_),
        targets,
        name,
        group,
    )


def group_of(record: memoryview) -> str:
    """Read only the group of a record."""
    _, layout_length, name_length, group_length, _ = _HEAD.unpack_from(record)
    start = _HEAD.size + layout_length + name_length
    return bytes(record[start : start + group_length]).decode()


def layout_of(record: memoryview) -> str:
    """Read only the layout of a record, such as ``energy=;forces=n,3``."""
    return bytes(record[_HEAD.size : _HEAD.size + _HEAD.unpack_from(record)[1]]).decode()


def labels_of(record: memoryview) -> tuple[str, ...]:
    """Read only the names of the labels of a record; the stress of a structure without a cell is none."""
    names = target_names(layout_of(record))
    flags = _HEAD.unpack_from(record)[-1]
    periodic = flags & _CELL and flags & 7
    return names if periodic else tuple(name for name in names if name != "stress")


def target_names(layout: str) -> tuple[str, ...]:
    """Names of the targets of a layout."""
    return tuple(key for key, _, _ in _parse(layout, 1))


def _split(texts: bytes, layout_length: int, name_length: int) -> tuple[str, str, str]:
    end = layout_length + name_length
    return texts[:layout_length].decode(), texts[layout_length:end].decode(), texts[end:].decode()


def _optional(
    record: memoryview, flag: int, kind: type[np.int8 | np.uint8], natoms: int, offset: int
) -> tuple[NDArray[np.int8 | np.uint8] | None, int]:
    if not flag:
        return None, offset
    return np.frombuffer(record, kind, natoms, offset), offset + natoms


def _layout(sample: Sample) -> str:
    natoms = len(sample)
    parts = []
    for key, array in sample.targets.items():
        shape = ["n" if size == natoms and not axis else str(size) for axis, size in enumerate(array.shape)]
        parts.append(f"{key}={','.join(shape)}")
    return ";".join(parts)


@lru_cache(maxsize=4096)
def _parse(layout: str, natoms: int) -> tuple[tuple[str, tuple[int, ...], int], ...]:
    """Give name, shape and size of every target."""
    found = []
    for part in filter(None, layout.split(";")):
        key, _, text = part.rpartition("=")
        shape = tuple(natoms if size == "n" else int(size) for size in text.split(",") if size)
        found.append((key, shape, prod(shape)))
    return tuple(found)


def _require_encodable(sample: Sample, texts: list[bytes]) -> None:
    label = sample.name or "structure"
    if max(map(len, texts)) > _LONGEST_TEXT:
        raise DataError(f"{label[:80]}: a name, a group or the names of the targets are too long: shorten them")
    if any(";" in key or not key for key in sample.targets):
        raise DataError(
            f"{label}: the target names {list(sample.targets)} may not contain ';' or be empty: rename them"
        )
    for field, low, high in (("numbers", 0, 255), ("tags", -128, 127)):
        values = getattr(sample, field)
        if len(values) and (values.min() < low or values.max() > high):
            raise DataError(f"{label}: {field} lie outside {low} to {high}: check the file")
