"""Arguments of public functions: one that there is not, or of a wrong type, is an error of one line with a remedy."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from atomslim.errors import ConfigError, meant

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
    """Return the types of arguments; none where a name is known to type checkers only."""
    try:
        return get_type_hints(function)
    except NameError:
        return {}


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
