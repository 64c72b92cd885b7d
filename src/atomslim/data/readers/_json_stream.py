"""Reading the items of a long JSON array one at a time, from plain or gzip-compressed text of any size."""

import gzip
import zlib
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import IO, Any, Self

from atomslim.data.readers._common import damaged, existing
from atomslim.errors import DataError, one_line

_CHUNK = 1 << 20
_LONGEST = 1 << 24
"""A mistake this far from the end of the available text is real, not caused by truncation."""

_LARGEST = 1 << 27
"""Letters of one item, which is held in memory."""

_SPACE = " \t\r\n"
_AFTER = f"{_SPACE},:]}}"
"""What may follow a value: after anything else, such as the point of a cut number, one has to read on."""

_BROKEN = (OSError, EOFError, zlib.error, UnicodeDecodeError)


def read_array(path: Path) -> Iterator[Any]:
    """Give the items of a file that is one JSON array.

    Raises:
        DataError: the file is missing, cut off, damaged or no array.

    """
    with _opened(path) as stream:
        yield from stream.array()


def read_object(path: Path, key: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give the items of the array `key` of a file that is one JSON object, each with the members that precede it.

    Raises:
        DataError: the file is missing, cut off, damaged, no object, or without that array.

    """
    with _opened(path) as stream:
        before: dict[str, Any] = {}
        stream.take("{", "an object")
        while not stream.at("}"):
            name = stream.value()
            stream.take(":", "a colon")
            if name == key:
                for item in stream.array():
                    yield before, item
                return
            before[name] = stream.value()
            stream.skip(",")
    raise DataError(f"{path}: has no {key} (it has: {', '.join(before) or 'nothing'}): check that it is the right file")


class _Stream:
    """A window that moves over the text."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._offset = 0
        self._ended = False
        self._decoder = JSONDecoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def at(self, character: str) -> bool:
        """Say whether the next character that is not a space is this one."""
        while True:
            while self._offset < len(self._text) and self._text[self._offset] in _SPACE:
                self._offset += 1
            if self._offset < len(self._text):
                return self._text[self._offset] == character
            self._more("the text ends too early")

    def skip(self, character: str) -> bool:
        """Pass the next character if it is this one."""
        if not self.at(character):
            return False
        self._offset += 1
        return True

    def take(self, character: str, what: str) -> None:
        """Pass the next character, which has to be this one."""
        if not self.skip(character):
            raise self._error(f"{what} is expected and {self._text[self._offset :][:20]!r} found")

    def value(self) -> Any:
        """Pass and give the next value, reading as much as it needs."""
        self.at("")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._offset)
            except JSONDecodeError as error:
                if self._ended or len(self._text) - error.pos > _LONGEST:
                    raise self._error(error.msg) from error
                if len(self._text) - self._offset > _LARGEST:
                    raise self._error(f"one value of more than {_LARGEST} letters") from error
            except (RecursionError, ValueError, OverflowError) as error:
                raise self._error(one_line(error)) from error
            else:
                rest = len(self._text) - end
                if self._ended or rest > _LONGEST or (rest and self._text[end] in _AFTER):  # a number may continue
                    self._offset = end
                    return value
            self._more("")

    def array(self) -> Iterator[Any]:
        """Pass and give the items of an array."""
        self.take("[", "an array")
        while not self.skip("]"):
            yield self.value()
            if not self.at("]"):
                self.take(",", "a comma")

    def _more(self, complaint: str) -> None:
        """Read on, twice as much each time a value turns out longer; forget what has been passed."""
        if self._ended:
            raise self._error(complaint)
        with damaged(f"{self._path}", *_BROKEN):
            text = self._file.read(max(_CHUNK, len(self._text) - self._offset))
        self._text = self._text[self._offset :] + text
        self._offset = 0
        self._ended = not text

    def _error(self, what: str) -> DataError:
        return DataError(f"{self._path}: cut off or no proper JSON ({what}): download it again")


def _opened(path: Path) -> _Stream:
    with damaged(f"{existing(path)}", OSError):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return _Stream(gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8"), path)
