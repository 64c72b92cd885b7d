"""Makes the two small sets that `study.yaml` tunes on.

    python studies/classification/make_data.py FRAMES FOLDER

FRAMES is a file of crystals with a `band_gap` in eV; FOLDER gets

- `metals.xyz`: those of at most 16 atoms, with the label `is_metal`: the gap is 0, as in MatBench's `mp_is_metal`;
- `molecules.csv`: 480 of the molecules that `atomslim data generate` knows, of 5 to 9 heavy atoms, as SMILES with two
  labels that RDKit computes from them and nobody measured: `lipophilic` (Crippen's log P above 1) and `polar`
  (topological polar surface above 30 Å²). A label of every seventh molecule is left blank.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors

from atomslim.data.generate.smiles import molecules

MOST_ATOMS = 16
MOLECULES = 480
LOG_P = 1.0
SURFACE = 30.0
"""Å²."""


def metals(frames: Path) -> list[Atoms]:
    """Return small crystals with the label alone."""
    found: list[Atoms] = read(frames, ":")  # type: ignore[assignment] # a list, as asked for
    kept = []
    for atoms in found:
        if len(atoms) <= MOST_ATOMS:
            bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
            bare.info["is_metal"] = bool(atoms.info["band_gap"] == 0)
            kept.append(bare)
    return kept


def rows() -> list[dict[str, str]]:
    """Return molecules with their labels."""
    known = [one for one in molecules() if 5 <= Chem.MolFromSmiles(one).GetNumAtoms() <= 9]
    chosen = np.random.default_rng(0).choice(known, MOLECULES, replace=False)
    made = []
    for number, smiles in enumerate(chosen.tolist()):
        molecule = Chem.MolFromSmiles(smiles)
        labels = [Crippen.MolLogP(molecule) > LOG_P, rdMolDescriptors.CalcTPSA(molecule) > SURFACE]
        written = [str(int(label)) for label in labels]
        if number % 7 == 0:
            written[number % 2] = ""
        made.append({"smiles": smiles, "lipophilic": written[0], "polar": written[1]})
    return made


def main() -> None:
    """Write both sets."""
    frames, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "metals.xyz", metals(frames), format="extxyz")
    with (folder / "molecules.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["smiles", "lipophilic", "polar"])
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    main()
