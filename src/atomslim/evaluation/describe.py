"""What a model is: sizes, blocks, tasks, parameters, origin."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text
from torch import nn

from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.metadata import Metadata
from atomslim.models.model_file import load
from atomslim.models.scope import NOTED
from atomslim.report.console import plain_console

UNSHOWN = {"notes", "channels", "layers"}
"""Keys of history entries that are shown elsewhere, or too long for a line."""

CONVENTION = "Parameters are the weights that training changes; fitted scale factors and other buffers are not counted."


@dataclass(frozen=True)
class Description:
    """What `atomslim info` shows of a model; `as_dict` gives it as plain data, printing it with rich as tables."""

    family: str
    file: str | None
    dtype: str
    sizes: dict[str, Any]
    blocks: tuple[int, ...]
    """Which blocks of the original model it has, counted from 1."""
    tasks: tuple[dict[str, Any], ...]
    units: dict[str, str]
    parameters: int
    parameters_by_part: dict[str, int]
    details: dict[str, float]
    """Facts specific to models of this family."""
    fine_units: tuple[str, ...]
    """Units finer than blocks that can be left out."""
    notes: tuple[str, ...]
    history: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, strings and numbers."""
        return {"conventions": CONVENTION, **asdict(self)}

    def __rich__(self) -> RenderableType:
        return Group(*self._parts())

    def render(self, width: int = 100) -> str:
        """Return the tables as plain text."""
        console = plain_console(width=width, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _parts(self) -> Iterator[RenderableType]:
        blocks = ", ".join(map(str, self.blocks)) or "none"
        yield Text(f"{self.file or 'model in memory'}: family {self.family}, {self.dtype}")
        yield Text(f"Interaction blocks: {len(self.blocks)} (of the original: {blocks})")
        if self.fine_units:
            yield Text(f"Finer than blocks, and to be left out one by one: {', '.join(self.fine_units)}")
        for name, count in self.details.items():
            yield Text(f"{name.replace('_', ' ').capitalize()}: {count}")
        yield Text()
        yield _targets_table(self.tasks)
        yield _graphs_table(self.tasks)
        yield _parameters_table(self.parameters, self.parameters_by_part)
        yield Text(CONVENTION + "\n")
        yield _sizes_table(self.sizes)
        for note in self.notes:
            yield Text(f"Note: {note}.")
        for number, entry in enumerate(self.history, start=1):
            yield Text(f"History {number}: {_one_line(entry)}")


def describe(model: BlockModel | str | os.PathLike[str], *, raw_weights: bool = False) -> Description:
    """Describe a model, or the model of a file.

    ``raw_weights`` looks at the last weights of a checkpoint instead of their averages, where it has both. Raises
    CheckpointError for a file that cannot be read.
    """
    file = None if isinstance(model, BlockModel) else Path(model).name
    loaded = model if isinstance(model, BlockModel) else load(model, weights="raw" if raw_weights else None)
    metadata, family = Metadata.of(loaded), family_of(loaded)
    return Description(
        family=metadata.family,
        file=file,
        dtype=str(next(loaded.parameters()).dtype).removeprefix("torch."),
        sizes=metadata.config.model_dump(mode="json"),
        blocks=metadata.block_ids,
        tasks=tuple(task.model_dump(mode="json") for task in metadata.tasks),
        units=metadata.units,
        parameters=count_parameters([loaded]),
        parameters_by_part={name: count_parameters(modules) for name, modules in loaded.parts().items()},
        details=family.details(loaded),
        fine_units=loaded.fine_units,
        notes=tuple(_notes(metadata, family.notes(loaded))),
        history=tuple(metadata.history),
    )


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """Return the number of trainable weights, each counted once; scale factors and buffers do not count."""
    parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in parameters.values())


def _notes(metadata: Metadata, of_family: list[str]) -> Iterator[str]:
    if not metadata.history:
        yield "untrained, as far as its history tells: the weights may be random"
    yield from of_family
    notes: list[str] = []
    for entry in metadata.history:
        notes = [] if entry.get("operation") == "set tasks" else notes + entry.get("notes", [])
    yield from notes
    bare = [task.name for task in metadata.tasks if (energy := task.of_kind("energy")) and not energy.references]
    if bare and not notes:
        yield f"energies of {', '.join(bare)} have no per-element references: they are relative to those of training"


def _targets_table(tasks: Iterable[dict[str, Any]]) -> Table:
    columns = ("task", "target", "kind", "atoms", "unit", "mean", "std", "references")
    table = Table(*columns, title="Targets", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for task in tasks:
        for target in task["targets"]:
            kind, references = target["kind"].removesuffix("_forces"), len(target["references"]) or "none"
            shown = [target["name"], kind, target["reduction"], target["unit"]]
            table.add_row(task["name"], *shown, f"{target['mean']:.6g}", f"{target['std']:.6g}", f"{references}")
    return table


def _graphs_table(tasks: Iterable[dict[str, Any]]) -> Table:
    graphs = {task["name"]: task["graph"] for task in tasks}
    keys = next(iter(graphs.values())).keys()
    table = Table("task", *keys, title="Graphs: cutoff in Å, and what else they are made by", box=SIMPLE_HEAD)
    for name, graph in graphs.items():
        table.add_row(name, *(str(graph[key]) for key in keys))
    return table


def _parameters_table(total: int, parts: dict[str, int]) -> Table:
    table = Table(
        "parameter group",
        Column("parameters", justify="right"),
        Column("share", justify="right"),
        title="Parameters",
        box=SIMPLE_HEAD,
    )
    for name, count in parts.items():
        table.add_row(name, f"{count:,}", f"{count / max(total, 1):.1%}")
    table.add_section()
    table.add_row("all", f"{total:,}", "")
    return table


def _sizes_table(sizes: dict[str, Any]) -> Table:
    """Put two sizes in a row."""
    table = Table("size", "value", "size", "value", title="Sizes", box=SIMPLE_HEAD)
    items = [(name, str(value)) for name, value in sizes.items()]
    half = (len(items) + 1) // 2
    for left, right in zip_longest(items[:half], items[half:], fillvalue=("", "")):
        table.add_row(*left, *right)
    return table


def _one_line(entry: dict[str, Any]) -> str:
    shown = {key: value for key, value in entry.items() if key not in UNSHOWN and value not in (None, [], {})}
    if NOTED in shown:
        shown[NOTED] = {task: " ".join(noted) for task, noted in shown[NOTED].items()}
    return ", ".join(_pair(key, value) for key, value in shown.items())


def _pair(key: str, value: Any) -> str:
    if not isinstance(value, dict):
        return f"{key} {value}"
    return f"{key} {_one_line(value)}" if key.startswith("widths") else _one_line(value)
