"""Possible students: cuts of the teacher, embedded models and their cuts, models with random weights.

Nothing is timed here.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ase import Atoms
from ase.data import chemical_symbols

from atomslim.errors import AtomslimError, ConfigError
from atomslim.labelling.teachers import Source, Teacher
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.model_file import load
from atomslim.models.registry import families
from atomslim.slimming.recipe import Forces, Recipe, unknown_elements

Kind = Literal["cut of the teacher", "embedded model", "from scratch"]

CUTOFFS = (None, 0.8)
"""Cutoffs as fractions of the teacher's own, for families that support shorter ones."""


@dataclass(frozen=True)
class Wanted:
    """A student that could be timed, or the reason why there is none."""

    name: str
    kind: Kind
    recipe: Recipe
    start: BlockModel | None = None
    """The model that the recipe starts from."""
    refused: str = ""


def wanted(structures: Sequence[Atoms], source: Source, teacher: Teacher, forces: Forces) -> Iterator[Wanted]:
    """List students for some structures, those of the teacher first."""
    elements = {number for atoms in structures for number in atoms.numbers.tolist()}
    yield from _of_teacher(source, teacher, forces, elements)
    for one in families():
        for name in one.embedded:
            if name != teacher.name:
                yield from _whole_and_cut(name, "embedded model", load(name), forces, elements)
    yield from _from_scratch(forces)


def _of_teacher(source: Source, teacher: Teacher, forces: Forces, elements: set[int]) -> Iterator[Wanted]:
    refuse = partial(Wanted, f"cuts of {teacher.name}", "cut of the teacher", Recipe(teacher.name, forces))
    if not isinstance(source, BlockModel) and (teacher.recipe is None or "model" not in teacher.recipe):
        yield refuse(refused="a calculator, of no family whose models can be cut")
        return
    try:
        model = source if isinstance(source, BlockModel) else load(teacher.name)
    except (AtomslimError, OSError) as error:
        yield refuse(refused=str(error))
        return
    yield from _whole_and_cut(teacher.name, "cut of the teacher", model, forces, elements)


def _whole_and_cut(name: str, kind: Kind, model: BlockModel, forces: Forces, elements: set[int]) -> Iterator[Wanted]:
    refused = _problem(model, forces, elements)
    whole = Recipe(name, forces, blocks=model.block_ids)
    if refused:
        yield Wanted(name if kind == "embedded model" else f"cuts of {name}", kind, whole, refused=refused)
        return
    if kind == "embedded model":
        yield Wanted(name, kind, whole, model)
    for recipe in _cuts(model, whole, with_cutoffs=kind == "cut of the teacher"):
        yield Wanted(_named(recipe, model), kind, recipe, model)


def _problem(model: BlockModel, forces: Forces, elements: set[int]) -> str:
    """Say why students cannot start from a model, or nothing."""
    unknown = unknown_elements(model, elements)
    if unknown:
        return f"was not trained on {', '.join(chemical_symbols[number] for number in sorted(unknown))}"
    if forces == "direct":
        with suppress(ConfigError):
            family_of(model).require("direct forces")
            return "" if any(task.direct for task in model.tasks.values()) else "has no direct forces to start with"
        return "its family has no direct forces"
    return ""


def _cuts(model: BlockModel, whole: Recipe, *, with_cutoffs: bool) -> Iterator[Recipe]:
    """Leave out the last blocks, all finer units, long edges, and combinations."""
    able = with_cutoffs and "shorter cutoff" in family_of(model).capabilities
    own = min(task.graph.cutoff for task in model.tasks.values())
    for count in range(model.num_blocks, 0, -1):
        kept = model.block_ids[:count]
        units = model.with_blocks(range(1, count + 1)).fine_units if model.fine_units else ()
        for without in ((), units) if units else ((),):
            for share in CUTOFFS if able else (None,):
                cutoff = None if share is None else round(share * own, 2)
                recipe = Recipe(whole.start, whole.forces, blocks=kept, without=without, cutoff=cutoff)
                if recipe != whole:
                    yield recipe


def _named(recipe: Recipe, model: BlockModel) -> str:
    blocks = len(recipe.blocks or ())
    kept = f"{blocks} of {model.num_blocks} blocks" if blocks < model.num_blocks else ""
    units = f"without its {len(recipe.without)} finer units" if recipe.without else ""
    cutoff = f"cutoff {recipe.cutoff:g} Å" if recipe.cutoff is not None else ""
    return ", ".join(filter(None, (recipe.start, kept, units, cutoff)))


def _from_scratch(forces: Forces) -> Iterator[Wanted]:
    for one in families():
        for size in one.fresh_sizes():
            yield Wanted(f"random, {size}", "from scratch", Recipe(f"{one.name} {size}", forces, fresh=True))
