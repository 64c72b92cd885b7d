"""SevenNet as a family: its files, names and capabilities."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.models.block_model import BlockModel
from atomslim.models.channels import ChannelLayout, Kept
from atomslim.models.family import Capability, Change, Family
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Task
from atomslim.unpickle.torch_file import read_pt

if TYPE_CHECKING:
    from atomslim.families.sevennet.model import SevenNet

PREFIXES = ("sevennet-", "7net-")
DEFAULT_OF = {"0": "0_11jul2024", "0_11july2024": "0_11jul2024"}
"""Names without a date, or with the full month → the package's name."""


class SevenNetFamily(Family):
    """SevenNet: the models that its package knows, and checkpoints of its trainer."""

    name: ClassVar[str] = "sevennet"
    title: ClassVar[str] = "SevenNet"
    package: ClassVar[str | None] = "sevenn"
    extra: ClassVar[str | None] = "sevennet"
    weights: ClassVar[str] = "ship with the package: sevennet:7net-0, 7net-l3i5, 7net-mf-0; others from its authors"
    licences: ClassVar[tuple[str, str]] = ("MIT", "not stated by the package")
    config: ClassVar[type[BaseModel]] = SevenNetConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {"fresh heads", "export", "shorter cutoff", "hand-over", "widths"}
    )

    def build(self, config: Any, tasks: Sequence[Task]) -> BlockModel:
        """Return a model on the meta device."""
        self.require_package()
        from atomslim.families.sevennet.model import SevenNet  # noqa: PLC0415 - needs the package

        with torch.device("meta"):
            return SevenNet(config, tasks)

    def notes(self, model: BlockModel) -> list[str]:
        """Note the levels of theory of tasks, and warn about mirror images."""
        config = _sevennet(model).config
        notes = [f"task {task} has the level of theory {level}" for task, level in config.task_modalities.items()]
        if not config.parity:
            notes.append("energies of mirror images may differ: the model is equivariant to rotations only (SO3)")
        return notes

    @contextmanager
    def unit_changes(self, model: BlockModel) -> Iterator[dict[str, list[Change]]]:
        """Note what degrees of irreps contribute to the first pass."""
        from atomslim.families.sevennet.unit_changes import unit_changes  # noqa: PLC0415 - needs the package

        with unit_changes(_sevennet(model)) as found:
            yield found

    def locate(self, name: str) -> Path:
        """Return the file of a model that the package ships, or has downloaded.

        Raises ConfigError for one that it does not know, or that it would have to download first.
        """
        from sevenn import _const  # noqa: PLC0415 - needs the package

        wanted = name.lower()
        wanted = next((wanted.removeprefix(prefix) for prefix in PREFIXES if wanted.startswith(prefix)), wanted)
        wanted = DEFAULT_OF.get(wanted, wanted).replace("-", "_")
        known = {key.removeprefix("SEVENNET_").lower(): path for key, path in vars(_const).items() if _is_model(key)}
        if wanted not in known:
            names = ", ".join(sorted(f"7net-{key.replace('_', '-')}" for key in known))
            raise ConfigError(f"sevennet:{name}: the package knows {names}")
        return _present(name, known[wanted], _const)

    def recognises(self, path: Path) -> bool:
        """Look for the weights and options of SevenNet's trainer."""
        try:
            return is_sevennet(read_pt(path))
        except CheckpointError:
            return False

    def read(self, path: Path, **options: str) -> BlockModel:
        """Read a checkpoint; there are no options: its levels of theory are its tasks."""
        from atomslim.families.sevennet.checkpoint import read_sevennet  # noqa: PLC0415 - needs the package

        self.refuse_options(options)
        return read_sevennet(path)

    def with_heads(
        self, model: BlockModel, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
    ) -> BlockModel:
        """Return a copy with heads for these tasks only; there is no dropout."""
        from atomslim.families.sevennet.rehead import with_heads  # noqa: PLC0415 - needs the package

        if regularisation:
            raise ConfigError(f"SevenNet models have no {next(iter(regularisation))}: leave it out")
        return with_heads(_sevennet(model), tasks, reused)

    def export(self, model: BlockModel, path: Path) -> None:
        """Write a checkpoint for the package."""
        from atomslim.families.sevennet.export import write_sevennet  # noqa: PLC0415 - needs the package

        write_sevennet(_sevennet(model), path)

    def widths(self, model: BlockModel) -> dict[str, int]:
        """Return the number of channels by degree, and the highest degree."""
        from atomslim.families.sevennet.channels import widths  # noqa: PLC0415 - needs the package

        return widths(_sevennet(model))

    def feature_widths(self, model: BlockModel) -> tuple[str, ...]:
        """Name those of channels."""
        from atomslim.families.sevennet.channels import HIGHEST  # noqa: PLC0415 - needs the package

        return tuple(name for name in self.widths(model) if name != HIGHEST)

    def cut_degrees(self, model: BlockModel, widths: Mapping[str, int]) -> tuple[BlockModel, dict[str, int]]:
        """Return a model without the degrees above the width lmax, and the remaining widths."""
        from atomslim.families.sevennet.channels import cut_degrees  # noqa: PLC0415 - needs the package

        return cut_degrees(_sevennet(model), widths)

    def channels(self, model: BlockModel) -> ChannelLayout:
        """Say where the channels of each width are."""
        from atomslim.families.sevennet.channels import layout  # noqa: PLC0415 - needs the package

        return layout(_sevennet(model))

    def feature_streams(self, model: BlockModel) -> dict[str, str]:
        """Name the streams of the scalars of blocks."""
        from atomslim.families.sevennet.channels import feature_streams  # noqa: PLC0415 - needs the package

        return feature_streams(_sevennet(model))

    def narrowed(self, model: BlockModel, kept: Kept) -> BlockModel:
        """Return a copy with these channels only."""
        from atomslim.families.sevennet.channels import narrowed  # noqa: PLC0415 - needs the package

        return narrowed(_sevennet(model), kept)

    def layer_weight(self, model: BlockModel, layer: str) -> nn.Parameter:
        """Return the weights of an irrep."""
        return model.get_parameter(layer)

    def as_matrix(self, weight: Tensor) -> Tensor:
        """Return weights as a matrix (outputs, inputs)."""
        from atomslim.families.sevennet.channels import as_matrix  # noqa: PLC0415 - needs the package

        return as_matrix(weight)

    def from_matrix(self, matrix: Tensor, like: Tensor) -> Tensor:
        """Return what `as_matrix` was given."""
        from atomslim.families.sevennet.channels import from_matrix  # noqa: PLC0415 - needs the package

        return from_matrix(matrix, like)

    def layer_module(self, layer: str) -> str:
        """Name the module that reads an irrep."""
        return layer.rpartition(".weights.")[0]

    def layer_inputs(self, module: nn.Module, layer: str, inputs: tuple[Any, ...]) -> Tensor:
        """Return the channels of an irrep that a module reads; no rows if the state lacks it."""
        from atomslim.families.sevennet.channels import taken_in  # noqa: PLC0415 - needs the package

        return taken_in(module, layer, inputs[0])

    def check_graph(self, model: BlockModel, graph: GraphSettings) -> None:
        """The cutoff is the model's."""
        if graph.cutoff != (own := _sevennet(model).config.cutoff):
            raise ConfigError(
                f"cutoff {graph.cutoff:g} Å: that of a SevenNet model is part of it, here {own:g} Å: leave it out, "
                "or shorten it first (atomslim prune --cutoff)"
            )


FAMILY = SevenNetFamily()


def is_sevennet(content: object) -> bool:
    """Say whether what a file of `torch.save` holds is a checkpoint of SevenNet."""
    if not isinstance(content, Mapping) or not isinstance(content.get("config"), Mapping):
        return False
    return isinstance(content.get("model_state_dict"), Mapping) and {"_type_map", "cutoff"} <= content["config"].keys()


def _is_model(key: str) -> bool:
    return key.startswith("SEVENNET_")


def _present(name: str, path: str, const: Any) -> Path:
    """Return the file where the package looks for it; raises ConfigError if it is not there."""
    cached = path.replace(const._prefix, str(Path("~/.cache/sevennet").expanduser()))  # noqa: SLF001 - as the package does
    for candidate in (path, cached):
        if Path(candidate).is_file():
            return Path(candidate)
    source = const.CHECKPOINT_DOWNLOAD_LINKS.get(path, "")
    raise ConfigError(
        f"sevennet:{name}: its weights do not come with the package: download {source} and give the file's path"
    )


def _sevennet(model: BlockModel) -> "SevenNet":
    from atomslim.families.sevennet.model import SevenNet  # noqa: PLC0415 - needs the package

    if not isinstance(model, SevenNet):
        raise ConfigError(f"a {type(model).__name__} is not a SevenNet model")
    return model
