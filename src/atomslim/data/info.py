"""What a reader says about its dataset: source, licence, citation, units, variants, graph settings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RemoteFile(_Frozen):
    """One file to download; without a checksum the first download is recorded, not verified."""

    url: str = Field(description="where it is downloaded from")
    name: str = Field(default="", description="file name under <root>/<dataset>/; empty: the last part of the URL")
    sha256: str | None = Field(default=None, description="checksum, hexadecimal")
    md5: str | None = Field(default=None, description="checksum, hexadecimal, where the source publishes only this")
    bytes: int | None = Field(default=None, description="size")
    unpack: bool = Field(default=False, description="a zip or tar archive whose members are unpacked beside it")

    @property
    def filename(self) -> str:
        """Name of the file on disk."""
        return self.name or self.url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


class Variant(_Frozen):
    """One part or one target of a dataset: `aspirin` of rMD17, `U0` of QM9."""

    name: str = Field(default="", description="the part after the colon of `rmd17:aspirin`; empty: the whole dataset")
    targets: tuple[str, ...] = Field(description='names of the targets, such as ("energy", "forces")')
    count: int | None = Field(default=None, description="number of structures as published")
    files: tuple[RemoteFile, ...] = Field(default=(), description="what to download; empty: by hand, see the note")
    path: str = Field(default="", description="what `read` is given, relative to <root>/<dataset>/; empty: that folder")


class DatasetInfo(_Frozen):
    """A dataset: everything that `atomslim data list` shows, and its graph settings as plain numbers."""

    name: str = Field(description="short name, as in `rmd17:aspirin`")
    title: str
    homepage: str
    licence: str
    citation: str
    level_of_theory: str
    units_in_file: str = Field(description='such as "kcal/mol, Å"')
    note: str = Field(default="", description="conversions and anything else done on the way in")
    variants: tuple[Variant, ...]
    units: dict[str, str] = Field(
        default_factory=dict, description="unit of a target as `read` gives it, where it is not eV, eV/Å or eV/Å³"
    )
    labels: tuple[str, ...] | Literal["all"] = Field(
        default=(), description="targets that are binary labels; all: every one"
    )
    cutoff: float = Field(default=12.0, description="Å, as in published models; families may use it")
    neighbours: int = Field(default=30, description="neighbour cap of published models; also used to estimate costs")
    periodic: bool = False

    def is_label(self, name: str) -> bool:
        """Say whether a target is a binary label."""
        return self.labels == "all" or name in self.labels

    def variant(self, name: str) -> Variant | None:
        """The variant of a name (upper and lower case do not matter), or None."""
        return next((variant for variant in self.variants if variant.name.lower() == name.lower()), None)
