"""The packages of the `data` extra, imported when a file needs them."""

from importlib import import_module
from typing import Any

from atomslim.errors import ConfigError


def data_package(name: str) -> Any:
    """Import lmdb or h5py; raises ConfigError saying how to install it where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"reading this file needs the package {name}: pip install 'atomslim[data]'") from error
