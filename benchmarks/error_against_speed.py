"""Draw the README's figure, error against speed, from the tables of docs/results/families.md.

    python benchmarks/error_against_speed.py    # writes docs/results/error-against-speed.png

Nothing is measured here: both numbers of every point stand in the page, which says how they were measured.
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/results/families.md"
FIGURE = ROOT / "docs/results/error-against-speed.png"

FAMILIES = ("SevenNet-0", "CHGNet")


def points(page: str) -> dict[str, list[tuple[str, float, float]]]:
    """Return cuts of each family as (name, times as fast, RMSE of forces in % of the RMS force), slowest first."""
    errors = _errors(_rows(page, "of the RMS force | fitted to features only"))
    speeds = _speeds(_rows(page, "| model | ms | times as fast"))
    found = {
        family: [(cut, speed, errors[family, cut]) for cut, speed in speeds[family].items() if (family, cut) in errors]
        for family in FAMILIES
    }
    return {family: sorted(cuts, key=lambda cut: cut[1]) for family, cuts in found.items()}


def _rows(page: str, head: str) -> list[list[str]]:
    """Return the cells of the table that has a head."""
    table = page[page.index(head) :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table]


def _errors(rows: list[list[str]]) -> dict[tuple[str, str], float]:
    found = {}
    for name, _, _, share, _ in rows:
        family, cut = re.split(r",? (?=blocks|without)", name, maxsplit=1)
        found[family, cut] = float(share.removesuffix(" %"))
    return found


def _speeds(rows: list[list[str]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    family = ""
    for name, _, times, _ in rows:
        if name in FAMILIES:
            family = name
            found[family] = {}
        else:
            found[family][name] = float(times.split()[0])
    return found


LABELS = {
    "blocks 1–4": (4, 12),
    "without angles 1 and 2": (-8, -3),
    "without bonds 3, angles 1 and 2": (7, -12),
}
"""Where the names of points stand beside them, in points of print; others above, on the right."""


def draw(cuts: dict[str, list[tuple[str, float, float]]]) -> Figure:
    """Draw the cuts of each family; a line joins those that leave out one block after the other."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for family, colour, marker in zip(FAMILIES, ("#3949ab", "#e65100"), "os", strict=True):
        blocks = [(1.0, 0.0), *((speed, error) for name, speed, error in cuts[family] if name.startswith("blocks"))]
        axes.plot(*zip(*blocks, strict=True), "-", color=colour, alpha=0.5)
        axes.plot(*zip(*(cut[1:] for cut in cuts[family]), strict=True), marker, color=colour, label=family)
        for name, speed, error in cuts[family]:
            offset = LABELS.get(name, (7, 6))
            style = {"fontsize": 7, "color": colour, "ha": "right" if offset[0] < 0 else "left"}
            axes.annotate(name, (speed, error), offset, textcoords="offset points", **style)
    axes.plot(1.0, 0.0, "k*", label="the full models")
    axes.set(xscale="log", xlabel="times as fast as the full model", ylabel="error of forces, % of their RMS")
    axes.set_xticks([1, 2, 3, 4, 5, 6], ["1", "2", "3", "4", "5", "6"])
    axes.set_xlim(0.62, 8)
    axes.set_ylim(-0.3, 7)
    axes.minorticks_off()
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    draw(points(PAGE.read_text(encoding="utf-8"))).savefig(FIGURE, dpi=160)
    print(f"{FIGURE}: written")
