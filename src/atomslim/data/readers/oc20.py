"""Open Catalyst 2020 (OC20), structure to energy and forces: relaxation frames of adsorbates on surfaces.

Source: https://fair-chem.github.io/core/datasets/oc20.html. Licence: CC BY 4.0. Units in the files: eV, Å, eV/Å;
nothing is converted. Every system is periodic in all directions. Read are

- LMDB shards of pickled graph objects, of the old and the new layout (a folder of `*.lmdb`);
- the raw release: `N.extxyz.xz` beside `N.txt.xz`, whose lines are `system,frame,reference energy`;
- ASE trajectories (`*.traj`), whose tags are all zero, which means none.

Forces are those of the calculation: ASE would set them to zero on fixed atoms. The energy is `energy`, not the free
energy.
"""

import lzma
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal
from warnings import warn

import ase.io
import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory
from numpy.typing import NDArray

from atomslim.atoms.frames import taken
from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._common import converted, damaged, existing, labelled, locate, natural, number
from atomslim.data.readers._graphs import GraphShards, graph_sample, system
from atomslim.data.unpickle import load, plain_dictionary
from atomslim.errors import AtomslimWarning, ConfigError, DataError, one_line
from atomslim.files import most_expanded

Energies = Literal["total", "referenced"]

_FOLDER = "https://dl.fbaipublicfiles.com/opencatalystproject/data/"
_SPLITS = {
    "200k": ("s2ef_train_200K.tar", "f8d0909c2623a393148435dede7d3a46", 200_000),
    "2M": ("s2ef_train_2M.tar", "953474cb93f0b08cdc523399f03f7c36", 2_000_000),
    "20M": ("s2ef_train_20M.tar", "863bc983245ffc0285305a1850e19cf7", 20_000_000),
    "all": ("s2ef_train_all.tar", "12a7087bfd189a06ccbec9bc7add2bcd", 133_934_018),
    "val_id": ("s2ef_val_id.tar", "f57f7f5c1302637940f2cc858e789410", 999_866),
    "val_ood_ads": ("s2ef_val_ood_ads.tar", "431ab0d7557a4639605ba8b67793f053", 999_838),
    "val_ood_cat": ("s2ef_val_ood_cat.tar", "532d6cd1fe541a0ddb0aa0f99962b7db", 999_809),
    "val_ood_both": ("s2ef_val_ood_both.tar", "5731862978d80502bbf7017d68c2c729", 999_944),
}

INFO = DatasetInfo(
    name="oc20",
    title="Open Catalyst 2020, structure to energy and forces",
    homepage="https://fair-chem.github.io/core/datasets/oc20.html",
    licence="CC BY 4.0",
    citation="Chanussot, Das, Goyal, Lavril et al., ACS Catalysis 11, 6059 (2021), doi:10.1021/acscatal.0c04525",
    level_of_theory="RPBE, plane waves (VASP), no spin polarisation",
    units_in_file="eV, Å, eV/Å",
    note=(
        "LMDB files hold total energies or energies minus a reference, and do not say which: options `stored`, "
        "`energies` and `reference` (oc20_ref.pkl). Metrics are computed on free atoms (fixed = 0)."
    ),
    variants=(
        *(
            Variant(
                name=name,
                targets=("energy", "forces"),
                count=count,
                files=(RemoteFile(url=_FOLDER + archive, md5=md5, unpack=True),),
                path=archive.removesuffix(".tar"),
            )
            for name, (archive, md5, count) in _SPLITS.items()
        ),
        Variant(name="train", targets=("energy", "forces")),
    ),
    periodic=True,
)

REFERENCE = RemoteFile(url=f"{_FOLDER}oc22/oc20_ref.pkl", md5="043e1e0b0cce64c62f01a8563dbc3178")
"""System ("random<sid>") to reference energy (eV): what turns referenced energies into totals."""

SUFFIXES = (".lmdb", ".extxyz", ".extxyz.xz", ".traj")
_SPLIT_NAMES = tuple(variant.name for variant in INFO.variants)

SMALL_TOTAL = 0.15
"""eV per atom: total energies of metal slabs are larger, energies minus that of the clean slab smaller."""


@dataclass(frozen=True)
class _EnergyRule:
    """What is added to the energy of a file: nothing, or plus or minus its system's reference (eV)."""

    wanted: Energies
    stored: Energies
    references: Mapping[str, float] | None = None
    sign: int = field(init=False)

    def __post_init__(self) -> None:
        sign = 0 if self.wanted == self.stored else (1 if self.wanted == "total" else -1)
        object.__setattr__(self, "sign", sign)

    def shift(self, group: str, location: str) -> float:
        if not self.sign:
            return 0.0
        if self.references is None or group not in self.references:
            name = group or "this record, which names no system"
            raise DataError(f"{location}: no reference energy for {name}: check that oc20_ref.pkl is the right file")
        return self.sign * self.references[group]


def read(
    path: Path,
    variant: str = "",
    *,
    energies: Energies = "total",
    stored: Energies | None = None,
    reference: Path | None = None,
) -> Iterator[Sample]:
    """Read frames: targets "energy" (eV) and "forces" (eV/Å); the group is the system, "random<sid>".

    Parameters
    ----------
    path
        A file, or a folder of LMDB shards, raw files or trajectories, or the folder above with subfolders by split.
    variant
        The split: name of a subfolder.
    energies
        What is wanted: total energies, or totals minus each system's reference (clean slab plus adsorbate).
    stored
        What LMDB files hold, which they do not say themselves; by default what is wanted. Raw files and trajectories
        hold total energies.
    reference
        `oc20_ref.pkl`, needed where wanted and stored differ; raw files bring their references along.

    Raises
    ------
    DataError
        A file is missing, cut off, damaged or of another layout; names file and record.
    ConfigError
        A reference file is needed and not given.

    """
    files = parts(path, variant)
    shards = files[0].suffix == ".lmdb"
    references = None if reference is None else _references(reference)
    rule = _EnergyRule(energies, (stored or energies) if shards else "total", references)
    raw = not shards and files[0].suffix != ".traj"
    if rule.sign and references is None and not raw:
        raise ConfigError(f"{path}: turning {rule.stored} into {energies} energies needs `reference`: {REFERENCE.url}")
    if shards:
        return _read_shards(GraphShards(files), rule, known=stored is not None)
    return (sample for file in files for sample in _read_file(file, rule))


def parts(path: Path, variant: str = "") -> list[Path]:
    """Return the files, each readable by itself: LMDB shards in the order of names, others of numbers in the names."""
    files = locate(path, variant, SUFFIXES, _SPLIT_NAMES)
    shards = [file for file in files if file.suffix == ".lmdb"]
    return shards or sorted(files, key=natural)


def count(path: Path, variant: str = "") -> int:
    """Count the frames without reading them (raw files: the lines of their text files)."""
    files = parts(path, variant)
    if files[0].suffix == ".lmdb":
        return len(GraphShards(files))
    return sum(_count_trajectory(file) if file.suffix == ".traj" else len(_systems(file)) for file in files)


def natoms(path: Path, variant: str = "") -> NDArray[np.int64] | None:
    """Return the number of atoms of every frame where `metadata.npz` beside LMDB shards tells, else None."""
    files = parts(path, variant)
    return GraphShards(files).natoms() if files[0].suffix == ".lmdb" else None


def _references(path: Path) -> dict[str, float]:
    content = plain_dictionary(load(existing(path)), str(path))
    return {str(key): number(value, f"the reference of {key}", str(path)) for key, value in content.items()}


def _read_shards(shards: GraphShards, rule: _EnergyRule, *, known: bool) -> Iterator[Sample]:
    if not len(shards):
        raise DataError(f"{shards.files[0].path}: is empty: remove the file")
    if not known and rule.wanted == "total":
        _warn_if_referenced(shards)
    for record in range(len(shards)):
        location, fields = shards[record]
        number_ = system(fields, location)
        group = number_ if not number_ or number_.startswith("random") else f"random{number_}"
        yield graph_sample(fields, location, group=group, shift=rule.shift(group, location))


def _warn_if_referenced(shards: GraphShards) -> None:
    """Look at a few records: energies near zero are hardly totals."""
    samples = [graph_sample(shards[k][1], shards[k][0]) for k in range(0, len(shards), max(1, len(shards) // 16))]
    per_atom = float(np.median([abs(sample.targets["energy"]) / len(sample) for sample in samples]))
    if per_atom < SMALL_TOTAL:
        warn(
            f"{shards.files[0].path}: {per_atom:.3f} eV per atom is little for total energies: if a reference has been "
            "removed, say stored='referenced' and give oc20_ref.pkl; if not, say stored='total'",
            AtomslimWarning,
            stacklevel=3,
        )


def _read_file(path: Path, rule: _EnergyRule) -> Iterator[Sample]:
    return _read_trajectory(path, rule) if path.suffix == ".traj" else _read_raw(path, rule)


def _read_raw(path: Path, rule: _EnergyRule) -> Iterator[Sample]:
    """Read a file of extended XYZ together with the text file beside it."""
    systems = _systems(path)
    for record, (system_line, text) in enumerate(zip_longest(systems, _frames(path))):
        location = f"{path}, record {record}"
        if system_line is None or text is None:
            raise DataError(f"{location}: only in one of the frames and {_text_file(path).name}: get both files again")
        group, reference = system_line
        references = rule.references or {group: reference}
        shift = _EnergyRule(rule.wanted, rule.stored, references).shift(group, location)
        yield _ase_sample(_parsed(text, location), location, group, shift)


def _read_trajectory(path: Path, rule: _EnergyRule) -> Iterator[Sample]:
    with _trajectory(path) as trajectory:
        if not len(trajectory):
            raise DataError(f"{path}: is empty: remove the file")
        for record in range(len(trajectory)):
            location = f"{path}, record {record}"
            with damaged(location, Exception):
                atoms = trajectory[record]
            yield _ase_sample(atoms, location, path.stem, rule.shift(path.stem, location))


def _count_trajectory(path: Path) -> int:
    with _trajectory(path) as trajectory:
        return len(trajectory)


def _ase_sample(atoms: Atoms, location: str, group: str, shift: float) -> Sample:
    """Take the labels from the calculator's results, where no constraint has touched them."""
    results = atoms.calc.results if atoms.calc is not None else {}
    if not {"energy", "forces"} <= results.keys():
        raise DataError(f"{location}: has no energy or no forces: check the file")
    batch = converted(atoms, location)
    return labelled(
        location,
        atoms.numbers,
        atoms.positions,
        {"energy": number(results["energy"], "energy", location) + shift, "forces": results["forces"]},
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        tags=batch.tags.numpy(),
        fixed=batch.fixed.numpy(),
        group=group,
    )


def _trajectory(path: Path) -> Any:
    with damaged(str(existing(path)), Exception):
        return Trajectory(path)


def _text_file(path: Path) -> Path:
    """Return the path of the text file of a file of frames, compressed or not."""
    base = path.name.removesuffix(".xz").removesuffix(".extxyz")
    candidates = [path.with_name(f"{base}.txt.xz"), path.with_name(f"{base}.txt")]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0])


def _systems(path: Path) -> list[tuple[str, float]]:
    """Read system and reference energy (eV) of every frame."""
    text_file = existing(_text_file(path))
    with damaged(str(text_file), EOFError, lzma.LZMAError, OSError, UnicodeDecodeError), _open_text(text_file) as file:
        text = file.read(most_expanded(text_file.stat().st_size))
        lines = text.splitlines()
    systems = []
    for line_number, line in enumerate(lines):
        name, *rest = line.split(",")
        if len(rest) != 2:
            raise DataError(f"{text_file}, line {line_number}: is not 'system,frame,reference': get the file again")
        systems.append((name.strip(), number(rest[1], "the reference energy", f"{text_file}, line {line_number}")))
    return systems


def _open_text(path: Path) -> IO[str]:
    return lzma.open(path, "rt") if path.suffix == ".xz" else path.open()


def _frames(path: Path) -> Iterator[str]:
    """Give the text of one frame after the other: a line with the number of atoms, a comment, one line for each."""
    with damaged(str(path), EOFError, lzma.LZMAError, OSError, ValueError), _open_text(path) as file:
        for record, line in enumerate(file):
            if not re.fullmatch(r"\s*\d{1,9}\s*", line, re.ASCII):
                raise DataError(
                    f"{path}, record {record}: {line.strip()[:40]!r} is not a number of atoms: check the file"
                )
            lines = [line, *taken(file, int(line) + 1, most_expanded(path.stat().st_size))]
            if len(lines) < int(line) + 2:
                raise DataError(f"{path}, record {record}: cut off: get the file again")
            yield "".join(lines)


def _parsed(text: str, location: str) -> Atoms:
    try:
        atoms = ase.io.read(StringIO(text), format="extxyz")
    # ASE raises anything on a line that it does not understand
    except Exception as error:
        raise DataError(f"{location}: is not extended XYZ ({one_line(error)}): get the file again") from error
    assert isinstance(atoms, Atoms)  # noqa: S101 -- one frame in, one out
    return atoms
