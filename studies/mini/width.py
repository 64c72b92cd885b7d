"""Depth, width and neighbours of atomslim-mini at equal measured cost, before and after the same distillation.

    atomslim data generate -o generated/ --structures 23600 --processes 8
    python studies/mini/width.py generated/ -o runs/width --targets 1.3 2 4 --seeds 0 1 2 --budget 3min
    python studies/mini/width.py generated/ -o runs/width --targets 4 --axes depth all --budget 12min

Each axis has a ladder of cuts. For each target the mildest cut that is so many times as fast is taken, or the fastest
where none is: CPU time of one thread, graphs included, MOF-5 and MgO with 216 atoms, the geometric mean of both. `all`
is what `atomslim prune --speedup --axes blocks,widths,neighbours` chooses, `half` is half of both feature widths, `one`
the first block with smaller widths. Errors are those of forces on mini:TASK, whose structures are in no training data.
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
AXES = ("depth", "width", "neighbours", "all", "half", "one")
SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Of every width, inner ones included."""

ROUNDS = 4
"""Predictions of each structure of which the quickest counts."""

TESTED, CALIBRATION = 60, 17
"""Structures of each task: errors, and fits and the search's differences."""

HEAD = """| target | axis | cut | weights | MOF-5 | MgO 216 | F before | F after | {tasks} | steps | seed |
|---|---|---|---|---|---|---|---|{bars}---|---|
"""


class Study:
    """Cuts, students and their errors in one folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.full = atomslim.load("mini")
        self.data = {task: str(given.data / f"{task}.samples") for task in TASKS}
        self.structures = {"MOF-5": mof5(), "MgO 216": oxide(216)}
        self.test = {task: spread_out(atomslim.open_dataset(f"mini:{task}"), TESTED) for task in TASKS}

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
            "mini",
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
        return {**READING, "train_limit": self.given.structures, "validation_limit": self.given.validation}

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
            if speed >= target:
                break
        return self.made(best), words(best)

    def chosen(self, target: float) -> tuple[BlockModel, str]:
        """Return what the search among all axes chooses."""
        known = Measured.read(self.folder / "measured.json", {"model": "mini"})
        axes: tuple[Axis, ...] = ("blocks", "widths", "neighbours")
        given: dict[str, Any] = {"limit": CALIBRATION, "measured_on": list(self.structures.values()), "known": known}
        try:
            choice = cheapest(self.full, self.data, speed=target, axes=axes, **given)
        finally:
            known.write(self.folder / "measured.json")
        return self.made(choice.cut), words(choice.cut)

    def made(self, cut: Cut) -> BlockModel:
        """Return a cut as it would be distilled, its readout and its narrower layers fitted."""
        fitted = cut.blocks != self.full.block_ids
        realign = {"realign": "least-squares", "calibration": self.data} if fitted else {}
        return cut.of(self.full, self.data, limit=CALIBRATION, batch_size=4, **realign)

    def speeds(self, small: BlockModel) -> dict[str, float]:
        """Return how many times as fast a cut is, in turns with the full model."""
        found = {}
        for name, atoms in self.structures.items():
            times = [(seconds(self.full, atoms), seconds(small, atoms)) for _ in range(ROUNDS)]
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
        text = HEAD.format(tasks=" | ".join(TASKS), bars="---|" * len(TASKS))
        cells = " | ".join(f"{full[task]:.0f}" for task in TASKS)
        text += f"| | none | | {parameter_count(self.full):,} | | | {average(full):.0f} | | {cells} | | |\n"
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("*-seed*.json")]
        return text + "".join(line(row) for row in sorted(rows, key=lambda row: (row["target"], row["axis"])))


LEARNING: dict[str, Any] = {
    "batch_size": 16,
    "temperature": 4.0,
    "optimiser": {"learning_rate": 1e-3, "weight_decay": 0.01},
    "schedule": {"warmup": "2%", "cosine": "100%"},
    "ema": 0.98,
}
READING: dict[str, Any] = {"split": {"train": 0.99, "validation": 0.01, "by": "group"}}


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


LADDERS: dict[str, Callable[[BlockModel], Iterator[Cut]]] = {
    "depth": depth,
    "width": width,
    "neighbours": neighbours,
    "half": half,
    "one": one,
}


def shaped(full: BlockModel, cut: Cut) -> BlockModel:
    """Return a model of a cut's sizes whose weights are not chosen with care: for its speed."""
    of, wanted = family_of(full), dict(cut.widths)
    layout = of.channels(full)
    kept = {stream: torch.arange(wanted[name]) for stream, name in layout.widths.items() if name in wanted}
    small = of.narrowed(full, kept) if kept else full
    return Cut(cut.blocks, neighbours=cut.neighbours).of(small)


def seconds(model: BlockModel, atoms: Atoms) -> float:
    """Time one prediction, its graphs included, by the processor."""
    batch = from_ase(atoms)
    start = time.process_time()
    model.predict(batch, "oxides")
    return time.process_time() - start


def words(cut: Cut) -> str:
    """Say what a cut keeps."""
    sizes = ", ".join(f"{name} {size}" for name, size in cut.widths if name in ("atom", "edge"))
    inner = " and inner widths alike" if len(cut.widths) > 2 else ""
    parts = [f"blocks {' '.join(map(str, cut.blocks)) or 'none'}", sizes + inner]
    return ", ".join(filter(None, [*parts, f"{cut.neighbours} neighbours" if cut.neighbours else ""]))


def line(row: dict[str, Any]) -> str:
    """Write a row of the table."""
    after = " | ".join(f"{row['after'][task]:.0f}" for task in TASKS)
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
    parser.add_argument("data", type=Path)
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
