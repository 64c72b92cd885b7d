"""Resumable downloads, accepted only if their checksum is right.

A file grows as `<name>.part` beside its final path, and is moved there once its size and checksum are right. Beside it
lies `<name>.part.json`: which version of the file it is a part of, so that parts of two versions are never mixed. Where
the source publishes no checksum, the one found is written to `<name>.sha256`, so that later damage shows.
"""

import hashlib
import json
import lzma
import os
import socket
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from atomslim.data.info import RemoteFile
from atomslim.data.registry import Source
from atomslim.errors import ConfigError, DataError
from atomslim.files import alone_in, atomic_write
from atomslim.parsing import parse_json

OFFLINE_VARIABLE = "ATOMSLIM_OFFLINE"
"""Environment variable; when it is 1, nothing is downloaded."""

_CHUNK = 2**18
_HEADERS = {"User-Agent": "atomslim", "Accept-Encoding": "identity"}  # figshare refuses urllib's own name
_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""

_GONE = {403, 404, 410}
_RANGE_NOT_SATISFIABLE = 416

Advance = Callable[[str, int, int | None], None]
"""Called with the name of the file, the bytes received, and the total if known."""


def download(source: Source, advance: Advance | None = None, *, attempts: int = 4, wait: float = 2.0) -> list[Path]:
    """Download the missing files of a dataset to its folder, and unpack archives.

    Args:
        source: the dataset, as `resolve` finds it.
        advance: called with the progress.
        attempts: how often a broken connection is retried without any progress in between.
        wait: seconds before the second attempt; twice as many before each further one.

    Returns:
        The files, in the order in which the dataset names them.

    Raises:
        ConfigError: the dataset names no files to download.
        DataError: no connection, a file that is no longer there, or a wrong checksum; says where to put the file.
        OSError: it cannot be written (a full disk).

    """
    if not source.variant.files or source.prepared is None:
        raise ConfigError(
            f"{source.name}: atomslim has no address to download it from: see {source.info.homepage} and put it at "
            f"{source.path}"
        )
    folder = source.prepared.parent
    folder.mkdir(parents=True, exist_ok=True)
    return [fetch(file, folder, advance, attempts=attempts, wait=wait) for file in source.variant.files]


def fetch(
    file: RemoteFile, folder: Path, advance: Advance | None = None, *, attempts: int = 4, wait: float = 2.0
) -> Path:
    """Download one file to a folder unless it exists; raises as `download` does."""
    target = folder / file.filename
    if target.exists():
        _require_right(file, target, target)
    else:
        _require_online(file, target)
        with _locked(target) as part:
            if not target.exists():  # another process may have finished it while we waited
                _grow(file, target, part, advance or (lambda *_: None), attempts, wait)
                _accept(file, part, target)
    if file.unpack:
        _unpack(target)
    return target


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Hash a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _require_online(file: RemoteFile, target: Path) -> None:
    if os.environ.get(OFFLINE_VARIABLE) == "1":
        raise DataError(f"{target}: not there, and {OFFLINE_VARIABLE}=1 forbids downloads: {_by_hand(file, target)}")


def _by_hand(file: RemoteFile, target: Path) -> str:
    return f"get {file.url} on another machine and put it at {target}"


@contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """Give the path of the growing file, which no other process writes to meanwhile."""
    with alone_in(target.parent):
        yield target.with_name(f"{target.name}.part")


def _grow(file: RemoteFile, target: Path, part: Path, advance: Advance, attempts: int, wait: float) -> None:
    """Download until the file is complete; broken connections are retried as long as there is progress."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(file, target, part, advance)
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            failures = failures + 1 if _size(part) <= before else 1
            if _is_final(error) or failures >= attempts:
                raise DataError(_failure(file, target, part, error)) from error
            time.sleep(wait * 2 ** (failures - 1))
        else:
            return


def _transfer(file: RemoteFile, target: Path, part: Path, advance: Advance) -> None:
    """Make one request for what is missing, and append it."""
    start = _size(part)
    if start and start == file.bytes:
        return
    request = urllib.request.Request(file.url, headers=_headers(file, part))  # noqa: S310 -- a reader's URL
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310 -- as above
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":  # it was complete
            return
        part.unlink(missing_ok=True)
        raise ConnectionError("the file has changed on the server") from error
    with response:
        resumed = str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
        total = _total(response, start if resumed else 0)
        if not resumed:
            part.unlink(missing_ok=True)  # first, so that the note is never about other bytes
            _remember(part, response)
        with part.open("ab" if resumed else "wb") as out:
            _receive(response, out, lambda done: advance(target.name, done, total))
    if total is not None and _size(part) < total:
        raise ConnectionError("the connection broke off")


def _headers(file: RemoteFile, part: Path) -> dict[str, str]:
    """Ask for the rest, if the file is still the same; a checksum would detect changes as well."""
    start, version = _size(part), _version(part)
    if not start or not (version or file.sha256 or file.md5):
        return _HEADERS
    condition = {"If-Range": version} if version else {}
    return {**_HEADERS, "Range": f"bytes={start}-", **condition}


def _receive(response: HTTPResponse, out: BinaryIO, advance: Callable[[int], None]) -> None:
    while chunk := response.read1(_CHUNK):
        out.write(chunk)
        advance(out.tell())


def _total(response: HTTPResponse, start: int) -> int | None:
    length = response.headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else None


def _remember(part: Path, response: HTTPResponse) -> None:
    """Note which version of the file this is a part of: only a strong ETag or a date may be resumed by."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    _note(part).write_text(json.dumps({"version": version}), encoding="utf-8")


def _version(part: Path) -> str | None:
    try:
        return str(parse_json(_note(part).read_text(encoding="utf-8"))["version"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_final(error: Exception) -> bool:
    """Say whether trying again is pointless: the file is gone, or there is no network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _GONE
    return isinstance(error, urllib.error.URLError) and isinstance(error.reason, socket.gaierror)


def _failure(file: RemoteFile, target: Path, part: Path, error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    so_far = f"; {_size(part)} bytes are kept, run it again to continue" if _size(part) else ""
    return f"{target}: cannot be downloaded from {file.url} ({reason}){so_far}; or {_by_hand(file, target)}"


def _accept(file: RemoteFile, part: Path, target: Path) -> None:
    """Move a complete download into place, or remove it when it is not what was expected."""
    try:
        _require_right(file, part, target)
    except DataError:
        part.unlink()
        _note(part).unlink(missing_ok=True)
        raise
    part.replace(target)
    _note(part).unlink(missing_ok=True)


def _require_right(file: RemoteFile, path: Path, target: Path) -> None:
    """Compare size and checksum with those published, or with the checksum of the first download."""
    remedy = f"download it again, or {_by_hand(file, target)}"
    if path == target:
        remedy = f"remove it and {remedy}"
    if file.bytes is not None and path.stat().st_size != file.bytes:
        raise DataError(f"{path}: has {path.stat().st_size} bytes where {file.bytes} are expected: {remedy}")
    for algorithm, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected:
            _require_checksum(path, algorithm, expected, remedy)
            return
    record = target.with_name(f"{target.name}.sha256")
    if record.exists():
        _require_checksum(path, "sha256", record.read_text(encoding="utf-8").split()[0], remedy)
    else:
        with atomic_write(record) as temporary:
            temporary.write_text(f"{checksum(path)}  {target.name}\n", encoding="utf-8")


def _require_checksum(path: Path, algorithm: str, expected: str, remedy: str) -> None:
    found = checksum(path, algorithm)
    if found != expected.lower():
        raise DataError(f"{path}: {algorithm} is {found} where {expected} is expected: {remedy}")


def _unpack(archive: Path) -> None:
    """Unpack a tar or zip archive beside itself, once; a note says that it is done."""
    done = archive.with_name(f"{archive.name}.unpacked")
    if done.exists():
        return
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as members:
                members.extractall(archive.parent)  # noqa: S202 -- zipfile leaves out absolute and upward paths
        else:
            with tarfile.open(archive) as members:
                members.extractall(archive.parent, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}): remove it and download it again") from error
    done.touch()


def describe(files: Sequence[RemoteFile]) -> str:
    """Size of some files in words, as far as it is known."""
    if not files:
        return "to be put there by hand"
    sizes = [file.bytes for file in files if file.bytes is not None]
    if not sizes:
        return "size not stated"
    return human(sum(sizes)) if len(sizes) == len(files) else f"more than {human(sum(sizes))}"


def human(size: float) -> str:
    """Write a number of bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
