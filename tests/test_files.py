import errno
import stat
from pathlib import Path

import pytest

from atomslim.files import atomic_files, atomic_write, locked, tidy


def write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def write_half(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stopped")


def test_writes_the_whole_file_with_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    write(tmp_path / "model", "new")
    assert (tmp_path / "model").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write(path, "old")
    with pytest.raises(RuntimeError, match="stopped"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent  # a rename across file systems would copy
        assert not path.exists()
    assert path.exists()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "model")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "model").read_text() == "new"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder") as caught:
        write(tmp_path / "nowhere" / "model", "new")
    assert caught.value.filename == str(tmp_path / "nowhere")


def test_a_folder_and_a_device_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write(tmp_path, "new")
    with pytest.raises(FileExistsError):
        write(Path("/dev/null"), "new")


def test_an_error_of_the_disk_names_the_file_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "model") as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert caught.value.filename == str(tmp_path / "model")


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "model"):
        (tmp_path / "input").read_text()
    assert caught.value.filename == str(tmp_path / "input")


def test_what_killed_writers_left_goes_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    for name in (".model.0123abcd.tmp", ".other.0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    with atomic_write(tmp_path / "model") as first:
        assert not (tmp_path / ".model.0123abcd.tmp").exists()
        first.write_text("first")
        write(tmp_path / "model", "second")
        tidy(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([first.name, "model"])
        assert (tmp_path / "model").read_text() == "second"
    assert (tmp_path / "model").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError), atomic_files(folder, ["a", "b"]) as temporary:
        temporary["a"].write_text((tmp_path / "missing").read_text())
    assert not list(tmp_path.iterdir())
    with atomic_files(folder, ["a", "b"]) as temporary:
        for name, path in temporary.items():
            path.write_text(name)
        assert not (folder / "a").exists()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "a", "b": "b"}
    (folder / "b").unlink()
    (folder / "b").mkdir()
    with pytest.raises(FileExistsError), atomic_files(folder, ["a", "b"]) as temporary:
        pytest.fail("the second file cannot be written")
    assert (folder / "a").read_text() == "a"


def test_a_folder_is_locked_by_one(tmp_path: Path) -> None:
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path) as third:
        assert third
    assert not list(tmp_path.iterdir())
