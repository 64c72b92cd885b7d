"""`atomslim demo`: the whole story on the model that comes with the package, in a few minutes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT

STEPS = (
    "Which blocks of atomslim-mini matter, on molecules, reactions, adsorbates and oxides (relevance)",
    "Four of its six blocks are kept; its readout is sliced, or fitted by least squares (prune)",
    "The cut model learns from the full one (distill)",
    "The full and the cut models learn the dynamics of paracetamol, with as many steps each (finetune)",
    "What it costs and what it gains (compare): errors, parameters, FLOPs, speed",
)


def demo(
    *,
    folder: Annotated[Path, Parameter(name=["--folder", "-o"])] = Path("demo"),
    processes: Annotated[int, COUNT] = 1,
    slim: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Run the whole workflow on a small model, from block relevance to a report, in about four minutes.

    With --slim, make a fast student of a small model for one molecule instead, in two to three minutes. Nothing is
    downloaded: the models and their structures are included. Every number is computed in this run.

    Example: atomslim demo --folder demo

    Parameters
    ----------
    folder
        Where to write the models and the report; an interrupted demo continues there.
    processes
        Number of processes for independent parts.
    slim
        The other example: from three structures and a teacher to a fast, validated student, as `atomslim slim` does it.
    json
        Print the result as JSON, for programs.

    """
    if slim:
        _slim(folder, json=json)
        return
    from atomslim import compare, load
    from atomslim.errors import AtomslimError
    from atomslim.memory import keep_freed_memory
    from atomslim.report.console import plain_console
    from atomslim.study.demo import compared, demo_options
    from atomslim.study.study import run_study
    from atomslim.study.summary import sentences

    keep_freed_memory()
    console = plain_console(stderr=json)
    console.rule("atomslim-mini, made smaller")
    for number, step in enumerate(STEPS, start=1):
        console.print(f"{number}. {step}.", highlight=False)
    results = run_study(demo_options(), folder, processes=processes, say=lambda text: console.print(text, style="dim"))
    failed = [cell.name for cell, state in results.board.states().items() if state == "failed"]
    if failed:
        raise AtomslimError(f"{folder}: {failed[0]} failed: read cells/{failed[0]}/error.txt, then run it again")
    models, data, split = compared(results)
    side_by_side = compare({name: load(path) for name, path in models.items()}, data, split=split)
    side_by_side.write(folder / "compare")
    console.rule("what came out")
    console.print(side_by_side)
    for sentence in (*sentences(results), *side_by_side.words()):
        console.print(f"• {sentence}", highlight=False)
    if json:
        say_json({"report": folder / "report.html", "compare": folder / "compare" / "compare.html"})
    console.print(f"\nThe report: {(folder / 'report.html').resolve()}", soft_wrap=True, style="bold")
    console.print(f"The models side by side: {(folder / 'compare' / 'compare.html').resolve()}", soft_wrap=True)
    next_step("relevance", "mini", "molecules=mini:molecules", "-o", "relevance/", "--limit", "32")


def _slim(folder: Path, *, json: bool) -> None:
    """Run the example of a fast student."""
    from atomslim.memory import keep_freed_memory
    from atomslim.report.console import plain_console
    from atomslim.slimming.demo import TEACHER, slim_demo

    keep_freed_memory()
    console = plain_console(stderr=json)
    console.rule(f"a fast student of {TEACHER} for paracetamol")
    done = slim_demo(folder, lambda text: console.print(text, style="dim", highlight=False))
    console.rule("what came out")
    for sentence in done.sentences:
        console.print(f"• {sentence}", highlight=False)
    if json:
        say_json({"model": done.model, "report": done.folder / "report.html"})
    console.print(f"\nThe report: {(done.folder / 'report.html').resolve()}", soft_wrap=True, style="bold")
    next_step("predict", str(done.model), str(folder / "paracetamol.xyz"), "-o", "predicted.extxyz")
