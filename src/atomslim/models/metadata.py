"""What a model says of itself in a file, beside its tensors."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch
from pydantic import BaseModel, ConfigDict

from atomslim import __version__
from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.model import JMP
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import Task

ARCHITECTURE = "jmp"
"""The only one so far."""

FORMAT_VERSION = 1
"""Raised by one whenever older files need a step of `UPGRADES` to be read."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Version → what turns its metadata into that of the next version."""

UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}


class Metadata(BaseModel):
    """Everything besides tensors that a model consists of, and where it comes from."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    architecture: str
    config: GemNetOCConfig
    tasks: tuple[Task, ...]
    block_ids: tuple[int, ...]
    history: list[dict[str, Any]]
    units: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def of(cls, model: BlockModel) -> "Metadata":
        """Return what there is to say of a model; raises ConfigError for an architecture without a file format."""
        if not isinstance(model, JMP):
            raise ConfigError(f"models of the class {type(model).__name__} cannot be saved: only JMP models can")
        return cls(
            format_version=FORMAT_VERSION,
            architecture=ARCHITECTURE,
            config=model.config,
            tasks=tuple(model.tasks.values()),
            block_ids=model.block_ids,
            history=model.history,
            units=UNITS,
            versions=versions(),
        )

    @classmethod
    def parse(cls, text: object, where: str) -> "Metadata":
        """Understand what a file says; raises CheckpointError, with the file's name ``where``, if it cannot be."""
        if not isinstance(text, str):
            raise CheckpointError(f"{where}: what it says of its model is no text; copy it again")
        try:
            content: Any = json.loads(text)
            version = content["format_version"]
            if version > FORMAT_VERSION:
                raise CheckpointError(_too_new(content, where))
            for step in range(version, FORMAT_VERSION):
                content = UPGRADES[step](content)
            return cls.model_validate(content)
        except (ValueError, LookupError, TypeError) as error:
            problem = first_problem(error)
            raise CheckpointError(f"{where}: what it says of its model is damaged: {problem}; copy it again") from error


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the programs that a file's numbers depend on."""
    return {"atomslim": __version__, "torch": torch.__version__}


def first_problem(error: Exception) -> str:
    """Return the first of a validation's complaints in one line."""
    if not isinstance(error, pydantic.ValidationError):
        return " ".join(str(error).split())
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _too_new(content: Mapping[str, Any], where: str) -> str:
    found = content.get("versions")
    writer = found.get("atomslim", "?") if isinstance(found, Mapping) else "?"
    return (
        f"{where}: written in format version {content['format_version']} by atomslim {writer}, but atomslim "
        f"{__version__} reads versions up to {FORMAT_VERSION}; upgrade atomslim"
    )
