"""The one unpickler: it builds containers, numbers and texts, and of named things only what its caller lists.

A pickle is a program: it names functions and calls them. Nothing that a file names is imported here; each name is
answered by something of the caller's list, or by `Foreign`, or the file is refused. The program is checked
before it runs, because a few bytes can ask for gigabytes: by a length that the file does not have, or a slot in the
table of remembered objects.
"""

import mmap
import pickle
import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, TypeAlias

Buffer: TypeAlias = bytes | mmap.mmap

Names: TypeAlias = Mapping[tuple[str, str], Any]
"""What stands for each global name, by module and name."""


class Inert:
    """Ignores the state that a pickle sets on it or, by way of the unbound method, on its class."""

    __slots__ = ()

    def __setstate__(self, *_state: object) -> None:
        """Do nothing."""


class _Swallowing(type):
    """Makes a class that can be called, filled and indexed like anything a pickle may build, to no effect."""

    def __call__(cls, *_args: object, **_kwargs: object) -> type["Foreign"]:
        """Return the class itself: a pickle may take a call's result for a class, an instance or a list."""
        return Foreign

    def __setitem__(cls, _key: object, _value: object) -> None:
        pass


class Foreign(metaclass=_Swallowing):
    """Stands in for every class and function that is not rebuilt, and for their instances and results."""

    def __new__(cls, *_args: object, **_kwargs: object) -> type["Foreign"]:  # type: ignore[misc]  # see _Swallowing
        """Take any arguments and return the class itself."""
        return Foreign

    @staticmethod
    def __setstate__(*_state: object) -> None:
        """Do nothing, as all methods that a pickle calls."""

    append = extend = add = __setstate__


class Ordered(dict[Any, Any], Inert):
    """Stands in for OrderedDict, and drops the attributes that a file gives it."""


class Function(Inert):
    """A function of ours, in a shell on which a pickle can set nothing."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        return self.run(*arguments)


class RefusedError(pickle.UnpicklingError):
    """A name that is not on the list; its message is that name."""


def unpickled(
    content: Buffer,
    names: Names,
    *,
    start: int = 0,
    others: Any = None,
    references: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
) -> tuple[Any, int]:
    """Return what the pickle at an offset of a file makes, and the offset where it ends.

    Nothing in it is executed, and the memory it takes is bounded by a small multiple of its length.

    Args:
        content: the file.
        names: what stands for the names that the pickle may use.
        start: where the pickle begins.
        others: what stands for all other names, `Foreign` say; None: they are refused.
        references: turns a persistent identity into what it stands for; None: there are none.
        encoding: of texts that Python 2 wrote.

    Raises:
        RefusedError: a name that is not on the list.
        Exception: anything, for a program that is cut off, damaged, or built to harm.

    """
    end = _end(content, start)
    stream = content if isinstance(content, mmap.mmap) else BytesIO(content)
    stream.seek(start)
    return _Unpickler(stream, names, others, references, encoding).load(), end


class _Unpickler(pickle.Unpickler):
    """Imports nothing."""

    def __init__(self, file: Any, names: Names, others: Any, references: Any, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._names, self._others, self._references = names, others, references

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global name."""
        found = self._names.get((module, name), self._others)
        if found is None:
            raise RefusedError(f"{module}.{name}")
        return found

    def persistent_load(self, identity: Any) -> Any:
        """Return what a reference stands for."""
        if self._references is None:
            raise pickle.UnpicklingError("a reference out of place")
        return self._references(identity)


def _arguments() -> list[int | None]:
    """By opcode: the length of its argument; -1, -2: so many lines; -11, -14, -18: a length of 1, 4, 8 bytes first."""
    counted = {pickletools.TAKEN_FROM_ARGUMENT1: -11, pickletools.TAKEN_FROM_ARGUMENT4: -14}
    counted |= {pickletools.TAKEN_FROM_ARGUMENT4U: -14, pickletools.TAKEN_FROM_ARGUMENT8U: -18}
    table: list[int | None] = [None] * 256
    for opcode in pickletools.opcodes:
        kind = opcode.arg
        if kind is None:
            length = 0
        elif kind.n == pickletools.UP_TO_NEWLINE:
            length = -2 if kind is pickletools.stringnl_noescape_pair else -1
        else:
            length = counted.get(kind.n, kind.n)
        table[ord(opcode.code)] = length
    return table


_ARGUMENTS = _arguments()
_STOP, _PUT, _LONG_PUT, _FRAME = b".pr\x95"


def _end(program: Buffer, start: int) -> int:
    """Walk over a pickle, without running it, to where it ends; raises UnpicklingError for one that asks for too much.

    Every argument must lie in the file, and the table of remembered objects, which the unpickler makes as long as the
    highest slot that is named, must not be longer than the program.
    """
    position, length = start, len(program)
    while position < length:
        opcode = program[position]
        argument = position + 1
        kind = _ARGUMENTS[opcode]
        if opcode == _STOP:
            return argument
        if kind is None:
            raise pickle.UnpicklingError(f"no pickle: byte {opcode} at {position}")
        position = _after(program, argument, kind)
        remembered = 0
        if opcode == _LONG_PUT:
            remembered = int.from_bytes(program[argument:position], "little")
        elif opcode == _PUT:
            remembered = int(program[argument:position])
        elif opcode == _FRAME and int.from_bytes(program[argument:position], "little") > length - position:
            break
        if remembered > length:
            raise pickle.UnpicklingError(f"remembers an object at {remembered}, beyond the length of the file")
    raise EOFError("the pickle has no end")


def _after(program: Buffer, argument: int, kind: int) -> int:
    """Give the offset after an argument; beyond the file where it is cut off."""
    if kind >= 0:
        return argument + kind
    if kind < -10:
        size = -10 - kind
        return argument + size + int.from_bytes(program[argument : argument + size], "little")
    position = argument
    for _ in range(-kind):
        position = program.find(b"\n", position) + 1
        if not position:
            raise EOFError("a line of the pickle has no end")
    return position
