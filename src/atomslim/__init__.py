"""Make atomistic foundation models smaller and faster, and show what that costs.

    model = atomslim.load("jmp-l.pt")
    small = atomslim.keep_blocks(model, 4)
    calculator = atomslim.Calculator(small)

Every public name is imported on first use, so that `import atomslim` stays quick and does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomslim.atoms import AtomsBatch, from_ase, to_ase
    from atomslim.compress.prune import keep_blocks
    from atomslim.compress.relevance import block_relevance
    from atomslim.measure.compare import compare
    from atomslim.measure.evaluate import evaluate
    from atomslim.models.checkpoint import export_jmp, load, save
    from atomslim.models.gemnet_oc import GraphSettings
    from atomslim.models.jmp import JMP
    from atomslim.train.distill import distill
    from atomslim.train.finetune import finetune
    from atomslim.train.pretrain import pretrain
    from atomslim.use.calculator import Calculator
    from atomslim.use.package import package
    from atomslim.use.packaged import PackagedCalculator

__version__ = version("atomslim")

__all__ = [
    "JMP",
    "AtomsBatch",
    "Calculator",
    "GraphSettings",
    "PackagedCalculator",
    "__version__",
    "block_relevance",
    "compare",
    "distill",
    "evaluate",
    "export_jmp",
    "finetune",
    "from_ase",
    "keep_blocks",
    "load",
    "package",
    "pretrain",
    "save",
    "to_ase",
]

# public name -> the module that defines it (the imports above say the same to type checkers; a test compares the two)
_HOMES = {
    "AtomsBatch": "atomslim.atoms",
    "Calculator": "atomslim.use.calculator",
    "GraphSettings": "atomslim.models.gemnet_oc",
    "JMP": "atomslim.models.jmp",
    "PackagedCalculator": "atomslim.use.packaged",
    "block_relevance": "atomslim.compress.relevance",
    "compare": "atomslim.measure.compare",
    "distill": "atomslim.train.distill",
    "evaluate": "atomslim.measure.evaluate",
    "export_jmp": "atomslim.models.checkpoint",
    "finetune": "atomslim.train.finetune",
    "from_ase": "atomslim.atoms",
    "keep_blocks": "atomslim.compress.prune",
    "load": "atomslim.models.checkpoint",
    "package": "atomslim.use.package",
    "pretrain": "atomslim.train.pretrain",
    "save": "atomslim.models.checkpoint",
    "to_ase": "atomslim.atoms",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562) and keep it for the next time."""
    if name not in _HOMES:
        raise AttributeError(f"module 'atomslim' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, imported already or not."""
    return sorted({*globals(), *__all__})
