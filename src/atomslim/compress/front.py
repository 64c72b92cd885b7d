"""The Pareto front of cost and difference: a table and a figure."""

from pathlib import Path

from matplotlib.figure import Figure

from atomslim.compress.choice import Choice
from atomslim.compress.costs import words
from atomslim.compress.cuts import Cut
from atomslim.files import atomic_write

FRONT, OTHERS, CHOSEN = "#0072b2", "#999999", "#d55e00"
"""Colours for any colour vision (Okabe and Ito)."""


def write_front(choice: Choice, folder: Path) -> None:
    """Write ``front.md`` and ``front.png`` into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "front.md") as temporary:
        temporary.write_text(table(choice), encoding="utf-8")
    with atomic_write(folder / "front.png") as temporary:
        draw(choice).savefig(temporary, format="png", dpi=150)


def table(choice: Choice) -> str:
    """Return the front as Markdown, the chosen cut marked."""
    rows = [
        f"| {'**chosen**' if one.cut == choice.cut else ''} | {described(one.cut, choice)} | "
        f"{words(one.count, choice.counted)} | {choice.whole / one.count:.2f} × | {one.difference:.1%} |"
        for one in choice.front()
    ]
    head = ("| | cut | cost | less | from the full model |", "|---|---|---|---|---|")
    return "\n".join((f"For {choice.target}, of {len(choice.tried)} cuts measured:\n", *head, *rows)) + "\n"


def described(cut: Cut, choice: Choice) -> str:
    """Describe what a cut keeps and leaves out."""
    whole = choice.tried[0].cut
    parts = [f"blocks {', '.join(map(str, cut.blocks)) or 'none'}"] if cut.blocks != whole.blocks else []
    parts += [f"without {unit}" for unit in cut.without]
    parts += [f"{name} {size}" for name, size in cut.widths]
    parts += [f"{cut.neighbours} neighbours"] if cut.neighbours is not None else []
    parts += [f"cutoff {cut.cutoff:g} Å"] if cut.cutoff is not None else []
    return "; ".join(parts) or "nothing left out"


def draw(choice: Choice) -> Figure:
    """Draw the difference against the cost of everything measured, the front as a line."""
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    front = choice.front()
    shares, differences = ([one.count / choice.whole for one in front], [100 * one.difference for one in front])
    axes.scatter(
        [one.count / choice.whole for one in choice.tried],
        [100 * one.difference for one in choice.tried],
        s=12,
        color=OTHERS,
        label="measured",
    )
    axes.plot(shares, differences, "o-", markersize=4, color=FRONT, label="Pareto front")
    axes.plot([choice.count / choice.whole], [100 * choice.difference], "D", color=CHOSEN, label="chosen")
    axes.set_xlabel(f"fraction of the full model's {choice.counted}")
    axes.set_ylabel("from the full model before re-alignment (%)")
    axes.legend(frameon=False)
    return figure
