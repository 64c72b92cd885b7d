"""`atomslim models`: the models that can be used."""

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.terminal import say


def models(*, json: Json = False) -> None:
    """List the model families, the embedded models, and where to get weights.

    Example: atomslim models

    Parameters
    ----------
    json
        Print the result as JSON, for programs.

    """
    from atomslim.models.elsewhere import FAMILIES
    from atomslim.models.registry import families

    there = list(families())
    if json:
        rows = {
            one.name: {
                "title": one.title,
                "embedded": one.embedded,
                "weights": one.weights,
                "licence of code": one.licences[0],
                "licence of weights": one.licences[1],
                "package": one.package,
                "installed": one.installed(),
                "can": sorted(one.capabilities),
            }
            for one in there
        }
        say_json({"families": rows, "teachers only": {one.title: one.teacher for one in FAMILIES}})
    else:
        for one in there:
            needs = f"needs pip install 'atomslim[{one.extra or one.name}]'"
            state = "ready" if one.package is None else f"{one.package} {one.installed()}" if one.installed() else needs
            say(f"{one.title} ({state})\n  weights: {one.weights}")
            say(f"  licences: code {one.licences[0]}; weights {one.licences[1]}")
            say(f"  can do: {', '.join(sorted(one.capabilities)) or 'cuts and training only'}")
        say(f"As teachers only: {'; '.join(one.title for one in FAMILIES)}; any ASE calculator (ase:MODULE:CLASS)")
    next_step("info", "mini")
