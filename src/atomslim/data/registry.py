"""Datasets by name: `rmd17:aspirin`, `qm9:U0`, `oc20:train@/data/s2ef`, `xyz:water.extxyz`, or simply a path.

| name | means |
|---|---|
| `rmd17:aspirin` | a variant of a dataset, its files at `<root>/rmd17/…` as `atomslim data download` puts them |
| `rmd17:aspirin@file.npz` | the same, read from a file or folder of your own |
| `xyz:water.extxyz` | any file of structures; `ase:`, `db:`, `aselmdb:` mean the same |
| `water.extxyz` | the same, where a file of this name is there |
| `water.samples` | a container of ours |
| `labelled/`, `pool/` | what `atomslim label` and `atomslim pool` wrote: the container in it |

Only the module of the dataset that is named is imported.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from atomslim.atoms.sample import Sample
from atomslim.data.container import SUFFIX, is_container, whole_folder
from atomslim.data.info import DatasetInfo, Variant
from atomslim.data.known import FILES, names, reader_of, require_structures
from atomslim.data.remarks import Remarks
from atomslim.errors import ConfigError, DataError

ROOT_VARIABLE = "ATOMSLIM_DATA"
"""Environment variable that names the folder of all datasets."""

FILE_PREFIXES = ("xyz", "extxyz", "ase", "db", "aselmdb")
"""Prefixes of paths of files of structures."""


@dataclass(frozen=True)
class Source:
    """A dataset found by name: what it is, and where its files are (they need not exist yet)."""

    name: str
    reader: str
    """Module of its reader."""
    info: DatasetInfo
    variant: Variant
    path: Path
    """What the reader reads: a file or a folder."""
    prepared: Path | None
    """Path of its container when prepared; None if the user must name it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the reader."""

    @property
    def container(self) -> Path | None:
        """Its container, if it exists."""
        if is_container(self.path):
            return self.path
        return self.prepared if self.prepared is not None and self.prepared.is_file() else None

    def read(self, part: Path | None = None, remarks: Remarks | None = None) -> Iterator[Sample]:
        """Read the structures one after the other, of one part or of all; raises DataError for a broken file.

        Further observations of the reader go to ``remarks``.
        """
        require_files(self)
        source = part or self.path
        noting = _optional(self.reader, "read_noting", None)
        if remarks is not None and noting is not None:
            return noting(remarks, source, self.variant.name, **self.options)
        return reader_of(self.reader).read(source, self.variant.name, **self.options)

    def count(self) -> int | None:
        """Count the structures, if the reader can do that cheaply."""
        return _optional(self.reader, "count", lambda *_: None)(self.path, self.variant.name)

    def parts(self) -> list[Path]:
        """Files that may be read independently, and in this order make up the whole; often a single one."""
        return list(_optional(self.reader, "parts", _shards)(self.path, self.variant.name))


def info(name: str) -> DatasetInfo:
    """Return what is known of a dataset; raises ConfigError for an unknown name, with the nearest ones."""
    if name not in names() and name != FILES:
        raise ConfigError(f"unknown dataset {name!r}{_nearest(name, [*names(), *FILE_PREFIXES])}")
    return reader_of(name).INFO


def file_info(options: Mapping[str, Any]) -> DatasetInfo:
    """Return what is known of files of structures that are read with these options: which labels are binary."""
    given = options.get("labels", ())
    names = given.split(",") if isinstance(given, str) else given
    labels = tuple(stripped for name in names if (stripped := name.strip()))
    return info(FILES).model_copy(update={"labels": labels}) if labels else info(FILES)


def resolve(name: str, root: str | os.PathLike[str] | None = None, options: dict[str, Any] | None = None) -> Source:
    """Find a dataset by its name, in which `$NAME` stands for an environment variable; `options` go to its reader.

    Raises:
        ConfigError: an environment variable that is not set.
        ConfigError: an unknown dataset or variant; names the nearest ones.
        DataError: a name that can only be a file's, and there is no such file.

    """
    name = _with_variables(name)
    first, _, rest = name.partition(":")
    given = dict(options or {})
    if first in FILE_PREFIXES and rest:
        return _file(name, Path(rest), given)
    text, _, location = name.partition("@")
    prefix, _, variant_name = text.partition(":")
    if name not in names() and Path(name).exists():
        return _file(name, Path(name), given)
    if prefix not in names() and (os.sep in name or Path(name).suffix):
        raise DataError(f"{name}: there is no such file: check the path")
    found = info(prefix)
    variant = _variant(found, variant_name, optional=bool(location))
    folder = data_root(root) / found.name
    prepared = None if location else folder / f"{variant.name or found.name}{SUFFIX}"
    path = Path(location).expanduser() if location else folder / variant.path
    return Source(name, prefix, found, variant, path, prepared, _checked(prefix, given))


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder of all datasets: the argument, else $ATOMSLIM_DATA, else the user's cache folder."""
    given = root or os.environ.get(ROOT_VARIABLE)
    if given:
        return Path(given).expanduser()
    from pooch import os_cache  # noqa: PLC0415 -- slow to import, and not often needed

    return Path(os_cache("atomslim"))


def require_files(source: Source) -> None:
    """Raise DataError, saying how to get them, when the files of a dataset are missing."""
    if source.path.exists():
        return
    if source.prepared is None:
        raise DataError(f"{source.path}: there is no such file or folder (named by {source.name}): check the path")
    if source.variant.files:
        remedy = f"get it with `atomslim data download {source.name}`, or give its location as {source.name}@PATH"
    else:
        remedy = (
            f"it cannot be downloaded by atomslim, see {source.info.homepage}; give its location as {source.name}@PATH"
        )
    raise DataError(f"{source.path}: the files of {source.name} are not there: {remedy}")


def written_options(source: Source) -> dict[str, str]:
    """The options of a source as its container notes them."""
    return {name: str(value) for name, value in sorted(source.options.items())}


def _with_variables(name: str) -> str:
    text = os.path.expandvars(name)
    unset = re.search(r"\$(\w+|{\w+})", text)
    if unset:
        raise ConfigError(f"{name}: the environment variable {unset[1].strip('{}')} is not set: set it")
    return text


def _file(name: str, path: Path, options: dict[str, Any]) -> Source:
    path = whole_folder(path.expanduser())
    require_structures(path)
    options = _checked(FILES, options)
    return Source(name, FILES, file_info(options), Variant(targets=()), path, None, options)


def _checked(reader: str, options: dict[str, Any]) -> dict[str, Any]:
    """Convert the values of options, which may be strings, to the reader's types; ConfigError for unknown ones."""
    if not options:
        return {}
    read = reader_of(reader).read
    hints = get_type_hints(read)
    known = [name for name, value in signature(read).parameters.items() if value.kind is Parameter.KEYWORD_ONLY]
    checked = {}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"{reader_of(reader).INFO.title}: there is no option {name!r}{_nearest(name, known)}")
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"option {name}: {error.errors()[0]['msg']} (given: {value!r})") from error
    return checked


def _variant(found: DatasetInfo, name: str, *, optional: bool) -> Variant:
    """Find a variant; for other files the reader decides, and some datasets have none."""
    if not name and len(found.variants) == 1 and not optional:
        return found.variants[0]
    variant = found.variant(name)
    if variant is None and (optional or not found.variants):
        return Variant(name=name, targets=())
    if variant is None:
        known = [variant.name for variant in found.variants]
        what = f"unknown variant {name!r} of {found.name}" if name else f"{found.name} has variants: name one"
        raise ConfigError(f"{what}{_nearest(name, known, found.name)}")
    return variant


def _shards(path: Path, variant: str) -> list[Path]:
    """The LMDB shards of a folder, in the order in which they are read; else the whole."""
    folder = path / variant if variant and (path / variant).is_dir() else path
    files = sorted([*folder.glob("*.lmdb"), *folder.glob("*.aselmdb")])
    return files if len(files) > 1 else [path]


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Suggest similar names, or list all."""
    lower = {candidate.lower(): candidate for candidate in known}
    near = [lower[match] for match in get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    shown = [f"{prefix}:{candidate}" if prefix else candidate for candidate in near or known] or ["none"]
    return f": did you mean {' or '.join(shown)}?" if near else f" (there are {', '.join(shown)})"


@cache
def _optional(name: str, function: str, default: Callable[..., Any] | None) -> Any:
    return getattr(reader_of(name), function, default)
