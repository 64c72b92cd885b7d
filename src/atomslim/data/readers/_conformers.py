"""Molecules from SMILES: hydrogen, one conformer by distance geometry, and its relaxation in a force field (RDKit)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomslim.errors import AtomslimError, ConfigError

MOST_STEPS = 1000
"""Of a relaxation."""

KEPT = 20_000
"""Conformers that a process keeps, since a dataset may be read twice."""

NO_RING = "no ring"
"""Scaffold of molecules without rings."""

NOT_READ = "SMILES that RDKit does not read"
NO_CONFORMER = "molecules without a conformer"
NOT_RELAXED = "relaxation of conformers that MMFF94 has no parameters for"
NOT_AT_REST = f"the end of relaxations longer than {MOST_STEPS} steps"


class LeftOutError(AtomslimError):
    """A molecule of which no structure can be made; the message is the reason, the same for all of a kind."""


@dataclass(frozen=True)
class Conformer:
    """One molecule with hydrogen: atomic numbers (n,), positions (n, 3) in Å."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    charge: int
    """The sum of formal charges."""
    scaffold: str
    """Bemis and Murcko's, as SMILES."""
    remark: str
    """What is to be said of it; empty if nothing."""


@lru_cache(maxsize=KEPT)
def conformer(smiles: str, seed: int) -> Conformer:
    """Embed a molecule by ETKDG (version 3) with a seed, and relax it by MMFF94: the same each time.

    Where distance geometry fails, it is tried once more from random positions. Raises LeftOutError where there is no
    structure, ConfigError without RDKit.
    """
    chemistry, geometry = _rdkit("Chem"), _rdkit("Chem.AllChem")
    with _silent():
        molecule = chemistry.MolFromSmiles(smiles)
        if molecule is None or not molecule.GetNumAtoms():
            raise LeftOutError(NOT_READ)
        whole = chemistry.AddHs(molecule)
        if _embedded(whole, geometry, seed) != 0:
            raise LeftOutError(NO_CONFORMER)
        remark = _relaxed(whole, geometry)
        return Conformer(
            np.array([atom.GetAtomicNum() for atom in whole.GetAtoms()], dtype=np.int64),
            np.array(whole.GetConformer().GetPositions(), dtype=np.float64),
            int(chemistry.GetFormalCharge(whole)),
            scaffold(molecule),
            remark,
        )


def scaffold(molecule: Any) -> str:
    """Return Bemis and Murcko's scaffold of a molecule of RDKit's: its rings and what links them, without chirality."""
    found: str = _rdkit("Chem.Scaffolds.MurckoScaffold").MurckoScaffoldSmiles(mol=molecule, includeChirality=False)
    return found or NO_RING


def _embedded(molecule: Any, geometry: Any, seed: int) -> int:
    options = geometry.ETKDGv3()
    options.randomSeed = seed
    if geometry.EmbedMolecule(molecule, options) == 0:
        return 0
    options.useRandomCoords = True
    return int(geometry.EmbedMolecule(molecule, options))


def _relaxed(molecule: Any, geometry: Any) -> str:
    """Relax a conformer in place, and return what is to be said of it."""
    if not geometry.MMFFHasAllMoleculeParams(molecule):
        return NOT_RELAXED
    return NOT_AT_REST if geometry.MMFFOptimizeMolecule(molecule, maxIters=MOST_STEPS) else ""


@contextmanager
def _silent() -> Iterator[None]:
    """Keep RDKit's own lines on stderr away: what it refuses is said by the reader."""
    block = _rdkit("rdBase").BlockLogs()
    try:
        yield
    finally:
        del block


def _rdkit(name: str) -> Any:
    try:
        return import_module(f"rdkit.{name}")
    except ImportError as error:
        raise ConfigError("molecules from SMILES need the package rdkit: pip install 'atomslim[molecules]'") from error
