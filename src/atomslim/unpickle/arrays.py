"""Arrays and numbers of numpy in pickles: what stands for the names by which numpy describes them."""

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomslim.unpickle.program import Function, Inert

NUMBER_KINDS = "biuf"
"""Kinds of numpy types that are real numbers: some of the others can hold objects."""


class NumberType(Inert):
    """Stands in for numpy's dtype: a type of numbers, and its byte order, which arrives as its state."""

    __slots__ = ("dtype",)

    def __init__(self, text: object, *_flags: object) -> None:
        self.dtype = np.dtype(text if isinstance(text, str) else "O")
        if self.dtype.kind not in NUMBER_KINDS:
            raise pickle.UnpicklingError("an array of something else than numbers")

    def __setstate__(self, *state: object) -> None:
        match state:
            case ((_version, "<" | ">" as order, *_rest),):
                self.dtype = self.dtype.newbyteorder(order)


class Array(Inert):
    """Stands in for a numpy array, whose content arrives as its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.empty(0)

    def __setstate__(self, *state: object) -> None:
        match state:
            case ((_version, tuple(shape), NumberType() as kind, fortran, bytes(content)),):
                numbers = np.frombuffer(content, dtype=kind.dtype)
                self.value = numbers.reshape(shape, order="F" if fortran else "C").copy()
            case _:
                raise pickle.UnpicklingError("an array that is not described by numbers")


def _numpy_scalar(kind: object, content: object) -> Any:
    if not isinstance(kind, NumberType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a number that is not described by bytes")
    return np.frombuffer(content, dtype=kind.dtype, count=1)[0]


def _encode(text: object, encoding: object) -> bytes:
    """Give the bytes that old protocols write as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("a text where bytes are expected")
    return text.encode("latin1")


def plain(value: Any) -> Any:
    """Return the numpy array that an unpickled array stands for; any other value as it is."""
    return getattr(value, "value", None) if isinstance(value, Array) else value


ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): NumberType,
    ("numpy", "ndarray"): Array,
    ("_codecs", "encode"): Function(_encode),
    **{
        (module, name): Function(function)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in (("scalar", _numpy_scalar), ("_reconstruct", lambda *_: Array()))
    },
}
"""What numpy names to describe numbers; version 1 and 2 use other modules."""
