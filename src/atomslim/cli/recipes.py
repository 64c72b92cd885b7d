"""`atomslim recipes`: configurations to start from."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.terminal import say

recipes = App(
    name="recipes",
    help=("List the included configurations, and copy one to adapt it.\n\nExample: atomslim recipes copy finetune"),
    help_format="plaintext",
)


@recipes.command(name="list")
def list_recipes(*, json: Json = False) -> None:
    """List the recipes: what each does, and the command that runs it.

    Example: atomslim recipes list

    Parameters
    ----------
    json
        Print the result as JSON, for programs.

    """
    from atomslim.recipes import recipes as found

    there = found()
    if json:
        say_json({name: {"does": recipe.head, "file": recipe.file} for name, recipe in there.items()})
    for name, recipe in {} if json else there.items():
        say(f"{name:10} {recipe.head[0]}\n{'':10} {recipe.head[-1]}")
    next_step("recipes", "copy", next(iter(there)))


@recipes.command
def copy(
    name: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Copy a recipe to a file, to adapt and run.

    Example: atomslim recipes copy finetune -o mine.yaml

    Parameters
    ----------
    name
        The recipe, as `atomslim recipes list` names it.
    output
        The file to write; default: its own name in this folder.
    force
        Overwrite an existing file.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.outputs import require_output
    from atomslim.errors import ConfigError, meant
    from atomslim.files import atomic_write
    from atomslim.recipes import recipes as found

    there = found()
    if name not in there:
        raise ConfigError(f"recipe {name}: no such recipe; {meant(name, there)}")
    file = Path(there[name].file) if output is None else output
    require_output(file, (), force=force)
    with atomic_write(file) as temporary:
        temporary.write_text(there[name].text, encoding="utf-8")
    if json:
        say_json({"output": file})
    else:
        say(f"{file}: {there[name].head[0]}")
    next_step(*(file if word == there[name].file else word for word in there[name].command))
