"""Inputs of predictions, as one sequence of structures: files, folders of files, containers, datasets.

| name | means |
|---|---|
| `water.xyz`, `xyz:water.xyz` | a file in any format that ASE reads, or an `.aselmdb` file; labels are not needed |
| `labelled/`, `pool/` | the container that `atomslim label` or `atomslim pool` wrote there |
| `frames/` | the files in a folder, in the order of their names, without hidden ones and databases' locks |
| `water.samples` | a container: records that are not wanted are not read |
| `rmd17:aspirin` | a dataset as `atomslim data list` names it: its container if it is prepared, else its files |

Every structure has a number, from 0 at the first of the first to the last of the last.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ase import Atoms

from atomslim.atoms import AtomsBatch, Sample, from_ase, to_batch, validate
from atomslim.atoms.charges import charge_or_spin
from atomslim.data.container import Container, contents, is_container, require_current, source_files, whole_folder
from atomslim.data.known import names, require_structures
from atomslim.data.readers import ase_files
from atomslim.data.registry import FILE_PREFIXES, Source, require_files, resolve, written_options
from atomslim.errors import ConfigError, StructureError
from atomslim.inference.frames import read_numbered, record_label

Wanted = Callable[[int], bool]
"""Says whether the structure with a number is to be read."""


def _all(_: int) -> bool:
    return True


@dataclass(frozen=True)
class Frame:
    """One checked structure; `number` is its index among all, `name` says which file and record it is."""

    number: int
    name: str
    atoms: Atoms
    batch: AtomsBatch
    ignored: str = ""
    """Charge or spin that comes with it."""
    group: str = ""
    """Molecule, system or reaction that it belongs to, if a container or dataset says so."""


@dataclass(frozen=True)
class Found:
    """A structure as it was read; without labels that are not part of it."""

    name: str
    atoms: Atoms
    batch: AtomsBatch | None = None
    ignored: str = ""
    group: str = ""

    @classmethod
    def of(cls, sample: Sample, name: str) -> "Found":
        """Take the structure of a sample, with its own name if it has one."""
        bare = replace(sample, targets={})
        return cls(sample.name or name, bare.to_ase(), to_batch([bare]), sample.ignored, sample.group)

    def checked(self, number: int) -> Frame:
        """Check it; raises StructureError that names file and record."""
        batch = from_ase(self.atoms) if self.batch is None else self.batch
        with naming_structure(self.name):
            validate(batch)
        ignored = self.ignored or charge_or_spin(self.atoms)
        return Frame(number, self.name, self.atoms, batch, ignored, self.group)


class Input(Protocol):
    """A part of the sequence."""

    def read(self, wanted: Wanted) -> Iterator[Found | None]:
        """Read its structures in order; None stands for each that is not wanted."""
        ...

    def identity(self) -> dict[str, Any]:
        """Identify its structures: another value means other structures."""
        ...


@dataclass(frozen=True)
class FileInput:
    """A file of structures."""

    path: Path

    def read(self, wanted: Wanted) -> Iterator[Found | None]:
        """Read as `Input` says; raises StructureError or DataError that names the record."""
        if self.path.suffix == ".aselmdb" or ase_files.is_database(self.path):
            for number, (name, frame) in enumerate(ase_files.database_frames(self.path)):
                ignored = charge_or_spin(frame.atoms, frame.data)
                yield Found(name, frame.atoms, ignored=ignored) if wanted(number) else None
        else:
            for number, atoms in read_numbered(self.path, wanted):
                yield None if atoms is None else Found(record_label(self.path, number), atoms)

    def identity(self) -> dict[str, Any]:
        """Name, and a checksum of the contents."""
        return {"name": self.path.name, "contents sha256": contents([self.path])}


@dataclass(frozen=True)
class FolderInput:
    """The files of a folder."""

    path: Path
    files: tuple[Path, ...]

    @classmethod
    def at(cls, path: Path) -> "FolderInput":
        """List the files, as readers of data do; raises DataError where there are none, or one of no known format."""
        return cls(path, tuple(ase_files.files_of(path)))

    def read(self, wanted: Wanted) -> Iterator[Found | None]:
        """Read as `Input` says."""
        return _joined(map(_file, self.files), wanted)

    def identity(self) -> dict[str, Any]:
        """Name, number of files, and checksums of their names and contents."""
        return {"name": self.path.resolve().name, **_identity(self.files)}


@dataclass(frozen=True)
class ContainerInput:
    """A container of samples."""

    container: Container

    def read(self, wanted: Wanted) -> Iterator[Found | None]:
        """Read as `Input` says; raises DataError for a broken record."""
        for number in range(len(self.container)):
            yield (
                Found.of(self.container[number], record_label(self.container.path, number)) if wanted(number) else None
            )

    def identity(self) -> dict[str, Any]:
        """Name and checksum."""
        return {"name": self.container.path.name, "sha256": self.container.checksum}


@dataclass(frozen=True)
class DatasetInput:
    """A dataset that is not prepared: its files are read from the start."""

    source: Source

    def read(self, wanted: Wanted) -> Iterator[Found | None]:
        """Read as `Input` says; raises DataError for a broken file."""
        for number, sample in enumerate(self.source.read()):
            yield Found.of(sample, record_label(self.source.name, number)) if wanted(number) else None

    def identity(self) -> dict[str, Any]:
        """Name, number of files, and checksums of their names and contents."""
        found = {"name": self.source.name, **_identity(source_files(self.source.path))}
        return {**found, "options": written_options(self.source)} if self.source.options else found


def open_inputs(sources: Iterable[str | os.PathLike[str]], options: Mapping[str, str] | None = None) -> list[Input]:
    """Find what the names mean; with ``options`` of their readers, such as ``length_unit``.

    Raises:
        ConfigError: no name, or an unknown dataset.
        StructureError, DataError: a folder without structures, a broken container, a missing dataset.
        OSError: there is no such file.

    """
    inputs = [_input(os.fspath(source), dict(options or {})) for source in sources]
    if not inputs:
        raise ConfigError("no structures: name one or more files, folders or datasets")
    return inputs


def read_inputs(inputs: Sequence[Input], wanted: Wanted = _all) -> Iterator[Frame]:
    """Give the wanted structures of all inputs, checked and numbered; raises as they do."""
    for number, found in enumerate(_joined(inputs, wanted)):
        if found is not None:
            yield found.checked(number)


def first_structure(source: str | os.PathLike[str]) -> Atoms:
    """Return the first structure of a file, folder or dataset, checked; raises StructureError where there is none."""
    for frame in read_inputs(open_inputs([source]), lambda number: number == 0):
        return frame.atoms
    raise StructureError(f"{os.fspath(source)}: holds no structure: name another file")


@contextmanager
def naming_structure(name: str) -> Iterator[None]:
    """Name the file and record instead of "structure 0" in an error about a batch of one structure."""
    try:
        yield
    except StructureError as error:
        detail = str(error).removeprefix("structure 0").lstrip(",: ")
        raise StructureError(f"{name}: {detail}") from error


def _joined(inputs: Iterable[Input], wanted: Wanted) -> Iterator[Found | None]:
    """Read one after the other; `wanted` is asked about consecutive numbers."""
    before = 0
    for one in inputs:
        first = before
        for found in one.read(partial(_counted_on, wanted, first)):
            before += 1
            yield found


def _counted_on(wanted: Wanted, first: int, number: int) -> bool:
    return wanted(first + number)


def _input(name: str, options: dict[str, str]) -> Input:
    path = Path(name).expanduser()
    prefix, _, rest = name.partition(":")
    if path.exists() and name not in names():
        path = whole_folder(path)
        if options and not is_container(path):
            return DatasetInput(resolve(name, options=options))
        return FolderInput.at(path) if path.is_dir() else _file(path)
    if prefix in FILE_PREFIXES and rest:
        return _input(rest, options)
    dataset = name.partition("@")[0].partition(":")[0]
    if dataset not in names() and (os.sep in name or path.suffix):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    source = resolve(name, options=options)
    if source.container is not None and not options:
        return _container(source.container, source.path)
    require_files(source)
    return DatasetInput(source)


def _file(path: Path) -> Input:
    require_structures(path)
    return _container(path) if is_container(path) else FileInput(path)


def _container(path: Path, source: Path | None = None) -> Input:
    container = Container(path)
    require_current(container, source)
    return ContainerInput(container)


def _identity(files: Sequence[Path]) -> dict[str, Any]:
    names = hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest()
    return {"files": len(files), "names sha256": names, "contents sha256": contents(files)}
