"""Arguments and options: one that there is not, or of a wrong type, is an error of one line with a remedy."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, wraps
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from atomslim.errors import ConfigError, meant, one_line

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (str, int, float, bool, NoneType, os.PathLike, Sequence, Mapping)
"""Types that are checked; a function itself looks at all others."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function raise ConfigError, with what may be meant, for arguments that it cannot take."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        signature = _signature(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ConfigError(_problem(function, signature, kwargs, error)) from error
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind not in {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
                _require(function, name, value)
        return function(*args, **kwargs)

    return call


def _problem(
    function: Callable[..., Any], signature: inspect.Signature, given: Mapping[str, Any], error: TypeError
) -> str:
    known = [name for name in signature.parameters if name != "self"]
    wrong = [name for name in given if name not in known]
    if wrong:
        return f"{_name(function)}: has no argument {wrong[0]}: {meant(wrong[0], known)}"
    return f"{_name(function)}: {error}: it takes {', '.join(known)}"


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of arguments; Any where a name is known to type checkers only."""
    return {name: _hint(function, name) for name in function.__annotations__}


def _hint(function: Callable[..., Any], name: str) -> Any:
    alone = SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        return get_type_hints(alone, function.__globals__)[name]
    except NameError:
        return Any


def _name(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _require(function: Callable[..., Any], name: str, value: Any) -> None:
    """Raise ConfigError for a value that is surely none of what an argument takes."""
    hint = _hints(function).get(name, Any)
    choices = _choices(hint)
    if choices and isinstance(value, str) and not _takes_text(hint) and value not in choices:
        raise ConfigError(f"{_name(function)}: {name} {value!r}: {meant(value, choices)}")
    kinds = _kinds(hint)
    if kinds is not None and not isinstance(value, kinds):
        names = " or ".join(dict.fromkeys("None" if kind is NoneType else kind.__name__ for kind in kinds))
        raise ConfigError(f"{_name(function)}: {name} is a {type(value).__name__}: give {names}")


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _choices(hint: Any) -> list[str]:
    return [str(choice) for part in _parts(hint) if get_origin(part) is Literal for choice in get_args(part)]


def _takes_text(hint: Any) -> bool:
    return any(part in {str, Any} for part in _parts(hint))


def _kinds(hint: Any) -> tuple[type, ...] | None:
    """Return the types that a hint allows; None where one of them is not plain."""
    found: list[type] = []
    for part in _parts(hint):
        kind = get_origin(part) or part
        if kind is Literal:
            found += [type(choice) for choice in get_args(part)]
        elif kind in _PLAIN:
            found += [int, float] if kind is float else [kind]
        else:
            return None
    return tuple(found)


# -- options


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


def first_problem(error: Exception) -> str:
    """Return the first of a validation's complaints in one line."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
