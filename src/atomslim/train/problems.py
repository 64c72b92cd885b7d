"""What is wrong with options, in one line, and what may have been meant."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from atomslim.models.metadata import first_problem


def problem_of(error: ValidationError, kind: type[BaseModel]) -> str:
    """Return the first complaint about options of a kind; for a name that there is not, with the nearest ones."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] != "extra_forbidden":
        return first_problem(error).removeprefix(": ").replace("Value error, ", "")
    place = tuple(map(str, first["loc"]))
    return unknown(".".join(place), place, kind)


def unknown(name: str, place: tuple[str, ...], kind: type[BaseModel]) -> str:
    """Say that there is no such option, and which one may be meant, wherever it belongs."""
    fields = dict(_fields(_group(place[:-1], kind)))
    same = [dotted for dotted in fields if dotted.rpartition(".")[2] == place[-1]]
    near = get_close_matches(place[-1], fields, n=2, cutoff=0.6)
    elsewhere = [dotted for dotted, _ in _fields(kind) if dotted.rpartition(".")[2] == place[-1]]
    if near and not same:
        prefix = "".join(f"{part}." for part in place[:-1])
        found = [prefix + match for match in near]
    else:
        found = elsewhere
    return f"there is no option {name[:80]}" + (f": did you mean {' or '.join(found)}?" if found else "")


def _fields(kind: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Give every option by its dotted name, those of groups after the group's own."""
    for name, field in kind.model_fields.items():
        yield name, field
        for inner in _models(field.annotation):
            yield from ((f"{name}.{below}", found) for below, found in _fields(inner))


def _group(place: tuple[str, ...], kind: type[BaseModel]) -> type[BaseModel]:
    """Find the group of options that a place is in; numbers and free names lead into lists and tables."""
    for part in place:
        if part in kind.model_fields:
            kind = next(_models(kind.model_fields[part].annotation), kind)
    return kind


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not annotation.__name__.startswith("_"):  # a duration, which is written as text
            yield annotation
        return
    for argument in get_args(annotation):
        yield from _models(argument)
