"""The molecules: some named ones, and every scaffold with every substituent, up to nine heavy atoms of C, N and O."""

from collections.abc import Iterator
from functools import cache

from atomslim.data.generate.labels import labels_package

HEAVY_ATOMS = 9
"""Most atoms other than hydrogen."""

NAMED = """
[H][H] C N O CC C=C C#C C#N C=O CO CN OO NN NO C=N N=N O=C=O N#N [C-]#[O+] C=C=O C=C=C N=C=O O=CO NC=O N#CC#N N#CC=O
O=CC=O NC(=O)N OC(=O)O CN=O C[N+](=O)[O-] CON CC(=O)OO C1CC2CCC1C2 C12C3C4C1C5C2C3C45 C1CC2CC12 C1=CC=CC=CC=C1
NCC(=O)O CC(N)C(=O)O NC(CO)C(=O)O CC(O)C(=O)O OCC(O)CO OCC(O)C=O O=C(O)C(=O)O NCC(=O)N CC(=O)NC
O=c1cc[nH]c(=O)[nH]1 Nc1cc[nH]c(=O)n1 Cc1c[nH]c(=O)[nH]c1=O c1ncc2[nH]cnc2n1 c1ccc2[nH]ccc2c1 c1ccc2occc2c1
O=C1C=CC(=O)C=C1 O=C1CCC(=O)N1 O=C1C=CC(=O)O1 O=C1CCCO1 O=C1CCCN1 O=C1OCCO1 c1cn[nH]c1 c1nnc[nH]1 c1nc[nH]n1 C1OCOCO1
c1ncncn1 c1cnnnc1 c1conc1 C1N2CC1C2 C1CN2CCC1C2 CC(C)(C)C CC(C)(C)O CN(C)C COC=O CC(=O)OC COCOC NCCN OCCO NCCO
""".split()  # noqa: SIM905 -- a list of strings would be ten times as long
"""Molecules by name, so to speak."""

SCAFFOLDS = """
C CC CCC CC(C) C=C CC=C C=CC=C C#C CC#C N#CC O=C CC(=O) CCC(=O) COC CNC CN(C)C OCC NCC OCCC COCC O=CC OC(=O)C NC(=O)C
C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1=CC1 C1CC=CC1 C1C=CCC1 O1CC1 N1CC1 O1CCC1 C1OCC1 N1CCC1 O1CCCC1 C1OCCC1 N1CCCC1 C1NCCC1
O1CCOCC1 N1CCOCC1 c1ccccc1 n1ccccc1 c1ncccc1 c1cnccc1 n1cnccc1 n1cccnc1 o1cccc1 c1occc1 [nH]1cccc1 c1[nH]ccc1 n1cc[nH]c1
[nH]1ccnc1 o1ccnc1 n1ccoc1 [nH]1nccc1 C1CC2CC12 C1C2CC2C1
""".split()  # noqa: SIM905 -- a list of strings would be ten times as long
"""What comes first; its last atom binds the substituent."""

SUBSTITUENTS = """
C CC C(C)C CCC C=C C=CC C#C C#N C=O CO CN C(=O)O C(=O)N C(C)=O C(=O)OC CC#N CC=O O OC OCC OC=O OC=C
N NC N(C)C NC=O NCC N=C C=NO C1CC1 C1CO1 COC CNC CC=C
""".split()  # noqa: SIM905 -- a list of strings would be ten times as long
"""What comes last; its first atom is bound."""


@cache
def molecules() -> tuple[str, ...]:
    """All molecules as canonical SMILES, smallest first; about a thousand. Raises ConfigError without RDKit."""
    chemistry = labels_package("rdkit.Chem")
    found: dict[str, int] = {}
    for text in _candidates():
        molecule = chemistry.MolFromSmiles(text, sanitize=False)
        if chemistry.SanitizeMol(molecule, catchErrors=True) == 0 and molecule.GetNumHeavyAtoms() <= HEAVY_ATOMS:
            found[chemistry.MolToSmiles(molecule)] = molecule.GetNumHeavyAtoms()
    return tuple(sorted(found, key=lambda text: (found[text], text)))


def _candidates() -> Iterator[str]:
    yield from NAMED
    for scaffold in SCAFFOLDS:
        yield scaffold
        yield from (scaffold + substituent for substituent in SUBSTITUENTS)
