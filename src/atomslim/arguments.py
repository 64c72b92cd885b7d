"""Arguments and options: one that does not exist, or has the wrong type, is an error of one line with a remedy."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, wraps
from itertools import islice
from numbers import Integral, Real
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ValidationError

from atomslim.errors import ConfigError, meant, one_line
from atomslim.words import article

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which pydantic gives no public name

_LISTS = {Sequence, Iterable, list, tuple, set}

P = ParamSpec("P")
R = TypeVar("R")

LOOKED_AT = 3
"""Items of a list or table whose type is checked; the function itself meets the others."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function raise ConfigError, with suggestions, for arguments that it cannot take."""

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


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """Like `checked`, but looks at arguments only after a call has failed: for what is called for every structure."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            _explain(function, args, kwargs, error)
            raise

    return call


class Explained(type):
    """Metaclass of classes whose objects are made as often; wrong arguments raise ConfigError."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an object."""
        try:
            return super().__call__(*args, **kwargs)
        except TypeError as error:
            _explain(cls.__init__, (None, *args), kwargs, error)  # type: ignore[misc] # the class's own
            raise


class ExplainedModel(ModelMetaclass):
    """Metaclass of pydantic models that users make themselves: errors are a ConfigError of one line."""

    def __call__(self, *args: Any, **fields: Any) -> Any:
        """Make an object."""
        kind = cast("type[BaseModel]", self)
        if args:
            raise ConfigError(f"{kind.__name__}: give values by their names: {', '.join(kind.model_fields)}")
        try:
            return super().__call__(**fields)
        except ValidationError as error:
            raise ConfigError(f"{kind.__name__}: {problem_of(error, kind)}") from error


def _explain(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], error: TypeError) -> None:
    """Raise ConfigError where arguments are not those of a function; an error inside the function passes through."""
    signature = _signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as wrong:
        raise ConfigError(_problem(function, signature, kwargs, wrong)) from error


def _problem(
    function: Callable[..., Any], signature: inspect.Signature, given: Mapping[str, Any], error: TypeError
) -> str:
    known = [name for name in signature.parameters if name not in {"self", "cls"}]
    wrong = [name for name in given if name not in known]
    if wrong:
        return f"{_name(function)}: has no argument {wrong[0]}: {meant(wrong[0], known)}"
    return f"{_name(function)}: {error}: it takes {', '.join(known)}"


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of arguments; Any where a name is imported for type checkers only."""
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
    """Raise ConfigError for a value that an argument certainly cannot take."""
    hint = _hints(function).get(name, Any)
    choices = _choices(hint)
    if choices and isinstance(value, str) and not _takes_text(hint) and value not in choices:
        raise ConfigError(f"{_name(function)}: {name} {value!r}: {meant(value, choices)}")
    if not _fits(value, hint):
        names = " or ".join(dict.fromkeys(_words(part) for part in _parts(hint)))
        raise ConfigError(f"{_name(function)}: {name} is {article(_kind(value))}: give {names}")


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _choices(hint: Any) -> list[str]:
    return [str(choice) for part in _parts(hint) if get_origin(part) is Literal for choice in get_args(part)]


def _takes_text(hint: Any) -> bool:
    return any(part in {str, Any} for part in _parts(hint))


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a value may be of a type; types that cannot be checked, such as those of tensors, count as yes."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return any(_fits(value, part) for part in inner)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin is Literal:
        return any(type(value) is type(choice) for choice in inner)
    if isinstance(hint, TypeVar):
        return hint.__bound__ is None or _fits(value, hint.__bound__)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real)
    return _is(value, origin or hint) and _items_fit(value, origin, inner)


def _is(value: Any, kind: Any) -> bool:
    if kind is Any or not isinstance(kind, type) or kind.__module__.startswith("jaxtyping"):
        return True
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in _members(kind))
    return isinstance(value, kind) and (kind is object or not isinstance(value, bytes | bytearray))


@cache
def _members(protocol: type) -> tuple[str, ...]:
    """Name the members of a protocol, without properties, which may take long."""
    return (*protocol.__annotations__, *({"__len__", "__getitem__"} & vars(protocol).keys()))


def _items_fit(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if not inner or not isinstance(value, Mapping | Sequence | set):
        return True
    if isinstance(value, Mapping):
        return all(_fits(item, inner[1]) for item in islice(value.values(), LOOKED_AT))
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return origin not in _LISTS or all(_fits(item, inner[0]) for item in islice(value, LOOKED_AT))


def _words(hint: Any) -> str:
    """Name a type as an error does: Sequence of Sample."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(inner[0])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if isinstance(hint, TypeVar) and hint.__bound__ is not None:
        return _words(hint.__bound__)
    of = inner[1] if origin in {Mapping, dict} else inner[0] if origin in {Sequence, list, tuple} else None
    name = "None" if hint is NoneType else getattr(origin or hint, "__name__", str(hint))
    return name if of is None or of is Any else f"{name} of {'/'.join(map(_words, _parts(of)))}"


def _kind(value: Any) -> str:
    """Name the type of a value, with that of its items: list of int."""
    name = type(value).__name__
    if not isinstance(value, Mapping | Sequence | set) or isinstance(value, str | bytes) or not value:
        return name
    return f"{name} of {type(next(iter(value.values() if isinstance(value, Mapping) else value))).__name__}"


# -- options


def problem_of(error: ValidationError, kind: type[BaseModel]) -> str:
    """Return the first complaint about options of a kind; an unknown name comes first, with similar ones."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), None)
    if first is None:
        return first_problem(error).removeprefix(": ").replace("Value error, ", "")
    location = tuple(map(str, first["loc"]))
    return unknown(".".join(location), location, kind)


def unknown(name: str, location: tuple[str, ...], kind: type[BaseModel]) -> str:
    """Say that there is no such option, and suggest one, in whatever group it is."""
    fields = dict(_fields(_group(location[:-1], kind)))
    same = [dotted for dotted in fields if dotted.rpartition(".")[2] == location[-1]]
    near = get_close_matches(location[-1], fields, n=2, cutoff=0.6)
    elsewhere = [dotted for dotted, _ in _fields(kind) if dotted.rpartition(".")[2] == location[-1]]
    if near and not same:
        prefix = "".join(f"{part}." for part in location[:-1])
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


def _group(location: tuple[str, ...], kind: type[BaseModel]) -> type[BaseModel]:
    """Find the group of options that a location is in; numbers and free names lead into lists and tables."""
    for part in location:
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
