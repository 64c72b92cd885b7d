"""Graph settings of a task: the model's own; the dataset's only where the model's file held none."""

from typing import Protocol

from atomslim.data.info import DatasetInfo
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Family
from atomslim.models.graph_settings import GraphSettings

_OWN = {"set tasks", "set heads", "reduce neighbours"}
"""Operations after which a model's graph settings are its own, whatever its first file held."""


class GraphOptions(Protocol):
    """Options that override graph settings."""

    @property
    def cutoff(self) -> float | None:
        """Å, or None."""
        ...

    @property
    def neighbours(self) -> int | str | None:
        """Base number k, or None."""
        ...


def has_own_graphs(model: BlockModel) -> bool:
    """Tell whether a model's graph settings are its own, or assumed because its checkpoint held none."""
    for entry in reversed(model.history):
        if entry.get("operation") in _OWN:
            return True
        if entry.get("graphs") == "assumed":
            return False
    return True


def graph_for(
    family: Family, model: BlockModel | None, options: GraphOptions, info: DatasetInfo, task: str | None = None
) -> GraphSettings:
    """Return the graphs of a new task on a dataset: the options', else those of a task of the model (none: its first).

    The dataset's own are for models that are still to be made (None), or whose checkpoint held none. Raises ConfigError
    for a cutoff or neighbours that the family cannot have.
    """
    own = own_graph(model, task)
    usual: tuple[float | None, int | None]
    if own is None:
        usual = (info.cutoff, info.neighbours)
        return family.graph(model, cutoff=options.cutoff, neighbours=options.neighbours, usual=usual)
    if options.neighbours is not None:
        family.require("neighbour caps")
        usual = (own.cutoff, own.neighbours)
        return family.graph(model, cutoff=options.cutoff, neighbours=options.neighbours, usual=usual)
    if model is None or options.cutoff is None:
        return own
    chosen = own.model_copy(update={"cutoff": options.cutoff})
    family.check_graph(model, chosen)
    return chosen


def own_graph(model: BlockModel | None, task: str | None = None) -> GraphSettings | None:
    """Return the graphs of a model's task (none: its first), or None where they are assumed."""
    if model is None or not has_own_graphs(model):
        return None
    return (model.task(task) if task else next(iter(model.tasks.values()))).graph


def graph_note(model: BlockModel, used: GraphSettings, info: DatasetInfo, task: str | None = None) -> str:
    """Say in one line which graphs are used and which are not; empty where nothing differs."""
    own = own_graph(model, task)
    if own is None:
        return f"graphs: {_words(used)}: the model's file holds no settings of its own"
    if used != own:
        return f"graphs: {_words(used)}, as the options say; the model has {_words(own)}"
    if used.cutoff != info.cutoff or used.neighbours not in {None, info.neighbours}:
        theirs = f"cutoff {info.cutoff:g} Å, {info.neighbours} neighbours"
        return f"graphs: {_words(used)}, the model's; the dataset's {theirs} are not used"
    return ""


def _words(graph: GraphSettings) -> str:
    smooth = graph.neighbours is None and graph.typical_neighbours is not None
    count = f"about {graph.typical_neighbours:g}" if smooth else graph.neighbours or "all"
    return f"cutoff {graph.cutoff:g} Å, {count} neighbours"
