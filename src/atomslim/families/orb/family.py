"""Orb as a family: its files and capabilities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.orb.config import OrbConfig, OrbGraphSettings
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Capability, Family
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.families.orb.model import Orb

OPTIONS = ("neighbours", "activation", "repulsion")


class OrbFamily(Family):
    """Orb: weights that the package's trainer saved."""

    name: ClassVar[str] = "orb"
    title: ClassVar[str] = "Orb"
    package: ClassVar[str | None] = "orb-models"
    extra: ClassVar[str | None] = "orb"
    weights: ClassVar[str] = "files from its authors (github.com/orbital-materials/orb-models)"
    licences: ClassVar[tuple[str, str]] = ("Apache 2.0", "depends on the model: see its source")
    config: ClassVar[type[BaseModel]] = OrbConfig
    graph_settings: ClassVar[type[GraphSettings]] = OrbGraphSettings
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {"fresh heads", "direct forces", "neighbour caps", "export"}
    )

    def require_package(self) -> None:
        """Raise ConfigError unless the package is installed, in a version whose modules are known."""
        super().require_package()
        found = str(self.installed())
        if not found.startswith("0.5."):
            raise ConfigError(
                f"Orb models need orb-models 0.5, and {found} is installed, whose modules are others: "
                "pip install 'atomslim[orb]'"
            )

    def build(self, config: Any, tasks: Sequence[Task]) -> BlockModel:
        """Return a model with the package's fresh weights."""
        self.require_package()
        from atomslim.families.orb.model import Orb  # noqa: PLC0415 - needs the package

        return Orb(config, tasks)

    def configuration(self, model: BlockModel) -> OrbConfig:
        """Return the sizes, and which tasks have a head for stress."""
        orb = _orb(model)
        return orb.config.model_copy(update={"stress_heads": tuple(orb.stresses)})

    def notes(self, model: BlockModel) -> list[str]:
        """Warn about rotations, and about heads that training ignores."""
        orb = _orb(model)
        found = ["directions are plain inputs: a rotated structure has a different energy"]
        if len(orb.stresses):
            found.append("stress has a separate head: pruning and training of other quantities ignore it")
        if orb.confidence is not None:
            found.append("force_error has a separate head: pruning and training of other quantities ignore it")
        return found

    def locate(self, name: str) -> Path:
        """Say where to get models: the package ships none."""
        raise ConfigError(
            f"orb:{name}: no weights come with the package: download the model and give the path of its file"
        )

    def recognises(self, path: Path) -> bool:
        """Look for the names of Orb's tensors."""
        from atomslim.families.orb.checkpoint import is_orb  # noqa: PLC0415

        try:
            return is_orb(path)
        except CheckpointError:
            return False

    def read(self, path: Path, **options: str) -> BlockModel:
        """Read weights; ``neighbours``, ``activation`` and ``repulsion`` as `read_orb` has them."""
        self.refuse_options(options, OPTIONS)
        self.require_package()
        from atomslim.families.orb.checkpoint import read_orb  # noqa: PLC0415

        return read_orb(path, **options)

    def with_heads(
        self, model: BlockModel, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
    ) -> BlockModel:
        """Return a copy with heads for these tasks only; there is no dropout."""
        from atomslim.families.orb.rehead import with_heads  # noqa: PLC0415 - needs the package

        if regularisation:
            raise ConfigError(f"Orb models have no {next(iter(regularisation))}: leave it out")
        return with_heads(_orb(model), tasks, reused)

    def export(self, model: BlockModel, path: Path) -> None:
        """Write weights for the package."""
        from atomslim.families.orb.export import write_orb  # noqa: PLC0415 - needs the package

        write_orb(_orb(model), path)

    def check_graph(self, model: BlockModel, graph: GraphSettings) -> None:
        """The cutoff is the model's."""
        own = next(iter(model.tasks.values())).graph.cutoff
        if graph.cutoff != own:
            raise ConfigError(
                f"cutoff {graph.cutoff:g} Å: that of an Orb model is part of it, here {own:g} Å: leave it out"
            )


FAMILY = OrbFamily()


def _orb(model: BlockModel) -> "Orb":
    from atomslim.families.orb.model import Orb  # noqa: PLC0415 - needs the package

    if not isinstance(model, Orb):
        raise ConfigError(f"a {type(model).__name__} is not an Orb model")
    return model
