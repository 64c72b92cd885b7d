"""MatBench 0.1: the nine tasks that give a crystal's structure.

Source: https://matbench.materialsproject.org (MIT), by Dunn et al., npj Comput. Mater. 6, 138 (2020); each task has
sources, named there. The five folds follow from MatBench's own rule and do not concern this reader: it
gives the structures in the file's order, on which that rule depends.

In the file: pymatgen structures (Å) and one number each. `jdft2d` is in meV/atom and becomes eV/atom; all others stay
as they are: `mp_e_form` in eV/atom, `perovskites` in eV per cell, `mp_gap` in eV, `log_gvrh` and `log_kvrh` as log10 of
GPa, `phonons` in 1/cm, `dielectric` and `mp_is_metal` without unit. The target carries the task's name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._classes import class_label
from atomslim.data.readers._common import existing, number
from atomslim.data.readers._json_stream import read_object
from atomslim.data.readers._pymatgen import crystal
from atomslim.errors import ConfigError, DataError

COLUMNS = {
    "jdft2d": "exfoliation_en",
    "phonons": "last phdos peak",
    "dielectric": "n",
    "log_gvrh": "log10(G_VRH)",
    "log_kvrh": "log10(K_VRH)",
    "perovskites": "e_form",
    "mp_gap": "gap pbe",
    "mp_e_form": "e_form",
    "mp_is_metal": "is_metal",
}
"""The tasks and the names of their numbers in the file."""

UNITS = {
    "jdft2d": "eV/atom",
    "phonons": "1/cm",
    "dielectric": "1",
    "log_gvrh": "log10(GPa)",
    "log_kvrh": "log10(GPa)",
    "mp_e_form": "eV/atom",
    "mp_is_metal": "1",
}
"""Units of the targets that are not eV."""

_FACTORS = {"jdft2d": 1e-3}

_FILES: dict[str, tuple[int, str]] = {
    "jdft2d": (636, "26057dc4524e193e32abffb296ce819b58b6e11d1278cae329a2f97817a4eddf"),
    "phonons": (1265, "4db551f21ec5f577e6202725f10e34dfc509aa7df3a6bdaac497da7f6dbbb9b3"),
    "dielectric": (4764, "83befa09bc2ec2f4b6143afc413157827a90e5e2e42c1eb507ccfa01bf26a1d6"),
    "log_gvrh": (10_987, "098af941f4c663270f1fe21abf20ffad6fb85ecbfcba5786ceac03983ac29da7"),
    "log_kvrh": (10_987, "44b113ddb7e23aa18731a62c74afa7e5aa654199e0db5f951c8248a00955c9cd"),
    "perovskites": (18_928, "4641e2417f8ec8b50096d2230864468dfa08278dc9d257c327f65d0305278483"),
    "mp_gap": (106_113, "58b65746bd88329986ed66031a2ac1369c7c522f7bc9f9081528e07097c2c057"),
    "mp_e_form": (132_752, "dedcb1d4ba2e3e50dbdd45ba5bc647a00e9c2bcf8f8bf556dc8e92caa39eb21f"),
    "mp_is_metal": (106_113, "9a028ed5750a4c76ca36e9f3c8d48fe0bf3fb21b76ec2289e58ae7048d527919"),
}


def _variant(task: str) -> Variant:
    count, sha256 = _FILES[task]
    name = f"matbench_{task}.json.gz"
    file = RemoteFile(url=f"https://ml.materialsproject.org/projects/{name}", name=name, sha256=sha256)
    return Variant(name=task, targets=(task,), count=count, files=(file,), path=name)


INFO = DatasetInfo(
    name="matbench",
    title="MatBench 0.1",
    homepage="https://matbench.materialsproject.org",
    licence="MIT (the benchmark; each task's source has its own)",
    citation="A. Dunn, Q. Wang, A. Ganose, D. Dopp, A. Jain, npj Comput. Mater. 6, 138 (2020)",
    level_of_theory="DFT, each task its own",
    units_in_file="Å, each task its own",
    note="jdft2d is converted from meV/atom to eV/atom. Predictions are means over atoms.",
    variants=tuple(_variant(task) for task in COLUMNS),
    units=UNITS,
    labels=("mp_is_metal",),
    cutoff=12.0,
    neighbours=30,
    periodic=True,
)


def read(path: Path, variant: str = "") -> Iterator[Sample]:
    """Give the structures of a task with its target, in the file's order, without holding more than one.

    Args:
        path: the task's `.json.gz` (or `.json`), or the folder that holds it.
        variant: the task, without `matbench_`; may be empty for a file with its original name.

    Raises:
        ConfigError: no such task.
        DataError: a file that is missing, cut off, damaged, empty or of another task or layout; a structure with
            partly occupied sites, or a number that is not finite.

    """
    file, task = _file(path, variant)
    index = -1
    for index, (before, row) in enumerate(read_object(file, "data")):
        location = f"{file}, record {index}"
        structure, value = _pair(before.get("columns"), row, task, location)
        yield crystal(structure, _targets(value, task, location), location)
    if index < 0:
        raise DataError(f"{file}: the file holds no structures: check that it was written completely")


def _targets(value: Any, task: str, location: str) -> dict[str, float]:
    """Give a row's target; a label of no and yes may be missing."""
    if INFO.is_label(task):
        label = class_label(value, COLUMNS[task], location)
        return {} if label is None else {task: label}
    return {task: number(value, COLUMNS[task], location) * _FACTORS.get(task, 1.0)}


def _file(path: Path, variant: str) -> tuple[Path, str]:
    """Find the file and the task."""
    wanted = variant.lower().removeprefix("matbench_")
    if wanted and wanted not in COLUMNS:
        raise ConfigError(f"MatBench has no task {variant!r} with structures: choose one of {', '.join(COLUMNS)}")
    if existing(path).is_file():
        named = path.name.split(".")[0].removeprefix("matbench_")
        if not wanted and named not in COLUMNS:
            raise DataError(f"{path}: the name does not say which task it is: choose one of {', '.join(COLUMNS)}")
        return path, wanted or named
    if not wanted:
        raise ConfigError(f"{path}: name the task: one of {', '.join(COLUMNS)}")
    names = [path / f"matbench_{wanted}{suffix}" for suffix in (".json.gz", ".json")]
    return existing(next((name for name in names if name.is_file()), names[0])), wanted


def _pair(columns: Any, row: Any, task: str, location: str) -> tuple[Any, Any]:
    """Give the structure and the number of a row."""
    names = list(columns) if isinstance(columns, list) else []
    if "structure" not in names or COLUMNS[task] not in names:
        raise DataError(
            f"{location}: the columns are {', '.join(map(str, names)) or 'not named'}, and structure and "
            f"{COLUMNS[task]} are expected: check that it is the file of {task}"
        )
    if not isinstance(row, list) or len(row) != len(names):
        raise DataError(f"{location}: the row does not have {len(names)} columns: download the file again")
    return row[names.index("structure")], row[names.index(COLUMNS[task])]
