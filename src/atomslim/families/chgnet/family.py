"""CHGNet as a family: its files, names and capabilities."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.chgnet.config import CHGNetConfig
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Capability, Change, Family
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.families.chgnet.model import CHGNet


class CHGNetFamily(Family):
    """CHGNet: the versions that its package ships, and files of its trainer."""

    name: ClassVar[str] = "chgnet"
    title: ClassVar[str] = "CHGNet"
    package: ClassVar[str | None] = "chgnet"
    weights: ClassVar[str] = "ship with the package: chgnet:0.3.0, chgnet:0.2.0, chgnet:r2scan"
    licences: ClassVar[tuple[str, str]] = ("Modified BSD", "that of the package")
    config: ClassVar[type[BaseModel]] = CHGNetConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"fresh heads", "export", "shorter cutoff", "hand-over"})

    def build(self, config: Any, tasks: Sequence[Task]) -> BlockModel:
        """Return a model with the package's fresh weights."""
        from atomslim.families.chgnet.model import CHGNet  # noqa: PLC0415 - the model's class names this family

        return CHGNet(config, tasks)

    def notes(self, model: BlockModel) -> list[str]:
        """Note where magnetic moments come from, and that training ignores them."""
        if model.num_blocks < 2:
            return ["no magnetic moments: there is no block before the last"]
        kept = model.block_ids[-2]
        return [f"magnetic moments come from block {kept}: pruning and training of other quantities ignore them"]

    @contextmanager
    def unit_changes(self, model: BlockModel) -> Iterator[dict[str, list[Change]]]:
        """Note what single updates of bonds and of angles change in the first pass."""
        from atomslim.families.chgnet.unit_changes import unit_changes  # noqa: PLC0415

        with unit_changes(_chgnet(model)) as found:
            yield found

    def locate(self, name: str) -> Path:
        """Return the file of a version that the package ships."""
        versions = shipped()
        if name not in versions:
            raise ConfigError(f"chgnet:{name}: the package ships {', '.join(sorted(versions)) or 'no versions'}")
        return versions[name]

    def recognises(self, path: Path) -> bool:
        """Look for the names of CHGNet's tensors."""
        from atomslim.families.chgnet.checkpoint import is_chgnet  # noqa: PLC0415

        try:
            return is_chgnet(path)
        except CheckpointError:
            return False

    def read(self, path: Path, **options: str) -> BlockModel:
        """Read a checkpoint; ``composition`` as `read_chgnet` has it."""
        from atomslim.families.chgnet.checkpoint import read_chgnet  # noqa: PLC0415

        self.refuse_options(options, ("composition",))
        return read_chgnet(path, **options)  # type: ignore[arg-type]  # it checks the value

    def with_heads(
        self, model: BlockModel, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
    ) -> BlockModel:
        """Return a copy with heads for these tasks only; ``regularisation`` knows dropout."""
        from atomslim.families.chgnet.rehead import with_heads  # noqa: PLC0415

        return with_heads(_chgnet(model), tasks, reused, regularisation)

    def export(self, model: BlockModel, path: Path) -> None:
        """Write a checkpoint for the package."""
        from atomslim.families.chgnet.export import write_chgnet  # noqa: PLC0415

        write_chgnet(_chgnet(model), path)

    def check_graph(self, model: BlockModel, graph: GraphSettings) -> None:
        """Refuse a cutoff beyond that of the radial functions, which would change nothing."""
        if graph.cutoff > (longest := _chgnet(model).config.atom_graph_cutoff):
            raise ConfigError(f"cutoff {graph.cutoff:g} Å: this CHGNet model sees nothing beyond {longest:g} Å")


FAMILY = CHGNetFamily()


def shipped() -> dict[str, Path]:
    """Return the files of the package's versions by name, without importing it."""
    found = find_spec("chgnet")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    files = sorted(file for folder in folders for file in folder.glob("pretrained/*/*.pth.tar"))
    return {file.parent.name: file for file in files}


def _chgnet(model: BlockModel) -> "CHGNet":
    from atomslim.families.chgnet.model import CHGNet  # noqa: PLC0415

    if not isinstance(model, CHGNet):
        raise ConfigError(f"a {type(model).__name__} is not a CHGNet model")
    return model
