"""Make the model that atomslim-mini-smooth starts from: the first four blocks of atomslim-mini, on smooth graphs.

Forces become gradients of the energy, whose heads are kept; quadruplets are left out, and so is the mean per structure.
Nuclei that come close repel each other.

    python studies/mini-smooth/start.py start.safetensors
    python studies/mini-smooth/start.py start.safetensors mini-smooth    # to go on with the embedded model
"""

import sys

from atomslim import keep_blocks, load, save
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.models.block_model import BlockModel
from atomslim.models.retask import replace_tasks
from atomslim.models.tasks import Target, Task
from atomslim.train.start import with_tasks

GRAPH = JMPGraphSettings(cutoff=6.0, smooth=10, quad=0, symmetrise="invariant")
FORCES = Target(name="forces", kind="conservative_forces", unit="eV/Å")


REPULSION = 0.75
"""Share of the sum of covalent radii: below it atoms come in collisions only."""


def main(output: str, model: str = "mini") -> None:
    """Write the start."""
    start = _from_mini() if model == "mini" else load(model).float()
    start.config = start.config.model_copy(update={"repulsion": REPULSION})
    save(start, output)


def _from_mini() -> BlockModel:
    cut = keep_blocks(load("mini").float(), 4)
    energies = {
        task.name: next(target for target in task.targets if target.kind == "energy") for task in cut.tasks.values()
    }
    tasks = [Task(name=name, graph=GRAPH, targets=(energy, FORCES)) for name, energy in energies.items()]
    model = with_tasks(cut, tasks, reuse={name: name for name in energies})
    replace_tasks(
        model, [task.model_copy(update={"targets": tuple(map(_without_mean, task.targets))}) for task in tasks]
    )
    return model


def _without_mean(target: Target) -> Target:
    return target.model_copy(update={"mean": 0.0})


if __name__ == "__main__":
    main(*sys.argv[1:])
