"""Models of families that atomslim cannot prune: recognised by name or content, with what works instead.

They can still be teachers: anything with an ASE calculator labels structures, from which another model learns.
The calculators are each package's own, as documented; nothing of them is imported here.
"""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOOKED_AT = 1 << 20
"""Bytes of a file, or of a member of an archive, that are searched for the names of packages."""


CALCULATOR = "ase:"
"""Prefix of import paths of calculators."""

FUNCTION = "ase:MODULE:FUNCTION"
"""Where a calculator needs more than a name: a function of the user's that returns it."""


@dataclass(frozen=True)
class Elsewhere:
    """A family that has a calculator, and no adapter here."""

    title: str
    names: str
    """Names of its models and files, as a regular expression in lower case."""
    modules: tuple[bytes, ...]
    """That its files name."""
    teacher: str
    """Its calculator by import path; {name} is the model or file."""


FAMILIES = (
    Elsewhere(
        "UMA, eSEN and EquiformerV2 (fairchem)",
        r"\buma\b|\besen\b|\beqv2|equiformer|fairchem|escn",
        (b"fairchem", b"ocpmodels"),
        "ase:fairchem.core:FAIRChemCalculator.from_model_checkpoint?name_or_path={name}&task_name=omat",
    ),
    Elsewhere(
        "NequIP and Allegro",
        r"nequip|allegro",
        (b"nequip", b"allegro"),
        "ase:nequip.integrations.ase:NequIPCalculator.from_compiled_model?compile_path={name}",
    ),
    Elsewhere(
        "MatterSim", r"mattersim", (b"mattersim",), "ase:mattersim.forcefield:MatterSimCalculator?load_path={name}"
    ),
    Elsewhere("AIMNet2", r"aimnet", (b"aimnet",), "ase:aimnet.calculators:AIMNet2ASE?base_calc={name}"),
    Elsewhere(
        "PET-MAD and other metatomic models",
        r"\bpet-?mad\b|\bpet-oam|metatomic|metatrain",
        (b"metatomic", b"metatensor", b"metatrain"),
        "ase:metatomic.torch.ase_calculator:MetatomicCalculator?model={name}",
    ),
    Elsewhere(
        "GRACE", r"\bgrace-[12fl]", (b"tensorpotential",), "ase:tensorpotential.calculator:grace_fm?model={name}"
    ),
    Elsewhere("DeePMD and DPA", r"deepmd|\bdpa-?\d", (b"deepmd",), "ase:deepmd.calculator:DP?model={name}"),
    Elsewhere(
        "M3GNet, TensorNet and others of matgl",
        r"m3gnet|matgl|tensornet",
        (b"matgl",),
        FUNCTION,
    ),
    Elsewhere(
        "SchNet and PaiNN (schnetpack)",
        r"schnet|painn",
        (b"schnetpack",),
        FUNCTION,
    ),
    Elsewhere(
        "ANI (torchani)",
        r"torchani|\bani-?[12]x\b",
        (b"torchani",),
        FUNCTION,
    ),
)


def elsewhere(path: Path) -> Elsewhere | None:
    """Return the family that a file belongs to by what is in it, or by its name; None if unknown."""
    content = b"\0".join(_heads(path)) if path.is_file() else b""
    by_content = (one for one in FAMILIES if any(_names(content, module) for module in one.modules))
    name = re.sub(r"[_.]", "-", path.name.lower())
    by_name = (one for one in FAMILIES if re.search(one.names, name))
    return next(by_content, None) or next(by_name, None)


def advice(path: Path, found: Elsewhere) -> str:
    """Say in one line what such a model is, and what works with it."""
    teacher = found.teacher.format(name=path)
    function = " (a function of yours that returns its ASE calculator)" if found.teacher == FUNCTION else ""
    return (
        f"{path}: looks like a model of {found.title}, which cannot be pruned here; it can be a teacher{function}: "
        f"atomslim label STRUCTURES --teacher '{teacher}' -o labelled/, then atomslim finetune MODEL labelled/"
    )


def _names(content: bytes, module: bytes) -> bool:
    """Say whether a module is named in a file; before it may stand any opcode or length of a pickle."""
    return re.search(module + rb"(?![A-Za-z0-9])", content) is not None


def _heads(path: Path) -> Iterator[bytes]:
    """Give what a file's beginning, or the pickles of an archive and the names in it, say."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield "\n".join(archive.namelist()[:10_000]).encode()
            for name in archive.namelist():
                if name.endswith((".pkl", ".json", ".yaml")):
                    with archive.open(name) as member:
                        yield member.read(LOOKED_AT)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        with path.open("rb") as file:
            yield file.read(LOOKED_AT)
