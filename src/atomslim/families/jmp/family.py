"""JMP as a family: its files, names and capabilities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.errors import CheckpointError, ConfigError
from atomslim.families.jmp import embedded
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.models.block_model import BlockModel
from atomslim.models.channels import ChannelLayout, Kept
from atomslim.models.family import Capability, Family, TracedFeatures
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.families.jmp.model import JMP


class JMPConfig(GemNetOCConfig):
    """Sizes of a JMP model, without its tasks."""

    heads_without_bias: tuple[str, ...] = Field(
        default=(), description="heads, as task.target, whose hidden layers have no biases"
    )


class JMPFamily(Family):
    """JMP (arXiv 2310.16802): checkpoints of any size, and the embedded model."""

    name: ClassVar[str] = "jmp"
    title: ClassVar[str] = "JMP"
    weights: ClassVar[str] = "JMP-S and JMP-L from the authors (https://nima.sh/jmp); mini and mini-smooth are included"
    licences: ClassVar[tuple[str, str]] = ("MIT", "mini: MIT; JMP: CC BY-NC 4.0, as its repository states")
    config: ClassVar[type[BaseModel]] = JMPConfig
    graph_settings: ClassVar[type[GraphSettings]] = JMPGraphSettings
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {"fresh heads", "direct forces", "neighbour caps", "packages", "export", "pre-training", "widths"}
    )
    refits: ClassVar[bool] = True
    embedded: ClassVar[tuple[str, ...]] = embedded.NAMES
    rates: ClassVar[Mapping[str, float]] = MappingProxyType(
        {
            "embedding": 0.3,
            "block 1": 0.55,
            "block 2": 0.40,
            "block 3": 0.30,
            "block 4": 0.40,
            "block 5": 0.55,
            "block 6": 0.625,
        }
    )

    def build(self, config: Any, tasks: Sequence[Task]) -> BlockModel:
        """Return a model on the meta device."""
        from atomslim.families.jmp.model import JMP  # noqa: PLC0415 - the model's class names this family

        with torch.device("meta"):
            return JMP(config, tasks)

    def least_tensors(self, config: Any) -> int:
        """Count one tensor for each residual layer."""
        return int(config.least_tensors)

    def configuration(self, model: BlockModel) -> JMPConfig:
        """Return the sizes, and which heads have no biases."""
        jmp = _jmp(model)
        return JMPConfig(**jmp.config.model_dump() | {"heads_without_bias": sorted(jmp.heads_without_bias)})

    def upgrade(self, content: dict[str, Any], version: int) -> dict[str, Any]:
        """In format 1, targets say whether their head has biases."""
        if version > 1:
            return content
        targets = [(task, target) for task in content["tasks"] for target in task.get("targets", ())]
        bare = [f"{task['name']}.{target['name']}" for task, target in targets if not target.pop("bias", True)]
        derived = {f"{task['name']}.{target['name']}" for task, target in targets if _is_derived(target)}
        bare = [name for name in bare if name not in derived]
        return content | {"config": content["config"] | {"heads_without_bias": bare}}

    def details(self, model: BlockModel) -> dict[str, float]:
        """Count the scale factors, and say where nuclei repel each other, if they do."""
        from atomslim.families.jmp.gemnet_oc.scaling import scale_factors, unfitted_scale_factors  # noqa: PLC0415

        repulsion = _jmp(model).config.repulsion
        return {
            "scale_factors": len(scale_factors(model)),
            "unfitted_scale_factors": len(unfitted_scale_factors(model)),
            **({"repulsion_below_this_share_of_covalent_distances": repulsion} if repulsion else {}),
        }

    def notes(self, model: BlockModel) -> list[str]:
        """Say if scale factors are not fitted."""
        unfitted = self.details(model)["unfitted_scale_factors"]
        return [f"{unfitted} of the scale factors are not fitted and act as 1"] if unfitted else []

    def locate(self, name: str) -> Path:
        """Return the file of an embedded model."""
        return embedded.file_of(name)

    def recognises(self, path: Path) -> bool:
        """Look for the names of JMP's tensors."""
        from atomslim.families.jmp.checkpoint import is_jmp  # noqa: PLC0415

        try:
            return is_jmp(path)
        except CheckpointError:
            return False

    def read(self, path: Path, **options: str) -> BlockModel:
        """Read a checkpoint; ``weights`` and ``alias`` as `read_jmp` has them."""
        from atomslim.families.jmp.checkpoint import read_jmp  # noqa: PLC0415

        self.refuse_options(options, ("weights", "alias"))
        return read_jmp(path, **options)  # type: ignore[arg-type]  # it checks the values

    def with_heads(
        self, model: BlockModel, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
    ) -> BlockModel:
        """Return a copy with heads for these tasks only; ``regularisation`` knows dropout and edge_dropout."""
        from atomslim.families.jmp.rehead import with_heads  # noqa: PLC0415

        return with_heads(_jmp(model), tasks, reused, regularisation)

    def traced_features(self, model: BlockModel, task: Task, *, edges: bool) -> TracedFeatures:
        """Return features as steps of dynamics compute them, where that is faster, and else as training does."""
        from atomslim.families.jmp.traced import traced_features  # noqa: PLC0415

        return traced_features(_jmp(model), task, edges=edges)

    def export(self, model: BlockModel, path: Path) -> None:
        """Write a checkpoint for the original program."""
        from atomslim.families.jmp.checkpoint import write_jmp  # noqa: PLC0415

        write_jmp(_jmp(model), path)

    def widths(self, model: BlockModel) -> dict[str, int]:
        """Return the widths of atom and edge features, of messages and of basis functions."""
        from atomslim.families.jmp.channels import widths  # noqa: PLC0415

        return widths(_jmp(model))

    def feature_widths(self, model: BlockModel) -> tuple[str, ...]:
        """Name those of edges and atoms; none where they are one, so that they cannot be cut one by one."""
        return ("edge", "atom") if _jmp(model).config.narrows else ()

    def check_widths(self, model: BlockModel, widths: Mapping[str, int]) -> None:
        """Where atom and edge features have the same channels, they keep the same."""
        chosen = self.widths(model) | dict(widths)
        if not _jmp(model).config.narrows and chosen["atom"] != chosen["edge"]:
            raise ConfigError(
                f"widths atom {chosen['atom']} and edge {chosen['edge']}: this model's atom and edge features are one: "
                "give both the same width"
            )

    def channels(self, model: BlockModel) -> ChannelLayout:
        """Say where the channels are."""
        from atomslim.families.jmp.channels import layout  # noqa: PLC0415

        return layout(_jmp(model))

    def feature_streams(self, model: BlockModel) -> dict[str, str]:
        """Name the streams of atom and edge features and of their readouts."""
        readouts = {f"{branch} readout": f"{branch} readout" for branch in _jmp(model).readout}
        return {"node": "atom", "edge": "edge" if _jmp(model).config.narrows else "atom", **readouts}

    def narrowed(self, model: BlockModel, kept: Kept) -> BlockModel:
        """Return a copy with these channels only."""
        from atomslim.families.jmp.channels import narrowed  # noqa: PLC0415

        return narrowed(_jmp(model), kept)

    def basis_rows(self, model: BlockModel, batch: AtomsBatch, topology: Any) -> dict[str, Tensor]:
        """Return the projections of the radial basis."""
        from atomslim.families.jmp.channels import basis_rows  # noqa: PLC0415

        return basis_rows(_jmp(model), batch, topology)

    def fresh(self, config: Any, tasks: Sequence[Task], regularisation: Mapping[str, float]) -> BlockModel:
        """Return a new model, with an edge branch where a task has direct forces."""
        from atomslim.families.jmp.model import JMP  # noqa: PLC0415

        changes = {"direct_forces": any(task.direct for task in tasks), **regularisation}
        return JMP(config.model_copy(update=changes), tasks)

    def fresh_sizes(self) -> dict[str, tuple[BaseModel, GraphSettings]]:
        """Return sizes from a tenth of those of the embedded models to theirs, with energies that have no steps."""
        graph = JMPGraphSettings(cutoff=6.0, quad=0, symmetrise="invariant", smooth=10.0)
        sizes = [(blocks, width) for width in _WIDTHS for blocks in _BLOCKS]
        return {f"{blocks} x {width}": (_small(blocks, width), graph) for blocks, width in sizes}

    def is_fitted(self, model: BlockModel) -> bool:
        """Say whether all scale factors are fitted."""
        return not self.details(model)["unfitted_scale_factors"]

    def fit(self, model: BlockModel, batch: AtomsBatch, topology: Any) -> None:
        """Fit the scale factors."""
        from atomslim.families.jmp.gemnet_oc.scaling import fit_scale_factors  # noqa: PLC0415

        fit_scale_factors(model, batch, topology)

    def graph(
        self,
        model: BlockModel | None,
        *,
        cutoff: float | None = None,
        neighbours: int | str | None = None,
        usual: tuple[float | None, int | None] = (None, None),
    ) -> GraphSettings:
        """Follow what is usual, or else JMP's pre-training: 12 Å and 30 neighbours; reverse edges as the model's.

        New models take the rule for reverse edges that does not depend on the numbering of the atoms.
        """
        own = None if model is None else next(iter(model.tasks.values())).graph
        symmetrise = own.symmetrise if isinstance(own, JMPGraphSettings) else "invariant"
        if isinstance(neighbours, str):
            smooth = float(neighbours.removeprefix("smooth"))
            return JMPGraphSettings(cutoff=cutoff or usual[0] or 12.0, symmetrise=symmetrise, smooth=smooth)
        return JMPGraphSettings.from_neighbours(cutoff or usual[0] or 12.0, neighbours or usual[1] or 30, symmetrise)


FAMILY = JMPFamily()

_BLOCKS, _WIDTHS = (1, 2, 4), (64, 96, 160)


def _small(blocks: int, width: int) -> JMPConfig:
    """Return sizes of the shape of the embedded models, of which the widest are as large."""
    inner = max(8, width // 10)
    return JMPConfig(
        num_blocks=blocks,
        num_spherical=4,
        num_radial=32,
        emb_size_atom=width,
        emb_size_edge=width * 2 // 5 // 4 * 4,
        emb_size_trip_in=inner,
        emb_size_trip_out=inner,
        emb_size_quad_in=8,
        emb_size_quad_out=8,
        emb_size_aint_in=inner,
        emb_size_aint_out=inner,
        emb_size_rbf=inner,
        emb_size_cbf=8,
        emb_size_sbf=8,
        num_before_skip=1,
        num_after_skip=1,
        num_concat=1,
        num_atom=1,
        num_output_afteratom=1,
        num_atom_emb_layers=1,
        basis_cutoff=6.0,
    )


def _is_derived(target: Mapping[str, Any]) -> bool:
    return bool(target["kind"] == "conservative_forces")


def _jmp(model: BlockModel) -> "JMP":
    from atomslim.families.jmp.model import JMP  # noqa: PLC0415

    if not isinstance(model, JMP):
        raise ConfigError(f"a {type(model).__name__} is not a JMP model")
    return model
