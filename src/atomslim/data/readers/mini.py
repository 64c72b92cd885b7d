"""The sample that comes with the package: structures that atomslim-mini was validated and tested on, labelled by xTB.

Source: `atomslim data generate` (23 600 structures, seed 0), of which these are the groups that pre-training left out,
and `atomslim data generate --domains dynamics --structures 300`. Levels of theory: GFN2-xTB (molecules, reactions,
dynamics) and GFN1-xTB, Γ only (adsorbates, oxides); eV and eV/Å. See `atomslim.data.generate`.
"""

from collections.abc import Iterator
from pathlib import Path

import atomslim.data
from atomslim.atoms.sample import Sample
from atomslim.data.container import SUFFIX, Container
from atomslim.data.info import DatasetInfo, Variant

DOMAINS = ("molecules", "reactions", "adsorbates", "oxides", "dynamics")

FOLDER = Path(atomslim.data.__path__[0]) / "mini"


def _variant(name: str) -> Variant:
    return Variant(name=name, targets=("energy", "forces"), path=str(FOLDER / f"{name}{SUFFIX}"))


INFO = DatasetInfo(
    name="mini",
    title="Sample of xTB-labelled structures that comes with atomslim",
    homepage="https://github.com/tblite/tblite",
    licence="MIT",
    citation=(
        "C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019); "
        "S. Grimme, C. Bannwarth, P. Shushkov, J. Chem. Theory Comput. 13, 1989 (2017)"
    ),
    level_of_theory="GFN2-xTB (molecules, reactions, dynamics), GFN1-xTB (adsorbates, oxides)",
    units_in_file="eV, Å",
    note="included, no download is needed; `atomslim data generate` makes more of it",
    variants=tuple(_variant(name) for name in DOMAINS),
    cutoff=6.0,
    neighbours=8,
    periodic=True,
)


def read(path: Path, variant: str = "") -> Iterator[Sample]:
    """Read the structures of a domain, one after the other; raises DataError for a broken file."""
    del variant
    container = Container(path)
    return (container[number] for number in range(len(container)))
