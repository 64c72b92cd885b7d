import errno
import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from atomslim.data import download as downloads
from atomslim.data.download import download, fetch, human
from atomslim.data.info import RemoteFile
from atomslim.data.registry import resolve
from atomslim.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()  # noqa: S324 -- what sources publish


class Server(ThreadingHTTPServer):
    """Serves one content under any name, as badly as told."""

    content = CONTENT
    etag: str | None = '"one"'
    breaks: list[int]
    """After how many bytes each of the next answers breaks off."""
    status = 200
    ranges = True
    requests: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.npz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = self._start(asked)
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def _start(self, asked: str | None) -> int:
        same = self.headers.get("If-Range") in {None, self.server.etag}
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked and same and self.server.ranges else 0

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.breaks, running.requests = [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [{"sha256": SHA256}, {"md5": MD5}, {}])
def test_a_download_arrives_with_progress(server: Server, tmp_path: Path, checksum: dict[str, str]) -> None:
    told: list[tuple[str, int, int | None]] = []
    file = RemoteFile(url=server.url, bytes=len(CONTENT), **checksum)
    path = fetch(file, tmp_path, lambda *step: told.append(step))
    assert path.read_bytes() == CONTENT
    assert told[-1] == ("data.npz", len(CONTENT), len(CONTENT))
    assert names(tmp_path) == (["data.npz"] if checksum else ["data.npz", "data.npz.sha256"])
    fetch(file, tmp_path)
    assert len(server.requests) == 1


def test_a_broken_connection_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 50_000, 7]
    path = fetch(RemoteFile(url=server.url, sha256=SHA256), tmp_path, wait=0)
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=150000-", "bytes=150007-"]


def test_without_progress_it_gives_up_and_keeps_what_is_there(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 0, 0, 0, 0]
    file = RemoteFile(url=server.url, sha256=SHA256)
    with pytest.raises(DataError, match=r"data\.npz: cannot be downloaded .*100000 bytes are kept.*put it at") as error:
        fetch(file, tmp_path, attempts=3, wait=0)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["data.npz.part", "data.npz.part.json"]
    server.breaks = []
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"
    assert names(tmp_path) == ["data.npz"]


def test_parts_of_two_versions_are_not_mixed(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 0]
    file = RemoteFile(url=server.url)
    with pytest.raises(DataError):
        fetch(file, tmp_path, attempts=1, wait=0)
    server.content, server.etag, server.breaks = CONTENT[::-1], '"two"', []
    assert fetch(file, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(("etag", "ranges"), [(None, True), ('"one"', False), ('W/"weak"', True)])
def test_a_server_that_cannot_resume_is_asked_for_everything(
    server: Server, tmp_path: Path, etag: str | None, ranges: bool
) -> None:
    server.breaks, server.etag, server.ranges = [100_000], etag, ranges
    assert fetch(RemoteFile(url=server.url), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_complete_part_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.npz.part").write_bytes(CONTENT)
    assert fetch(RemoteFile(url=server.url, sha256=SHA256, bytes=len(CONTENT)), tmp_path).read_bytes() == CONTENT
    assert server.requests == []
    (tmp_path / "data.npz").rename(tmp_path / "data.npz.part")
    assert fetch(RemoteFile(url=server.url, sha256=SHA256), tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.npz.part").write_bytes(CONTENT + b"more")
    assert fetch(RemoteFile(url=server.url, sha256=SHA256), tmp_path, wait=0).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"bytes": 7}])
def test_a_wrong_checksum_or_size_leaves_nothing_behind(
    server: Server, tmp_path: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(DataError, match=r"data\.npz.*expected: download it again.*put it at"):
        fetch(RemoteFile(url=server.url, **wrong), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("checksum", [{"sha256": SHA256}, {}])
def test_a_file_that_was_damaged_later_is_found(server: Server, tmp_path: Path, checksum: dict[str, str]) -> None:
    file = RemoteFile(url=server.url, **checksum)
    fetch(file, tmp_path).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"sha256 is .* expected: remove it"):
        fetch(file, tmp_path)


def test_a_file_that_is_gone_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DataError, match="Not Found"):
        fetch(RemoteFile(url=server.url), tmp_path)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DataError, match="Service Unavailable"):
        fetch(RemoteFile(url=server.url), tmp_path, attempts=3, wait=0)
    assert len(server.requests) == 3


def test_without_a_network_the_expected_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(DataError, match=rf"name resolution.*put it at {tmp_path}/x\.npz"):
        fetch(RemoteFile(url="https://nowhere.invalid/x.npz"), tmp_path)


def test_downloads_can_be_forbidden(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMSLIM_OFFLINE", "1")
    with pytest.raises(DataError, match=rf"forbids downloads: get {server.url} .*put it at {tmp_path}/data\.npz"):
        fetch(RemoteFile(url=server.url), tmp_path)
    assert server.requests == []


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr("folder/inside.txt", "hello")
    else:
        with tarfile.open(fileobj=buffer, mode="w:xz") as packed:
            member = tarfile.TarInfo("folder/inside.txt")
            member.size = 5
            packed.addfile(member, io.BytesIO(b"hello"))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_unpacked_once(server: Server, tmp_path: Path, kind: str) -> None:
    server.content = archive(kind)
    file = RemoteFile(url=server.url, unpack=True)
    fetch(file, tmp_path)
    inside = tmp_path / "folder" / "inside.txt"
    assert inside.read_text() == "hello"
    inside.write_text("changed")
    fetch(file, tmp_path)
    assert inside.read_text() == "changed"


def test_an_archive_that_is_none_or_reaches_outside_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = archive("tar")[:60]
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(RemoteFile(url=server.url, name="a.tar", unpack=True), tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        packed.addfile(tarfile.TarInfo("../outside.txt"))
    server.content = buffer.getvalue()
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(RemoteFile(url=server.url, name="b.tar", unpack=True), tmp_path / ".")
    assert not (tmp_path.parent / "outside.txt").exists()


def test_a_dataset_is_downloaded_to_its_folder(server: Server, tmp_path: Path) -> None:
    source = resolve("rmd17:aspirin", tmp_path)
    file = RemoteFile(url=server.url, name="rmd17_aspirin.npz", sha256=SHA256)
    source = type(source)(**(vars(source) | {"variant": source.variant.model_copy(update={"files": (file,)})}))
    assert download(source) == [tmp_path / "rmd17" / "rmd17_aspirin.npz"]
    assert source.path.read_bytes() == CONTENT


def test_a_dataset_without_a_download_says_where_to_put_it(tmp_path: Path) -> None:
    source = resolve("comp6", tmp_path)
    with pytest.raises(ConfigError, match=rf"no address to download.*put it at {tmp_path}/comp6"):
        download(source)


def test_a_full_disk_is_no_broken_connection(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_receive", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(RemoteFile(url=server.url), tmp_path)
    assert len(server.requests) == 1


def test_sizes_in_words() -> None:
    assert [human(size) for size in (7, 1500, 153_601_803, 4.2e12)] == ["7 B", "1.5 kB", "154 MB", "4.2 TB"]
    assert downloads.describe([]) == "to be put there by hand"
    assert downloads.describe([RemoteFile(url="a", bytes=1500), RemoteFile(url="b")]) == "more than 1.5 kB"
