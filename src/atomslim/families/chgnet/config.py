"""What a CHGNet model is built from: the arguments of the package's own class, and which updates there are."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Widths = int | tuple[int, ...] | None

Norm = Literal["layer"] | None
"""Batch normalisation is excluded: a structure's results must not depend on what else is in the batch."""


class CHGNetConfig(BaseModel):
    """Sizes and kinds of layers, under the package's names; see its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    atom_fea_dim: int = Field(default=64, ge=1, description="width of the features of atoms")
    bond_fea_dim: int = Field(default=64, ge=1, description="width of the features of bonds")
    angle_fea_dim: int = Field(default=64, ge=1, description="width of the features of angles")
    num_radial: int = Field(default=31, ge=1, description="radial functions of a bond")
    num_angular: int = Field(default=31, ge=1, description="functions of an angle, an odd number")
    bond_updates: tuple[bool, ...] = Field(default=(True, True, True, False), description="blocks that update bonds")
    angle_updates: tuple[bool, ...] = Field(default=(True, True, False, False), description="blocks that update angles")
    atom_conv_hidden_dim: Widths = Field(default=64, description="hidden layers of the update of atoms")
    bond_conv_hidden_dim: Widths = Field(default=64, description="hidden layers of the update of bonds")
    angle_layer_hidden_dim: Widths = Field(default=0, description="hidden layers of the update of angles")
    conv_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in the updates")
    conv_norm: Norm = Field(default=None, description="normalisation of what has been updated")
    gMLP_norm: Norm = Field(default="layer", description="normalisation in the gated networks")  # noqa: N815
    mlp_out_bias: bool = Field(default=False, description="whether the last layer of an update has a bias")
    non_linearity: str = Field(default="silu", description="activation")
    read_out: str = Field(default="ave", description="how atoms make up a structure if that precedes the head")
    num_heads: int = Field(default=3, ge=1, description="heads of the attention of ``read_out``")
    mlp_first: bool = Field(default=True, description="whether the head is applied to atoms, and their energies added")
    readout_norm: Norm = Field(default="layer", description="normalisation before the head")
    final_mlp: str = Field(default="MLP", description="kind of head")
    mlp_hidden_dims: Widths = Field(default=(64, 64, 64), description="hidden layers of a head")
    mlp_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in a head")
    atom_graph_cutoff: float = Field(default=6.0, gt=0, description="length of the longest bonds in Å")
    bond_graph_cutoff: float = Field(default=3.0, gt=0, description="the same of bonds that make angles")
    cutoff_coeff: int | float = Field(default=8, ge=0, description="power of the radial functions' cutoff")
    learnable_rbf: bool = Field(default=True, description="whether frequencies of the functions are learned")

    @field_validator("conv_norm", "gMLP_norm", "readout_norm", mode="before")
    @classmethod
    def _as_the_package_reads_it(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept the package's words; it ignores unknown ones."""
        if not isinstance(value, str):
            return value
        if value.lower() == "batch":
            raise ValueError(f"{info.field_name} {value!r}: normalisation over batches is not supported")
        return "layer" if value.lower() == "layer" else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.bond_updates) != len(self.angle_updates):
            raise ValueError(f"{len(self.bond_updates)} and {len(self.angle_updates)} updates: give one for each block")
        if self.num_angular % 2 == 0:
            raise ValueError(f"num_angular {self.num_angular}: give an odd number")
        return self

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.bond_updates)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the package's class for a model with all layers of this one."""
        own = self.model_dump(exclude={"bond_updates", "angle_updates"})
        lists = {name: list(value) for name, value in own.items() if isinstance(value, tuple)}
        updates = {"update_bond": any(self.bond_updates), "update_angle": any(self.angle_updates)}
        return own | lists | updates | {"n_conv": self.num_blocks, "composition_model": None}


def of_arguments(arguments: dict[str, Any], *, output_bias: bool) -> CHGNetConfig:
    """Parse the model arguments of a checkpoint; raises ValueError for invalid ones.

    Missing arguments take the package's defaults; those that the package ignores are ignored.
    """
    known = {name: value for name, value in arguments.items() if name in CHGNetConfig.model_fields}
    blocks = arguments.get("n_conv", 4)
    if type(blocks) is not int or blocks < 1:
        raise ValueError(f"n_conv {blocks!r}: expected a number of blocks")
    bonds = bool(arguments.get("update_bond", True))
    angles = bonds and bool(arguments.get("update_angle", True))
    return CHGNetConfig(
        **known
        | {
            "mlp_out_bias": output_bias,
            "bond_updates": read_updates([bonds] * blocks, [angles] * blocks)[0],
            "angle_updates": read_updates([bonds] * blocks, [angles] * blocks)[1],
        }
    )


def read_updates(bonds: Sequence[bool], angles: Sequence[bool]) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Leave out the updates that nothing reads: of bonds by a later block, of angles by a later update of bonds."""
    last = len(bonds) - 1
    read_bonds = tuple(there and block < last for block, there in enumerate(bonds))
    read_angles = tuple(there and any(read_bonds[block + 1 :]) for block, there in enumerate(angles))
    return read_bonds, read_angles


Composition = Literal["add", "leave out"]
"""Whether a checkpoint's composition model, an energy per element, is part of every energy."""
