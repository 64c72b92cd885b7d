"""Which datasets there are: one reader each."""

import pkgutil
from importlib import import_module
from types import ModuleType

from atomslim.data import readers

FILES = "ase_files"
"""Reader of any file of structures."""


def names() -> list[str]:
    """Names of the datasets, without importing their readers."""
    found = {module.name for module in pkgutil.iter_modules(readers.__path__) if not module.name.startswith("_")}
    return sorted(found - {FILES})


def reader_of(name: str) -> ModuleType:
    """Import the reader of a dataset."""
    return import_module(f"{readers.__name__}.{name}")
