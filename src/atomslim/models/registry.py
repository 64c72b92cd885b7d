"""Families by name: those of the entry points ``atomslim.families``, and those that come with the package.

An entry point names an object of a subclass of `Family`: ``toy = "toy_package.family:FAMILY"``. The modules and
packages in `atomslim.families` hold one called ``FAMILY`` each; they are entry points as well, but an installation
knows only the entry points of the day it was made.
"""

import os
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from atomslim.errors import CheckpointError, ConfigError
from atomslim.models.elsewhere import advice, elsewhere
from atomslim.models.family import Family

GROUP = "atomslim.families"

BEST = "best.safetensors"
"""The model of a run's folder."""


_REGISTERED: dict[str, Family] = {}


def register(one: Family) -> None:
    """Make a family known to this process without an entry point: for notebooks and tests."""
    _REGISTERED[one.name] = one
    family_names.cache_clear()
    family.cache_clear()


@cache
def family_names() -> tuple[str, ...]:
    """Return the names of all families."""
    ours = [module.name for module in pkgutil.iter_modules(import_module(GROUP).__path__)]
    return tuple(sorted({*ours, *_REGISTERED, *(point.name for point in entry_points(group=GROUP))}))


@cache
def family(name: str) -> Family:
    """Return a family by name; its module is imported now. Raises ConfigError for an unknown one."""
    if name not in family_names():
        raise ConfigError(f"unknown family of models {name!r}: there are {', '.join(family_names())}")
    if name in _REGISTERED:
        return _REGISTERED[name]
    points = entry_points(group=GROUP, name=name)
    found = next(iter(points)).load() if points else import_module(f"{GROUP}.{name}").FAMILY
    if not isinstance(found, Family):
        raise ConfigError(f"family {name!r}: its entry point gives a {type(found).__name__}, no Family")
    return found


def families() -> Iterator[Family]:
    """Give all families."""
    return map(family, family_names())


def located(path: str | os.PathLike[str]) -> tuple[Path, Family | None]:
    """Return the file that a path or name stands for, and its family if the name says it.

    A file that is called so comes before a name, and a name before a folder, which stands for its model. Raises
    CheckpointError for a folder without one, ConfigError for a name that a family does not have.
    """
    text = str(path)
    if Path(path).is_file():
        return Path(path), None
    prefix, colon, rest = text.partition(":")
    if colon and prefix in family_names():
        chosen = family(prefix)
        chosen.require_package()
        return chosen.locate(rest), chosen
    if Path(text).name == text and not Path(text).suffix:
        for one in families():
            if text in one.embedded:
                return one.locate(text), one
    return (model_in(Path(path)) if Path(path).is_dir() else Path(path)), None


def model_in(folder: Path) -> Path:
    """Return the model that a folder stands for: the best one of a run, or the only one.

    Raises CheckpointError where there is none, or several and none is the best.
    """
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if BEST in there or len(there) == 1:
        return folder / (BEST if BEST in there else there[0])
    if there:
        raise CheckpointError(f"{folder}: holds {', '.join(there[:5])}: name one of them")
    rounds = sorted(folder.glob(f"*/{BEST}"))
    if rounds:
        raise CheckpointError(
            f"{folder}: has no {BEST} yet, as of a run that was ended within its rounds: continue it (--resume), or "
            f"name one of {', '.join(str(path.parent) for path in rounds[:5])}"
        )
    raise CheckpointError(f"{folder}: is a directory without {BEST}; give the path of a model file")


def recognised(path: Path) -> Family:
    """Return the family that a checkpoint belongs to, by its content.

    Raises CheckpointError where none knows it, ConfigError where the one that does lacks its package.
    """
    found = next((one for one in families() if one.recognises(path)), None)
    if found is None and (other := elsewhere(path)) is not None:
        raise CheckpointError(advice(path, other))
    if found is None:
        from atomslim.unpickle.torch_file import read_pt  # noqa: PLC0415 - nothing else here reads a file

        read_pt(path)  # raises the right error for a file that is cut off, or that would run code
        known = ", ".join(one.title for one in families())
        raise CheckpointError(f"{path}: is a checkpoint of no family of models that is known here ({known})")
    found.require_package()
    return found
