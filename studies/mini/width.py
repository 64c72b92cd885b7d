r"""Depth, width and neighbours of atomslim-mini, or of a model of one task, at equal measured cost.

Force errors are measured before and after the same distillation.

    atomslim data generate -o generated/ --structures 23600 --processes 8
    python studies/mini/width.py generated/ -o runs/width --targets 1.3 2 4 --seeds 0 1 2 --budget 3min
    python studies/mini/width.py generated/ -o runs/width --targets 4 --axes depth all --budget 12min
    python studies/mini/width.py rmd17:aspirin@train.npz --model runs/mini-aspirin/best.safetensors \
        --test rmd17:aspirin@test.npz -o runs/width-aspirin --axes depth width neighbours combined --steps 200

Each axis has a ladder of cuts. For each target the mildest cut that is so many times as fast is taken, or the fastest
where none is: CPU time of one thread, graphs included, of MOF-5 and of MgO with 216 atoms, the geometric mean of both;
for another model that of the first structure of --test. `all` is what `atomslim prune --speedup --axes
blocks,widths,neighbours` chooses, `half` is half of both feature widths, `one` the first block with smaller widths, and
`combined` 48 atom channels, six neighbours and ever fewer blocks: what the search chose for 4 × has one. Errors are
those of forces on mini:TASK, on whose structures mini was not trained, or on --test.
What is finished is not done again: a killed study goes on, and may be made in pieces. The table is written anew after
each piece.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

import atomslim
from atomslim.atoms import from_ase
from atomslim.benchmarking.structures import mof5, oxide
from atomslim.compress.cheapest import Axis, cheapest
from atomslim.compress.cuts import Cut, Measured
from atomslim.evaluation.batches import spread_out
from atomslim.files import atomic_write
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.modes import parameter_count

TASKS = ("molecules", "reactions", "adsorbates", "oxides")
AXES = ("depth", "width", "neighbours", "all", "half", "one", "combined")
SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Of every width, inner ones included."""

ROUNDS = 4
"""Predictions of each structure of which the quickest counts; four times as many where there is only one."""

SHORT = 0.97
"""Share of a target at which it counts as reached: times are no better than that."""

TESTED, CALIBRATION = 240, 68
"""Structures of all tasks: errors, and fits and the search's differences."""

HEAD = """| target | axis | cut | weights | {speeds} | F before | F after | {tasks} | steps | seed |
|---|---|---|---|{bars}---|---|---|---|
"""


class Study:
    """Cuts, students and their errors in one folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.full = atomslim.load(given.model)
        self.tasks = TASKS if given.test is None else tuple(self.full.tasks)
        self.timed = "oxides" if given.test is None else self.tasks[0]
        self.data = {task: f"{given.data}/{task}.samples" if given.test is None else given.data for task in self.tasks}
        datasets = {task: atomslim.open_dataset(given.test or f"mini:{task}") for task in self.tasks}
        self.test = {task: spread_out(dataset, TESTED // len(datasets)) for task, dataset in datasets.items()}
        first = self.test[self.timed][0].to_ase()
        self.structures = {"MOF-5": mof5(), "MgO 216": oxide(216)} if given.test is None else {self.timed: first}
        self.calibration = CALIBRATION // len(self.tasks)

    def row(self, target: float, axis: str, seed: int) -> None:
        """Distil one cut from one seed, and write down how it went."""
        name = f"{axis}-{target:g}"
        rounds = self.given.rounds
        path = self.folder / f"{name}-seed{seed}{f'-rounds{rounds}' if rounds > 1 else ''}.json"
        if path.exists():
            return
        start = self.kept(f"{name}.json", lambda: self.cut(target, axis, self.folder / f"{name}.safetensors"))
        run = self.folder / path.stem
        student = atomslim.distill(
            self.folder / f"{name}.safetensors",
            self.given.model,
            output=run,
            resume=(run / "config.yaml").exists(),
            progress=False,
            tasks=[{"name": task, "data": data, **self.reading()} for task, data in self.data.items()],
            seed=seed,
            rounds=rounds,
            **({"steps": self.given.steps} if self.given.steps else {"budget": self.given.budget}),
            **(LEARNING | {"validate_every": self.given.validate_every}),
        )
        steps = json.loads((run / "summary.json").read_text(encoding="utf-8"))["steps"]
        self.kept(
            path.name, lambda: {**start, "seed": seed, "rounds": rounds, "after": self.errors(student), "steps": steps}
        )

    def reading(self) -> dict[str, Any]:
        """Return how training data are read."""
        by = "group" if self.given.test is None else "structure"
        split = {"train": 0.97, "validation": 0.03, "by": by}
        return {"split": split, "train_limit": self.given.structures, "validation_limit": self.given.validation}

    def cut(self, target: float, axis: str, path: Path) -> dict[str, Any]:
        """Cut the model for a target along one axis, save it, and measure it."""
        if axis == "all":
            small, kept = self.chosen(target)
        else:
            small, kept = self.mildest(target, LADDERS[axis](self.full))
        atomslim.save(small, path)
        speeds = self.speeds(small)
        facts = {"target": target, "axis": axis, "cut": kept, "parameters": parameter_count(small)}
        return {**facts, "speed": speeds, "before": self.errors(small)}

    def mildest(self, target: float, ladder: Iterator[Cut]) -> tuple[BlockModel, str]:
        """Return the first cut of a ladder that is fast enough, or the fastest."""
        best, most = Cut(self.full.block_ids), 0.0
        for cut in ladder:
            key = f"speed {words(cut)}.json"
            speed = self.kept(key, lambda cut=cut: mean(self.speeds(shaped(self.full, cut))))
            if speed > most:
                best, most = cut, speed
            if speed >= SHORT * target:
                break
        return self.made(best), words(best)

    def chosen(self, target: float) -> tuple[BlockModel, str]:
        """Return what the search among all axes chooses."""
        known = Measured.read(self.folder / "measured.json", {"model": self.given.model})
        axes: tuple[Axis, ...] = ("blocks", "widths", "neighbours")
        given: dict[str, Any] = {
            "limit": self.calibration,
            "measured_on": list(self.structures.values()),
            "known": known,
        }
        try:
            choice = cheapest(self.full, self.data, speed=target, axes=axes, **given)
        finally:
            known.write(self.folder / "measured.json")
        return self.made(choice.cut), words(choice.cut)

    def made(self, cut: Cut) -> BlockModel:
        """Return a cut as it would be distilled, its readout and its narrower layers fitted."""
        fitted = cut.blocks != self.full.block_ids
        realign = {"realign": "least-squares", "calibration": self.data} if fitted else {}
        return cut.of(self.full, self.data, limit=self.calibration, batch_size=4, **realign)

    def speeds(self, small: BlockModel) -> dict[str, float]:
        """Return how many times as fast a cut is, in turns with the full model."""
        found = {}
        for name, atoms in self.structures.items():
            models, rounds = (self.full, small), ROUNDS if len(self.structures) > 1 else 4 * ROUNDS
            times = [[seconds(one, atoms, self.timed) for one in models] for _ in range(rounds)]
            found[name] = min(one for one, _ in times) / min(one for _, one in times)
        return found

    def errors(self, model: BlockModel) -> dict[str, float]:
        """Return the mean absolute errors of forces by task, in meV/Å."""
        return {
            task: 1000 * atomslim.evaluate(model, samples, task=task).errors["forces"].mae
            for task, samples in self.test.items()
        }

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Read a file of JSON, or make and write it."""
        path = self.folder / name
        if not path.exists():
            made = make()
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def table(self) -> str:
        """Return all finished rows as Markdown, the full model first."""
        full = self.kept("full.json", lambda: self.errors(self.full))
        bars = "---|" * (len(self.tasks) + len(self.structures))
        text = HEAD.format(speeds=" | ".join(self.structures), tasks=" | ".join(self.tasks), bars=bars)
        cells, speeds = " | ".join(f"{value:.0f}" for value in full.values()), "| " * len(self.structures)
        text += f"| | none | | {parameter_count(self.full):,} {speeds}| {average(full):.0f} | | {cells} | | |\n"
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("*-seed*.json")]
        return text + "".join(line(row) for row in sorted(rows, key=lambda row: (row["target"], row["axis"])))


LEARNING: dict[str, Any] = {
    "batch_size": 16,
    "temperature": 4.0,
    "optimiser": {"learning_rate": 1e-3, "weight_decay": 0.01},
    "schedule": {"warmup": "2%", "cosine": "100%"},
    "ema": 0.98,
}


def depth(full: BlockModel) -> Iterator[Cut]:
    """Give cuts to fewer blocks, the first ones."""
    return (Cut(full.block_ids[:count]) for count in range(full.num_blocks - 1, -1, -1))


def width(full: BlockModel) -> Iterator[Cut]:
    """Give cuts of all widths by the same share."""
    there = family_of(full).widths(full)
    for share in SHARES:
        sizes = tuple((name, max(1, round(share * size))) for name, size in there.items())
        yield Cut(full.block_ids, widths=sizes)


def neighbours(full: BlockModel) -> Iterator[Cut]:
    """Give cuts to fewer neighbours."""
    most = max(task.graph.typical_neighbours or 0 for task in full.tasks.values())
    return (Cut(full.block_ids, neighbours=count) for count in range(most - 1, 0, -1))


def half(full: BlockModel) -> Iterator[Cut]:
    """Give half of both streams, at any target."""
    yield Cut(
        full.block_ids, widths=tuple((name, family_of(full).widths(full)[name] // 2) for name in ("atom", "edge"))
    )


def one(full: BlockModel) -> Iterator[Cut]:
    """Give cuts to the first block, of all widths by the same share."""
    return (replace(cut, blocks=full.block_ids[:1]) for cut in width(full))


def combined(full: BlockModel) -> Iterator[Cut]:
    """Give cuts to three tenths of the atom channels and three quarters of the neighbours, and to fewer blocks."""
    for count in range(full.num_blocks, -1, -1):
        yield Cut(full.block_ids[:count], widths=(("atom", 48),), neighbours=6)


LADDERS: dict[str, Callable[[BlockModel], Iterator[Cut]]] = {
    "depth": depth,
    "width": width,
    "neighbours": neighbours,
    "half": half,
    "one": one,
    "combined": combined,
}


def shaped(full: BlockModel, cut: Cut) -> BlockModel:
    """Return a model of a cut's sizes whose weights are not chosen with care: for its speed."""
    of, wanted = family_of(full), dict(cut.widths)
    layout = of.channels(full)
    kept = {stream: torch.arange(wanted[name]) for stream, name in layout.widths.items() if name in wanted}
    small = of.narrowed(full, kept) if kept else full
    return Cut(cut.blocks, neighbours=cut.neighbours).of(small)


def seconds(model: BlockModel, atoms: Atoms, task: str) -> float:
    """Time one prediction, its graphs included, by the processor."""
    batch = from_ase(atoms)
    start = time.process_time()
    model.predict(batch, task)
    return time.process_time() - start


def words(cut: Cut) -> str:
    """Say what a cut keeps."""
    sizes = ", ".join(f"{name} {size}" for name, size in cut.widths if name in ("atom", "edge"))
    inner = " and inner widths alike" if len(cut.widths) > 2 else ""
    parts = [f"blocks {' '.join(map(str, cut.blocks)) or 'none'}", sizes + inner]
    return ", ".join(filter(None, [*parts, f"{cut.neighbours} neighbours" if cut.neighbours else ""]))


def line(row: dict[str, Any]) -> str:
    """Write a row of the table."""
    after = " | ".join(f"{value:.0f}" for value in row["after"].values())
    speeds = " | ".join(f"{value:.2f} ×" for value in row["speed"].values())
    errors = f"{average(row['before']):.0f} | {average(row['after']):.0f}"
    numbers = f"{row['parameters']:,} | {speeds} | {errors} | {after} | {row['steps']} | {row['seed']}"
    rounds = f", {row['rounds']} rounds" if row.get("rounds", 1) > 1 else ""
    return f"| {row['target']:g} × | {row['axis']}{rounds} | {row['cut']} | {numbers} |\n"


def average(errors: dict[str, float]) -> float:
    """Return the mean over tasks."""
    return sum(errors.values()) / len(errors)


def mean(speeds: dict[str, float]) -> float:
    """Return the geometric mean."""
    return math.prod(speeds.values()) ** (1 / len(speeds))


def main() -> None:
    """Make the rows asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with TASK.samples, or, with --test, a dataset for the model's only task")
    parser.add_argument("--model", default="mini", help="its name or file")
    parser.add_argument("--test", help="a dataset for the model's only task; mini:TASK by default")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[1.3, 2, 4])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=AXES[:4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", default="3min", help="of each distillation, in wall clock")
    parser.add_argument("--steps", type=int, help="in place of it, where other jobs run beside")
    parser.add_argument("--rounds", type=int, default=1, help="cut so many times, a part of the way each")
    parser.add_argument("--structures", type=int, help="of each task to learn from; all by default")
    parser.add_argument("--validate-every", default="100%", help="errors on the way are in metrics.csv of each run")
    parser.add_argument("--validation", type=int, default=8, help="structures of each task for that")
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(given)
    for target, axis, seed in ((t, a, s) for s in given.seeds for t in given.targets for a in given.axes):
        study.row(target, axis, seed)
        (given.output / "width.md").write_text(study.table(), encoding="utf-8")


if __name__ == "__main__":
    main()
