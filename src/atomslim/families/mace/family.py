"""MACE as a family: its files and capabilities."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.mace.config import MACEConfig
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Capability, Family
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.families.mace.model import MACE

E3NN = "0.4.4"
"""The version of e3nn that the package pins; others order and scale weights differently."""


class MACEFamily(Family):
    """MACE: models that the package saved."""

    name: ClassVar[str] = "mace"
    title: ClassVar[str] = "MACE"
    package: ClassVar[str | None] = "mace-torch"
    extra: ClassVar[str | None] = "mace"
    weights: ClassVar[str] = "files from its authors; mace:medium tells you where to get that one"
    licences: ClassVar[tuple[str, str]] = ("MIT", "depends on the model: MIT for MACE-MP-0")
    config: ClassVar[type[BaseModel]] = MACEConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"fresh heads", "export"})

    def require_package(self) -> None:
        """Raise ConfigError unless the package is installed, with the e3nn version that it pins."""
        super().require_package()
        try:
            found = version("e3nn")
        except PackageNotFoundError:
            found = "none"
        if found != E3NN:
            raise ConfigError(
                f"MACE models need e3nn {E3NN}, and {found} is installed (sevenn needs a later one): "
                "make a separate environment: pip install 'atomslim[mace]'"
            )

    def build(self, config: Any, tasks: Sequence[Task]) -> BlockModel:
        """Return a model with the package's fresh weights."""
        self.require_package()
        from atomslim.families.mace.model import MACE  # noqa: PLC0415 - needs the package

        return MACE(config, tasks)

    def locate(self, name: str) -> Path:
        """Say where to get a model: the package ships none."""
        from atomslim.families.mace.package import addresses  # noqa: PLC0415 - needs the package

        known = addresses()
        if name not in known:
            raise ConfigError(
                f"mace:{name}: the package has no weights and knows {', '.join(known)}: give the path of a file"
            )
        raise ConfigError(
            f"mace:{name}: its weights do not come with the package: download {known[name]} and give the file's path"
        )

    def recognises(self, path: Path) -> bool:
        """Look for a model of MACE, without building it."""
        from atomslim.families.mace.stored import is_model, read_stored  # noqa: PLC0415

        try:
            return is_model(read_stored(path))
        except CheckpointError:
            return False

    def read(self, path: Path, **options: str) -> BlockModel:
        """Read a model; there are no options: its heads are its tasks."""
        self.refuse_options(options)
        self.require_package()
        from atomslim.families.mace.checkpoint import read_mace  # noqa: PLC0415 - needs the package

        return read_mace(path)

    def with_heads(
        self, model: BlockModel, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
    ) -> BlockModel:
        """Return a copy with heads for these tasks only; there is no dropout."""
        from atomslim.families.mace.rehead import with_heads  # noqa: PLC0415 - needs the package

        if regularisation:
            raise ConfigError(f"MACE models have no {next(iter(regularisation))}: leave it out")
        return with_heads(_mace(model), tasks, reused)

    def export(self, model: BlockModel, path: Path) -> None:
        """Write a model for the package."""
        from atomslim.families.mace.export import write_mace  # noqa: PLC0415 - needs the package

        write_mace(_mace(model), path)

    def check_graph(self, model: BlockModel, graph: GraphSettings) -> None:
        """The cutoff is the model's."""
        if graph.cutoff != (own := _mace(model).config.cutoff):
            raise ConfigError(
                f"cutoff {graph.cutoff:g} Å: that of a MACE model is part of it, here {own:g} Å: leave it out"
            )


FAMILY = MACEFamily()


def _mace(model: BlockModel) -> "MACE":
    from atomslim.families.mace.model import MACE  # noqa: PLC0415 - needs the package

    if not isinstance(model, MACE):
        raise ConfigError(f"a {type(model).__name__} is not a MACE model")
    return model
