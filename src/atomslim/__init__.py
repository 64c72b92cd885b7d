"""Make atomistic foundation models smaller and faster, and show what that costs.

    model = atomslim.load("jmp-l.pt")
    small = atomslim.keep_blocks(model, 4)
    calculator = atomslim.Calculator(small)

Every public name is imported on first use, so that `import atomslim` stays quick and does not import torch.
"""

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomslim.atoms import AtomsBatch, Sample, from_ase, to_ase
    from atomslim.benchmarking.benchmark import benchmark
    from atomslim.compress.prune import keep_blocks
    from atomslim.compress.relevance import block_relevance
    from atomslim.compress.width import narrow
    from atomslim.data.dataset import open_dataset
    from atomslim.evaluation.compare import compare
    from atomslim.evaluation.evaluate import evaluate
    from atomslim.inference.calculator import Calculator
    from atomslim.inference.package import package
    from atomslim.inference.packaged import PackagedCalculator
    from atomslim.inference.predict import predict
    from atomslim.labelling.label import label
    from atomslim.labelling.pool import pool
    from atomslim.models.graph_settings import GraphSettings
    from atomslim.models.model_file import export, load, save
    from atomslim.models.tasks import Task
    from atomslim.slimming.slim import slim
    from atomslim.train.distill import distill
    from atomslim.train.finetune import finetune
    from atomslim.train.pretrain import pretrain
    from atomslim.validation.run import validate

__version__ = version("atomslim")

__all__ = [
    "AtomsBatch",
    "Calculator",
    "GraphSettings",
    "PackagedCalculator",
    "Sample",
    "Task",
    "__version__",
    "benchmark",
    "block_relevance",
    "compare",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "from_ase",
    "keep_blocks",
    "label",
    "load",
    "narrow",
    "open_dataset",
    "package",
    "pool",
    "predict",
    "pretrain",
    "save",
    "slim",
    "to_ase",
    "validate",
]

# public name -> the module that defines it (the imports above say the same to type checkers; a test compares the two)
_HOMES = {
    "AtomsBatch": "atomslim.atoms",
    "Calculator": "atomslim.inference.calculator",
    "GraphSettings": "atomslim.models.graph_settings",
    "PackagedCalculator": "atomslim.inference.packaged",
    "Sample": "atomslim.atoms",
    "Task": "atomslim.models.tasks",
    "benchmark": "atomslim.benchmarking.benchmark",
    "block_relevance": "atomslim.compress.relevance",
    "compare": "atomslim.evaluation.compare",
    "distill": "atomslim.train.distill",
    "evaluate": "atomslim.evaluation.evaluate",
    "export": "atomslim.models.model_file",
    "finetune": "atomslim.train.finetune",
    "from_ase": "atomslim.atoms",
    "keep_blocks": "atomslim.compress.prune",
    "label": "atomslim.labelling.label",
    "load": "atomslim.models.model_file",
    "narrow": "atomslim.compress.width",
    "open_dataset": "atomslim.data.dataset",
    "package": "atomslim.inference.package",
    "pool": "atomslim.labelling.pool",
    "predict": "atomslim.inference.predict",
    "pretrain": "atomslim.train.pretrain",
    "save": "atomslim.models.model_file",
    "slim": "atomslim.slimming.slim",
    "to_ase": "atomslim.atoms",
    "validate": "atomslim.validation.run",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562) and keep it for the next time."""
    if name not in _HOMES:
        near = ", ".join(get_close_matches(name, __all__, n=2, cutoff=0.5))
        raise AttributeError(
            f"module 'atomslim' has no attribute {name!r}" + (f": did you mean {near}?" if near else "")
        )
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, imported already or not."""
    return sorted({*globals(), *__all__})
