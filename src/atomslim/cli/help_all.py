"""`--help-all`: what `--help` shows, then every option that goes with `--set` or `--option`, each with its default."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import App
from cyclopts.help import HelpEntry, HelpPanel, InlineText
from cyclopts.help.formatters import DefaultFormatter

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

FLAG = "--help-all"

_LETTERS = {str: "STR", int: "INT", float: "FLOAT", bool: "true|false"}
"""Placeholder of a value of a type, as in `--help`."""


def show_all(app: App, words: Sequence[str]) -> None:
    """Print the help of one command, or of all, including the options that only --set or --option reach."""
    chain = app.parse_commands(list(words))[0]
    command = _inner(app, chain)
    below = [name for name in command if not name.startswith("-")]
    app.help_print(list(chain))
    for name in below:
        print()
        show_all(app, [*chain, name])
    if not below:
        for title, entries in _more(chain, command):
            panel = HelpPanel(title=title, format="parameter", entries=entries)
            DefaultFormatter()(app.console, app.console.options, panel)


def in_paragraphs(text: str) -> str:
    """Return a docstring whose paragraphs are single lines, so that a terminal of any width can wrap them."""
    before, heading, parameters = inspect.cleandoc(text).partition("\nParameters\n")
    joined = "\n\n".join(" ".join(paragraph.split()) for paragraph in before.split("\n\n"))
    lines: list[str] = []
    for line in parameters.splitlines():
        if lines and line.startswith("    ") and lines[-1].startswith("    "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return joined + ("\n" if heading else "") + heading + "\n".join(lines)


def unbreak(app: App) -> None:
    """Turn the help of all commands into paragraphs."""
    for name in app:
        if name.startswith("-"):
            continue
        function = app[name].default_command
        if callable(function) and function.__doc__:
            function.__doc__ = in_paragraphs(function.__doc__)
        unbreak(app[name])


def _inner(app: App, chain: Sequence[str]) -> App:
    for name in chain:
        app = app[name]
    return app


def _more(chain: Sequence[str], command: App) -> Iterator[tuple[str, list[HelpEntry]]]:
    """Give the tables of further options, by their titles."""
    if chain and (kind := _options_of(chain[0])) is not None:
        yield "Every option of the run: in a YAML file, or by --set NAME=VALUE", list(_settings(kind))
    names = {name for argument in command.assemble_argument_collection() for name in argument.names}
    if "--option" in names:
        yield "Options of the readers, by --option NAME=VALUE", list(_readers())


def _options_of(command: str) -> "type[BaseModel] | None":
    """Return the options that a command takes from a file."""
    if command == "finetune":
        from atomslim.train.finetune import FinetuneOptions as Options
    elif command == "distill":
        from atomslim.train.distill import DistillOptions as Options  # type: ignore[assignment]
    elif command == "pretrain":
        from atomslim.train.pretrain import PretrainOptions as Options  # type: ignore[assignment]
    elif command == "slim":
        from atomslim.slimming.options import SlimOptions as Options  # type: ignore[assignment]
    elif command == "study":
        from atomslim.study.options import StudyOptions as Options  # type: ignore[assignment]
    else:
        return None
    return Options


def _settings(kind: "type[BaseModel]", prefix: str = "") -> Iterator[HelpEntry]:
    """Give every option by its dotted name; those in a list or table of groups are prefixed by [] or NAME."""
    for name, field in kind.model_fields.items():
        groups = list(_groups(field.annotation))
        if not groups or (prefix + name).count(".") > 2:
            yield _entry(prefix + name, _letters(field.annotation), field.description or "", _default(field))
        for suffix, group in groups:
            yield from _settings(group, f"{prefix}{name}{suffix}.")


def _groups(annotation: Any, suffix: str = "") -> Iterator[tuple[str, "type[BaseModel]"]]:
    """Give the groups of options in a type, each with how it is reached."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not annotation.__name__.startswith("_"):  # a duration, which is written as text
            yield suffix, annotation
        return
    origin = get_origin(annotation)
    suffix += ".NAME" if origin is dict else "[]" if origin in {tuple, list} else ""
    for argument in get_args(annotation):
        yield from _groups(argument, suffix)


def _letters(annotation: Any) -> str:
    """Say how a value of a type is written."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _letters(arguments[0])
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in {Union, UnionType}:
        return "|".join(dict.fromkeys(_letters(one) for one in arguments if one is not NoneType))
    if origin in {tuple, list}:
        return f"[{_letters(arguments[0])}, …]"
    if origin is dict:
        return f"{{NAME: {_letters(arguments[1])}}}"
    return _LETTERS.get(annotation, annotation.__name__.strip("_").upper())


def _default(field: "FieldInfo") -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "to be given"
    return str(value).lower() if isinstance(value, bool) else _shown(value)


def _shown(value: Any) -> str:
    if value in (None, "", (), {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _readers() -> Iterator[HelpEntry]:
    """Give the options of files of structures, then those of each dataset's own reader."""
    from atomslim.data.known import FILES, names, reader_of

    for name in (FILES, *names()):
        yield from _reader(reader_of(name).read, "any file of structures" if name == FILES else name)


def _reader(read: Callable[..., Any], where: str) -> Iterator[HelpEntry]:
    from docstring_parser import parse

    texts = {one.arg_name: " ".join((one.description or "").split()) for one in parse(read.__doc__ or "").params}
    hints = get_type_hints(read)
    for name, parameter in inspect.signature(read).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            text = f"{where}: {texts.get(name, '')}"
            yield _entry(name, _letters(hints[name]), text, _shown(parameter.default))


def _entry(name: str, letters: str, text: str, default: str) -> HelpEntry:
    description = InlineText.from_format(text, format="plaintext")
    return HelpEntry(positive_names=(name,), metavar=letters, description=description, default=default)
