"""A generated data set from physics: structures of several domains, labelled by extended tight binding (xTB).

| domain | what | level of theory |
|---|---|---|
| molecules | H, C, N, O molecules off equilibrium: thermal displacements along normal modes, and noise | GFN2-xTB |
| reactions | paths: bonds that break, hydrogen that moves, conformers that turn into each other | GFN2-xTB |
| adsorbates | small molecules and fragments on slabs of metals, in short relaxations | GFN1-xTB, Γ only |
| oxides | oxides, halides and other insulators and their surfaces, strained and rattled | GFN1-xTB, Γ only |
| dynamics | molecular dynamics of paracetamol at 500 K, to fine-tune on | GFN2-xTB |

A fraction of each may be extremes: isolated atoms, pairs at short distance, squeezed structures and strained cells.

Nothing here is needed to train on other data; the packages of the `labels` extra are imported when they are used.
"""

from atomslim.data.generate.domains import DOMAINS, FOUR, shares
from atomslim.data.generate.run import Generated, generate

__all__ = ["DOMAINS", "FOUR", "Generated", "generate", "shares"]
