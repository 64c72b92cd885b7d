"""Calculators by name: an atomslim model, or any ASE calculator by its import path.

ase:ase.calculators.emt:EMT
ase:tblite.ase:TBLite?method=GFN2-xTB&verbosity=0
ase:mace.calculators:mace_mp?model=small&device=cpu
"""

import os
from typing import Any
from urllib.parse import parse_qsl

import yaml
from ase.calculators.calculator import Calculator as AseCalculator

from atomslim.errors import ConfigError, one_line
from atomslim.inference.calculator import Calculator
from atomslim.inference.calculator_process import build
from atomslim.inference.compiled import Compiling
from atomslim.inference.packaged import PackagedCalculator
from atomslim.models.block_model import BlockModel
from atomslim.models.elsewhere import CALCULATOR

Named = BlockModel | AseCalculator | str | os.PathLike[str]
"""Sources of energies."""


def calculator_of(
    source: Named,
    *,
    task: str | None = None,
    device: str | None = None,
    strict: bool = False,
    compiled: Compiling = "off",
) -> AseCalculator:
    """Return an ASE calculator of a model, a model file, a package, an import path, or a calculator itself.

    The options are for models. Only what is installed is imported. Arguments are YAML's
    numbers, texts and booleans. Raises ConfigError if the path leads to no calculator, and what
    `atomslim.Calculator` raises for a model.
    """
    if isinstance(source, AseCalculator):
        return source
    if isinstance(source, str) and source.startswith(CALCULATOR):
        return _imported(source)
    if not isinstance(source, BlockModel) and os.fspath(source).endswith(".pt2"):
        return PackagedCalculator(source, strict=strict)
    return Calculator(source, task=task, device=device, strict=strict, compiled=compiled)


def parsed(name: str) -> tuple[str, str, dict[str, Any]]:
    """Split an import path: module, attribute, arguments. Raises ConfigError if it is none."""
    path, _, query = name.removeprefix(CALCULATOR).partition("?")
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{name}: give module and class, as in ase:ase.calculators.emt:EMT")
    return module, attribute, _arguments(query, name)


def _imported(name: str) -> AseCalculator:
    try:
        return build(*parsed(name))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def _arguments(query: str, name: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError as error:
        raise ConfigError(f"{name}: write arguments as name=value&name=value") from error
    try:
        return {key: yaml.safe_load(value) for key, value in pairs}
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: an argument is not a number, text or boolean of YAML: {one_line(error)}") from error
