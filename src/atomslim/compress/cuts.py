"""Cuts of one model and their measurements, in memory or kept in a file for the next target."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from atomslim.compress.cutoff import with_cutoff
from atomslim.compress.neighbours import with_neighbours
from atomslim.compress.prune import Model, keep_blocks
from atomslim.compress.width import narrow
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.batches import TaskedData
from atomslim.files import atomic_write
from atomslim.models.family import family_of
from atomslim.parsing import parse_json


@dataclass(frozen=True)
class Cut:
    """Blocks that are kept, finer units that are not, the cutoff (Å), widths and neighbours; None: the model's own."""

    blocks: tuple[int, ...]
    without: tuple[str, ...] = ()
    cutoff: float | None = None
    widths: tuple[tuple[str, int], ...] = ()
    neighbours: int | None = None

    @property
    def in_order(self) -> "Cut":
        """The same for cuts that were made in another order."""
        return replace(self, without=tuple(sorted(self.without)))

    def of(self, model: Model, data: TaskedData | None = None, **options: Any) -> Model:
        """Return the cut model, its blocks and finer units cut first; widths that were removed with these are skipped.

        ``options`` are those of `keep_blocks`; ``data`` is what channels are chosen on. A readout that is fitted to
        forces is so again after widths are cut. Raises ConfigError for a cut of widths without data.
        """
        forces = options.get("realign") == "least-squares-forces"
        whole = forces and self.blocks == model.block_ids and not self.without and self.widths
        first = _without_fit(options) if whole else options
        small = keep_blocks(model, self.blocks, without=self.without, **first)
        if self.cutoff is not None:
            small = with_cutoff(small, self.cutoff)
        there = family_of(small).widths(small) if self.widths and self.without else {}
        widths = {name: size for name, size in self.widths if not there or size < there.get(name, 0)}
        if widths:
            if data is None:
                raise ConfigError("widths are cut on structures: give some")
            names = ("limit", "batch_size", "seed", "directions", "weights")
            given = {name: options[name] for name in names if options.get(name) is not None}
            given |= {"realign": "least-squares-forces"} if forces else {}
            small = narrow(small, widths, data, full=model if self.cutoff is None else None, **given)
        return small if self.neighbours is None else with_neighbours(small, self.neighbours)


@dataclass
class Measured:
    """Differences and costs by cut.

    ``of`` identifies model, data and machine; a file of others is refused.
    """

    of: dict[str, Any] = field(default_factory=dict)
    cuts: dict[Cut, dict[str, float]] = field(default_factory=dict)

    def value(self, cut: Cut, name: str, measure: Callable[[], float]) -> float:
        """Return the measurement of a cut, made now if necessary."""
        known = self.cuts.setdefault(cut.in_order, {})
        if name not in known:
            known[name] = float(measure())
        return known[name]

    @classmethod
    def read(cls, path: Path, of: dict[str, Any]) -> "Measured":
        """Read a file; start empty if there is none.

        Raises DataError for another kind of file, ConfigError for one of another model, data or machine.
        """
        if not path.exists():
            return cls(of)
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            found = cls(dict(content["of"]), dict(map(_entry, content["cuts"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: holds no cuts that were measured: name another file") from error
        wrong = [name for name in of if found.of.get(name) != of[name]]
        if wrong:
            raise ConfigError(
                f"{path}: was measured with {wrong[0]} {found.of.get(wrong[0])}, not {of[wrong[0]]}: name another file"
            )
        return found

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        cuts = [{"cut": asdict(cut), **values} for cut, values in self.cuts.items()]
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"of": self.of, "cuts": cuts}, indent=1) + "\n", encoding="utf-8")


def _without_fit(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of `keep_blocks` that leave the readout sliced."""
    unread = () if options.get("hand_over") else ("calibration",)
    return {name: value for name, value in options.items() if name not in unread} | {"realign": "sliced"}


def _entry(content: dict[str, Any]) -> tuple[Cut, dict[str, float]]:
    given = dict(content["cut"])
    cut = Cut(
        tuple(given["blocks"]),
        tuple(given["without"]),
        given["cutoff"],
        tuple((str(name), int(size)) for name, size in given["widths"]),
        given["neighbours"],
    )
    return cut, {name: float(value) for name, value in content.items() if name != "cut"}
