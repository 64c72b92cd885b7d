"""What a step of distillation costs, against a plain training step of the student and one pass of the teacher.

    python benchmarks/distillation.py                 # a few minutes on one core
    python benchmarks/distillation.py --repeat 3 --structures 4 --only "3 tasks"

The teacher has the sizes of studies/small/aspirin.yaml but for smaller bases, 6 blocks with random weights; the student
is its first 4. A batch is rattled aspirin with 8 neighbours for each atom, its graphs made beforehand, as the loader
makes them for any step.

| time | of |
|---|---|
| a | a plain step of the student: loss on labels, gradients, optimiser |
| b | one prediction of the teacher for the batch, nothing kept |
| c | a step of distillation that asks the teacher |
| d | a step of distillation with the teacher's answers kept in a file |

Times are processor time, so that other work on the machine does not count. Kinds of steps take turns in every repeat,
and ratios are medians over repeats, so that a machine whose speed drifts changes little. Peak memory is what a step
adds, each kind in a process of its own, forked before anything was run.
"""

import gc
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
import yaml

from atomslim.atoms import Sample
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.structures import aspirin
from atomslim.compress.prune import keep_blocks
from atomslim.data.in_memory import Samples
from atomslim.data.loader import Batch
from atomslim.data.mixing import Mixture
from atomslim.families.jmp import JMP, GemNetOCConfig, JMPGraphSettings
from atomslim.memory import peak_memory
from atomslim.models import Task, energy_and_forces
from atomslim.models.losses import task_terms
from atomslim.train.dataloaders import training_feed
from atomslim.train.distill import Distillation, DistillOptions, own_scales, own_targets
from atomslim.train.optimisation import Labels, Objective
from atomslim.train.options import TaskOptions
from atomslim.train.tasks import LearningTask, prepare_task
from atomslim.train.teacher_cache import Answers, kept_answers

KINDS = "abcd"

STUDY = Path(__file__).resolve().parents[1] / "studies/small/aspirin.yaml"

BASES = {"num_spherical": 4, "num_radial": 32, "basis_cutoff": 6.0}

CASES: dict[str, tuple[Any, int]] = {
    "direct forces": ("direct", 1),
    "direct forces, a batch of one of 8 tasks": ("direct", 8),
    "conservative forces": ("conservative", 1),
    "conservative forces, a batch of one of 3 tasks": ("conservative", 3),
}
"""What the models predict: kind of forces, number of tasks."""


@dataclass(frozen=True)
class Case:
    """Teacher, student, a batch for them, and the teacher's kept answers to it."""

    teacher: JMP
    student: JMP
    batch: Batch
    answers: Answers

    def steps(self) -> dict[str, Callable[[], object]]:
        """Return the kinds of steps by name."""
        terms = [term for task in self.student.tasks.values() for term in task_terms(task)]
        asking, keeping = (
            Distillation(self.student, self.teacher, terms, DistillOptions(steps=1), answers)
            for answers in (None, self.answers)
        )
        steps = {name: self._step(kind) for name, kind in (("a", Labels(terms)), ("c", asking), ("d", keeping))}
        return {**steps, "b": self._prediction}

    def _prediction(self) -> object:
        return self.teacher.predict(self.batch.atoms, self.batch.tasks[0], self.batch.topology)

    def _step(self, objective: Objective) -> Callable[[], object]:
        optimiser = torch.optim.AdamW([*self.student.parameters(), *objective.learned.parameters()], lr=1e-6)

        def run() -> None:
            optimiser.zero_grad()
            objective.loss(self.student.train(), self.batch, torch.Tensor.detach).backward()
            optimiser.step()

        return run


def main(
    *,
    structures: Annotated[int, cyclopts.Parameter(help="aspirin molecules in a batch")] = 8,
    repeat: Annotated[int, cyclopts.Parameter(help="of which the median counts")] = 7,
    threads: Annotated[int, cyclopts.Parameter(help="of torch")] = 1,
    only: Annotated[str, cyclopts.Parameter(help="models whose name has this in it")] = "",
) -> None:
    """Measure and print tables in Markdown."""
    torch.set_num_threads(threads)
    # before anything is differentiated: threads that did so are missing after a fork
    names = [name for name in CASES if only in name]
    memory = {name: {kind: peak(name, structures, kind) for kind in KINDS} for name in names}
    print(f"{machine()}, float32, {structures} molecules in a batch\n")
    columns = [f"{kind} / ms" for kind in KINDS]
    print(row("model", *columns, "c / (1.5 a + b)", "c / a", "d / a") + "\n" + row(*["---"] * 8))
    for name in names:
        print(row(name, *times(case(name, structures), repeat)), flush=True)
    print("\n" + row("model", *(f"{kind} / MB" for kind in KINDS), "c / (a + b)") + "\n" + row(*["---"] * 6))
    for name, found in memory.items():
        cells = [f"{found[kind] / 1e6:.0f}" for kind in KINDS]
        print(row(name, *cells, f"{found['c'] / (found['a'] + found['b']):.2f}"))


def times(made: Case, repeat: int) -> Iterator[str]:
    """Give the cells of a row of times."""
    steps = made.steps()
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number, (kind, step) in itertools.product(range(repeat + 1), steps.items()):
        start = time.process_time()
        step()
        if number:  # the first is for warming up
            seconds[kind].append(time.process_time() - start)
    yield from (f"{1e3 * median(seconds[kind]):.0f}" for kind in KINDS)
    a, b, c, d = (np.array(seconds[kind]) for kind in KINDS)
    yield from (f"{np.median(ratio):.2f}" for ratio in (c / (1.5 * a + b), c / a, d / a))


def peak(name: str, structures: int, kind: str) -> int:
    """Return the bytes that a kind of step adds at its peak, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def measure() -> None:
        step = case(name, structures).steps()[kind]
        step()  # what is made once, such as the optimiser's averages, is not a part of a step
        gc.collect()
        sender.send(peak_memory(step, torch.device("cpu")) or 0)

    process = context.Process(target=measure)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"memory of {name}, {kind}: the process failed, see above")
    return int(receiver.recv())


def case(name: str, structures: int) -> Case:
    """Make models and a batch, the same each time."""
    forces, number = CASES[name]
    torch.manual_seed(0)
    sizes = yaml.safe_load(STUDY.read_text(encoding="utf-8"))["sizes"] | BASES
    graph = JMPGraphSettings.from_neighbours(6.0, 8)
    tasks = [energy_and_forces(f"task{index}", forces=forces, graph=graph) for index in range(number)]
    config = GemNetOCConfig.model_validate(sizes | {"direct_forces": forces == "direct"})
    teacher = JMP(config, tasks).eval()
    options = DistillOptions(steps=1, batch_size=structures)
    learned = learning(tasks[0], structures)
    with tempfile.TemporaryDirectory() as folder:
        answers = kept_answers(Path(folder) / "answers", teacher, [learned], options, options.weights)
    feed = training_feed(Mixture([learned.part("train")]), options, teacher.topology, rank=0, world_size=1)
    return Case(teacher, keep_blocks(teacher, 4), next(iter(feed)), answers)


def learning(task: Task, structures: int) -> LearningTask:
    """A task with as many training structures as a batch has."""
    data = Samples([molecule(seed) for seed in range(structures + 1)])
    split = {"train": structures, "validation": 1}
    options = TaskOptions.model_validate({"name": task.name, "targets": own_targets(task, {}), "split": split})
    return replace(prepare_task(data, options, normalisation=own_scales(task)), graph=task.graph)


def molecule(seed: int) -> Sample:
    """A rattled molecule with random labels."""
    atoms = aspirin()
    atoms.rattle(0.05, seed=seed)
    generator = np.random.default_rng(seed)
    targets = {"energy": generator.normal(), "forces": generator.normal(size=(len(atoms), 3))}
    return Sample.from_ase(atoms, targets)


def row(*cells: str) -> str:
    """Write a row of a table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    cyclopts.run(main)
