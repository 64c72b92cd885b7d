"""A family of models: what can be done with its models beyond the block-model interface, and with its files.

A family is an object of a subclass of `Family`, registered by name (see `atomslim.models.registry`). Only what a family
has is filled in: everything else is refused in one line that names the family. The module that holds the object imports
the package that the family needs inside functions only, so that it is needed only by those who use the family.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float, Int
from pydantic import BaseModel
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.errors import ConfigError
from atomslim.models.channels import ChannelLayout, Kept
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockFeatures, BlockModel

TracedFeatures = Callable[[AtomsBatch, Int[Tensor, "n k"], Int[Tensor, "n k 3"]], "BlockFeatures"]
"""From a structure and its matrix of neighbours, with the cell offsets of those."""

Capability = Literal[
    "fresh heads",
    "direct forces",
    "neighbour caps",
    "packages",
    "export",
    "pre-training",
    "shorter cutoff",
    "hand-over",
    "widths",
]

_REFUSALS: dict[Capability, str] = {
    "fresh heads": "cannot be given fresh heads: reuse those of a task",
    "direct forces": "have no direct forces: ask for conservative ones",
    "neighbour caps": "have no cap on neighbours: they take all within the cutoff",
    "packages": "cannot be compiled into packages",
    "export": "cannot be written in a format of their own: save them as .safetensors",
    "hand-over": "have blocks with skip connections, so that no map of their input fits into their weights",
    "widths": "cannot be made narrower here: only blocks and finer units (atomslim info) can be removed",
    "shorter cutoff": "cannot be given another cutoff without training: only their edges could be fewer",
    "pre-training": "cannot be made from sizes: give a trained one to continue",
}


@dataclass(frozen=True)
class Change:
    """What a unit finer than a block did to features in a pass: rows first, channels last."""

    before: Float[Tensor, "rows *_ channels"] | None
    """None: without the unit they would be zero."""
    after: Float[Tensor, "rows *_ channels"]
    """The very tensor that the rest of the pass was computed from."""
    turning: bool = False
    """Whether the components along the second axis rotate together with the structure."""


class Family:
    """Description and capabilities of a family; subclasses fill in what it has."""

    name: ClassVar[str]
    """In files, and before the colon in names such as ``name:model``."""
    title: ClassVar[str]
    """In messages, as its authors write it."""
    package: ClassVar[str | None] = None
    """The distribution that its models need, if any."""
    extra: ClassVar[str | None] = None
    """The extra of atomslim that installs it."""
    config: ClassVar[type[BaseModel]]
    """What a model is built from besides its tasks: plain data."""
    graph_settings: ClassVar[type[GraphSettings]] = GraphSettings
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    refits: ClassVar[bool] = False
    """Whether layers of a narrower model can be fitted on its own inputs: each is one linear map."""
    embedded: ClassVar[tuple[str, ...]] = ()
    """Names of models that come with atomslim, without a colon."""
    weights: ClassVar[str] = ""
    """Where to get trained models, in one sentence."""
    licences: ClassVar[tuple[str, str]] = ("", "")
    """Of the code that its models need, and of their weights."""
    rates: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """Factors on the fine-tuning learning rate by parameter group, blocks by their original numbers; others 1."""

    # -- what every family has

    def build(self, config: Any, tasks: Sequence[Task]) -> "BlockModel":
        """Return a model of this configuration, an object of `config`; its weights are replaced afterwards.

        Every number that `save` must keep is a parameter or a persistent buffer of floating point.
        """
        raise NotImplementedError

    def configuration(self, model: "BlockModel") -> BaseModel:
        """Return what `build` makes such a model from."""
        return model.config

    def least_tensors(self, config: Any) -> int:
        """Return the least number of tensors of such a model: a file with fewer is refused before building it."""
        del config
        return 0

    def upgrade(self, content: dict[str, Any], version: int) -> dict[str, Any]:
        """Turn a file's metadata of a format version into that of the next, for what is specific to the family."""
        del version
        return content

    def details(self, model: "BlockModel") -> dict[str, float]:
        """Give numbers that only such models have, by name, for `atomslim info`."""
        del model
        return {}

    def notes(self, model: "BlockModel") -> list[str]:
        """Give warnings for users of the model, as sentences."""
        del model
        return []

    @contextmanager
    def unit_changes(self, model: "BlockModel") -> Iterator[dict[str, list[Change]]]:
        """While this is open, note what each of the model's ``fine_units`` changes in its first pass, by name.

        Units that are not in it have no scores by gradients.
        """
        del model
        yield {}

    # -- checkpoints

    def locate(self, name: str) -> Path:
        """Return the file behind a name: ``rest`` of ``family:rest``, or one of ``embedded``.

        Raises ConfigError for an unknown name, which lists those there are.
        """
        raise ConfigError(f"{self.name}:{name}: {self.title} models have no names: give the path of a checkpoint")

    def recognises(self, path: Path) -> bool:
        """Say from its content whether a file is a checkpoint of this family, without executing anything in it.

        Needs no package. Never raises AtomslimError: an unreadable file is none.
        """
        del path
        return False

    def read(self, path: Path, **options: str) -> "BlockModel":
        """Return the model of a checkpoint, in evaluation mode, its history starting with an entry for the checkpoint.

        ``options`` are the family's own; raises ConfigError for unknown ones, CheckpointError for what cannot be read.
        """
        raise NotImplementedError

    # -- capabilities

    def with_heads(
        self,
        model: "BlockModel",
        tasks: Sequence[Task],
        reused: Mapping[str, Task],
        regularisation: Mapping[str, float],
    ) -> "BlockModel":
        """Return an independent copy of a model with heads for these tasks only: *fresh heads*.

        Heads are drawn from torch's global generator, but those of tasks in ``reused`` are copies of the heads of that
        task of the model, target by target of the same kind and, where there is one, the same name.
        ``regularisation`` has rates of dropout by name; raises ConfigError for names that the family does not know.
        """
        raise NotImplementedError

    def traced_features(self, model: "BlockModel", task: Task, *, edges: bool) -> "TracedFeatures":
        """Return what gives features of one structure by tensor operations that can be traced: *packages*.

        ``edges`` says whether those of edges are wanted.
        """
        raise NotImplementedError

    def export(self, model: "BlockModel", path: Path) -> None:
        """Write a checkpoint that the family's own programs read: *export*."""
        raise NotImplementedError

    def fresh(self, config: Any, tasks: Sequence[Task], regularisation: Mapping[str, float]) -> "BlockModel":
        """Return a new model drawn from torch's global generator, of the sizes of ``config``: *pre-training*.

        ``regularisation`` has rates of dropout by name, as for `with_heads`.
        """
        raise NotImplementedError

    def fresh_sizes(self) -> dict[str, tuple[BaseModel, GraphSettings]]:
        """Return sizes of small new models with their graphs, by name, the cheapest first: *pre-training*."""
        return {}

    def is_fitted(self, model: "BlockModel") -> bool:
        """Say whether a new model has all that is fitted before training: *pre-training*."""
        del model
        return True

    def fit(self, model: "BlockModel", batch: AtomsBatch, topology: Any) -> None:
        """Fit on a batch what is fitted before training: *pre-training*."""

    def widths(self, model: "BlockModel") -> dict[str, int]:
        """Return the sizes that can be cut, by name: *widths*; none where models have no such."""
        del model
        return {}

    def feature_widths(self, model: "BlockModel") -> tuple[str, ...]:
        """Name the widths of the features of all blocks, which dominate the cost: *widths*."""
        del model
        return ()

    def check_widths(self, model: "BlockModel", widths: Mapping[str, int]) -> None:
        """Raise ConfigError for widths, each no larger than the model's, that do not go together: *widths*."""

    def cut_degrees(self, model: "BlockModel", widths: Mapping[str, int]) -> tuple["BlockModel", dict[str, int]]:
        """Return a model pruned in the widths that are by degree and not by channel, and the other widths: *widths*."""
        return model, dict(widths)

    def layer_weight(self, model: "BlockModel", layer: str) -> nn.Parameter:
        """Return the weights of a layer that takes channels in: *widths*."""
        return model.get_parameter(f"{layer}.weight")

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return a layer's weights as a matrix (outputs, inputs): *widths*."""
        return weight

    def from_matrix(self, matrix: Tensor, like: Tensor) -> Tensor:
        """Return a matrix (outputs, inputs) as a layer's weights, of which ``like`` are some: *widths*."""
        del like
        return matrix

    def layer_module(self, layer: str) -> str:
        """Name the module that computes a layer: *widths*."""
        return layer

    def layer_inputs(self, module: nn.Module, layer: str, inputs: tuple[Any, ...]) -> Tensor:
        """Return the inputs of a layer, (…, inputs), from its module's arguments: *widths*."""
        del layer
        rows: Tensor = module.side_by_side(*inputs) if hasattr(module, "side_by_side") else inputs[0]  # type: ignore[operator]
        return rows

    def channels(self, model: "BlockModel") -> ChannelLayout:
        """Say where the channels of each width are: *widths*."""
        raise NotImplementedError

    def feature_streams(self, model: "BlockModel") -> dict[str, str]:
        """Name the streams of the features that are compared in distillation: *widths*.

        ``node`` and ``edge`` (features of all blocks), ``node 3`` (of one block, where each has its own), ``node
        readout`` and ``edge readout`` → stream.
        """
        del model
        return {}

    def narrowed(self, model: "BlockModel", kept: Kept) -> "BlockModel":
        """Return a copy with these channels only, kept numbers unchanged: *widths*."""
        raise NotImplementedError

    def basis_rows(self, model: "BlockModel", batch: AtomsBatch, topology: Any) -> dict[str, Tensor]:
        """Return the model's basis functions on a batch, (rows, functions), by stream: *widths*."""
        del model, batch, topology
        return {}

    # -- provided

    def graph(
        self,
        model: "BlockModel | None",
        *,
        cutoff: float | None = None,
        neighbours: int | str | None = None,
        usual: tuple[float | None, int | None] = (None, None),
    ) -> GraphSettings:
        """Return the graphs of a new task of a model; by default those of its first task, with another cutoff if asked.

        ``neighbours`` is a number, or ``smooth K`` for families that have smooth graphs. ``usual`` are the cutoff and
        neighbours that are common for the new task's dataset: a family may use them.
        ``model`` is None only before it is made from sizes. Raises ConfigError for what it cannot have.
        """
        del usual
        if model is None:
            raise NotImplementedError
        own = next(iter(model.tasks.values())).graph
        if neighbours is not None:
            self.require("neighbour caps")
            if isinstance(neighbours, str):
                raise ConfigError(f"neighbours {neighbours}: {self.title} models have no smooth graphs")
            own = own.fewer(neighbours)
        chosen = own if cutoff is None else own.model_copy(update={"cutoff": cutoff})
        self.check_graph(model, chosen)
        return chosen

    def check_graph(self, model: "BlockModel", graph: GraphSettings) -> None:
        """Raise ConfigError for graphs that a model cannot use."""

    def require(self, capability: Capability) -> None:
        """Raise ConfigError, naming the family, unless its models have a capability."""
        if capability not in self.capabilities:
            raise ConfigError(f"{self.title} models {_REFUSALS[capability]}")

    def require_package(self) -> None:
        """Raise ConfigError that names the extra unless the package is installed."""
        if self.package is not None and self.installed() is None:
            raise ConfigError(
                f"{self.title} models need the package {self.package}, which is not installed: "
                f"pip install 'atomslim[{self.extra or self.name}]'"
            )

    def installed(self) -> str | None:
        """Return the version of the package that is installed, or None."""
        try:
            return None if self.package is None else version(self.package)
        except PackageNotFoundError:
            return None

    def refuse_options(self, options: Mapping[str, str], known: Sequence[str] = ()) -> None:
        """Raise ConfigError for options of reading that are not among those known."""
        for name in options:
            if name not in known:
                there = f"there are {', '.join(known)}" if known else "there are none"
                raise ConfigError(f"{self.title} checkpoints have no option {name}: {there}")


def family_of(model: "BlockModel") -> Family:
    """Return a model's family; raises ConfigError where its class names none."""
    if model.family is None:
        raise ConfigError(
            f"models of the class {type(model).__name__} belong to no family, which saving, new heads and packages need"
        )
    return model.family
