"""The known datasets, one reader each, and hints for files that none of them reads."""

import pkgutil
import re
from importlib import import_module
from lzma import LZMAError
from pathlib import Path
from types import ModuleType

from ase.io.formats import open_with_compression

from atomslim.data import readers
from atomslim.errors import DataError

FILES = "ase_files"
"""Reader of any file of structures."""


def names() -> list[str]:
    """Names of the datasets, without importing their readers."""
    found = {module.name for module in pkgutil.iter_modules(readers.__path__) if not module.name.startswith("_")}
    return sorted(found - {FILES})


def reader_of(name: str) -> ModuleType:
    """Import the reader of a dataset."""
    return import_module(f"{readers.__name__}.{name}")


READERS = {
    ".npz": ("rmd17", "md22"),
    ".npy": (),
    ".h5": ("ani1x", "transition1x", "spice", "comp6"),
    ".hdf5": ("spice", "ani1x", "transition1x", "comp6"),
    ".hdf": (),
    ".lmdb": ("oc20", "oc22"),
    ".mdb": (),
    ".pkl": ("ani1x", "transition1x"),
    ".parquet": (),
    ".csv": (),
    ".zip": (),
    ".tar": (),
    ".tgz": (),
    ".7z": (),
    ".json": ("matbench", "qmof"),
}
"""Ending → datasets whose files have it."""

_ARCHIVES = {".zip", ".tar", ".tgz", ".7z"}

_ASE_JSON = re.compile(rb'\s*\{\s*"(\d+|ids|nextid|metadata)"\s*:|\s*\{\s*\}|\s*$')
"""How ASE's JSON database begins: rows by number."""


def is_ase_json(path: Path) -> bool:
    """Say whether a file begins as ASE's JSON database does."""
    try:
        with open_with_compression(str(path), "rb") as file:
            return _ASE_JSON.match(file.read(4096)) is not None
    except (OSError, EOFError, LZMAError):  # a compressed file that is cut off or is none
        return False


def require_structures(path: Path) -> None:
    """Raise DataError for a file that only the reader of a dataset understands, with the name to give."""
    ending = _ending(path)
    if not path.is_file() or ending not in READERS or (ending == ".json" and is_ase_json(path)):
        return
    raise DataError(f"{path}: is not a file of structures: {_remedy(path, ending)}")


def _ending(path: Path) -> str:
    """Return the ending that counts: of data.json.gz and data.tar.bz2 the one before the last."""
    endings = [ending.lower() for ending in path.suffixes]
    if len(endings) > 1 and endings[-1] in {".gz", ".bz2", ".xz"}:
        return ".tar" if endings[-2] == ".tar" else endings[-2]
    return endings[-1] if endings else ""


def _remedy(path: Path, ending: str) -> str:
    if "mptrj" in path.name.lower():
        return "MPtrj's JSON is not read: convert its structures to extended XYZ with ASE, see the page Your own data"
    names = _by_name(path) or list(READERS[ending])
    given = [f"{name}:{_variant(path, name)}@{path}".replace(":@", "@") for name in names]
    if given:
        return f"name its dataset, as in {' or '.join(given)}" + (" (unpack it first)" if ending in _ARCHIVES else "")
    if ending in _ARCHIVES:
        return "unpack it, and name the file or folder inside"
    return "convert it to extended XYZ or an ASE database, or name its dataset as DATASET:VARIANT@FILE"


def _by_name(path: Path) -> list[str]:
    """Name the datasets that the file's name begins with or contains."""
    plain = re.sub(r"[^a-z0-9]", "", path.name.lower())
    return [name for name in names() if name != "mini" and name in plain]


def _variant(path: Path, dataset: str) -> str:
    """Return the variant that the file's name says, else what to put there."""
    known = [variant.name for variant in reader_of(dataset).INFO.variants]
    stem = path.name.lower()
    found = [name for name in known if name and name.lower() in stem]
    if found:
        return max(found, key=len)
    return "VARIANT" if known and all(known) else ""
