"""Tables of a study, as rows of texts: the report writes them as HTML, `report.md` as Markdown."""

from dataclasses import replace

from atomslim.benchmarking.turns import BOUND, Gain
from atomslim.compress.block_scores import SCORES
from atomslim.report.page import TextTable, number
from atomslim.study import paper
from atomslim.study.names import PAPER, label
from atomslim.study.options import DownstreamOptions
from atomslim.study.results import MEASURES, Results, Variant
from atomslim.study.runner import State
from atomslim.validation.columns import NOTE, column_table

_STATES: dict[State, str] = {
    "done": "done",
    "failed": "failed",
    "running": "not finished",
    "waiting": "waits for another",
    "blocked": "needs a cell that failed",
}

_MODES = {"energy": "energies without forces", "forces": "energies and forces"}

_SEEDS = "± is the standard deviation over seeds; a number without it is from one run."


def units(results: Results) -> TextTable | None:
    """Relevance of finer units; None if there are none or it was not measured."""
    found = (results.relevance or {}).get("units", {})
    scores = found.get("mix", {})
    if not scores:
        return None
    rows = [
        (unit, *("" if (value := scores[name][index]) is None else f"{value:.3f}" for name in scores))
        for index, unit in enumerate(found["names"])
    ]
    return TextTable(
        "Finer units",
        "By gradients, fractions of the sum over blocks, added to theirs; leave-out: relative change of the errors.",
        ("unit", *(SCORES[name] for name in scores)),
        tuple(rows),
    )


def pretraining(results: Results) -> TextTable:
    """Force errors on the pre-training tasks by strategy and blocks, as in the paper's Table 1."""
    rows = []
    for variant in results.variants:
        errors = (_text(results.reduced(variant, task)) for task in results.tasks)
        rows.append((label(variant), _millions(results, variant), *errors))
    nothing = [results.nothing(task) for task in results.tasks]
    if any(nothing):
        rows.append(("no forces at all", "", *map(_text, nothing)))
    return TextTable(
        "Pruning and distillation, on the pre-training tasks",
        f"Force MAE in meV/Å on the validation sets. {_SEEDS} {PAPER}",
        ("variant", "M parameters", *results.tasks),
        tuple(rows),
    )


def shares(results: Results) -> TextTable | None:
    """Relative force errors, beside the speed-up; None while neither is known."""
    rows = []
    for variant in results.variants[1:]:
        found = [results.share(variant, task) for task in results.tasks]
        if any(found):
            rows.append((label(variant), str(results.gain(variant) or ""), *map(_text, found)))
    if not rows:
        return None
    return TextTable(
        "Error against speed",
        "Root mean square error of forces on the validation sets, in per cent of that of predicting no forces, and "
        f"the speed-up of the cut. {_SEEDS}",
        ("variant", "speed-up", *results.tasks),
        tuple(rows),
    )


def growth(results: Results) -> TextTable:
    """Force errors relative to the full model's, ours and the paper's, and the fraction recovered."""
    comparable = results.blocks in {None, paper.BLOCKS}
    rows = []
    for variant in results.variants[1:]:
        theirs = paper.growth(variant.strategy, variant.blocks) if comparable and variant.blocks is not None else None
        shares = (_percent(results.recovered(variant, task)) for task in results.tasks)
        rows.append((label(variant), _times(results.growth(variant)), _times(theirs), *shares))
    return TextTable(
        "The cost of a cut, and the fraction recovered",
        "Force error as a multiple of the full model's (geometric mean over tasks), here and in the paper's Table 1 "
        "(JMP-L on its own data, so compare the trend); then the fraction of what slicing added that a variant "
        "removes again: 100 % is the full model, 0 % the sliced one, negative is worse.",
        ("variant", "× full, here", "× full, paper", *(f"recovered, {task}" for task in results.tasks)),
        tuple(rows),
    )


def published(results: Results) -> TextTable:
    """The paper's Table 1."""
    del results
    rows = [
        (label(Variant(strategy, None if strategy == "full" else count)), *(number(value) for value in values))
        for strategy, by_blocks in paper.FORCE_MAE.items()
        for count, values in by_blocks.items()
    ]
    return TextTable(
        "The paper's Table 1",
        f"Force MAE in meV/Å of JMP-L, 6 blocks, on its own data (arXiv 2504.19538). {PAPER}",
        ("variant", *paper.TASKS),
        tuple(rows),
    )


def downstream(results: Results) -> TextTable:
    """Test errors after fine-tuning under equal budgets, as in the paper's Fig. 3."""
    parts = results.options.downstream
    variants = dict.fromkeys(variant for part in parts for variant in results.tuned_variants(part))
    rows = [(label(variant), *(_text(results.tuned(part, variant)) for part in parts)) for variant in variants]
    labels = any(results.unit(part) in MEASURES for part in parts)
    what = "MAE (for binary labels, the named metric)" if labels else "MAE"
    means = [results.mean_baseline(part) for part in parts]
    if any(means):
        rows.append(
            (
                f"predicting the {'mean or base rate' if labels else 'mean'}, validation",
                *("" if mean is None else number(mean) for mean in means),
            )
        )
    known = [_long_recipe(part, results.unit(part)) for part in parts]
    if any(known):
        rows.append(("the whole JMP-L, its own long recipe", *known))
    return TextTable(
        "Fine-tuned under equal budgets",
        f"Test {what} of the model with the best validation; every variant of a dataset has the same budget. {_SEEDS} "
        f"{paper.FIGURE_3}{''.join(f' {_steps(results, part)}' for part in parts if 'budget' in part.finetune)}",
        ("variant", *(f"{part.name}, {part.target} ({results.unit(part)})" for part in parts)),
        tuple(rows),
    )


def efficiency(results: Results) -> TextTable | None:
    """Throughput, FLOPs and parameters by blocks, as in the paper's Table 2; None until they are measured."""
    found = results.speed
    if found is None:
        return None
    what = _MODES[found.get("mode", "forces")]
    rows = [
        (
            blocks,
            number(row["structures per second"]),
            str(results.speed_up.get(int(blocks), "")),
            number(row["flops"] / 1e9),
            number(row["parameters"] / 1e6),
            *(_paper_efficiency(int(blocks)) if results.blocks == paper.BLOCKS else ()),
        )
        for blocks, row in sorted(found["models"].items(), key=lambda pair: -int(pair[0]))
    ]
    theirs_none = ("",) * (4 if results.blocks == paper.BLOCKS else 0)
    for name, row in found.get("finer", {}).items():
        gain = Gain.read(row["speed-up"])
        numbers = row["structures per second"], row["flops"] / 1e9, row["parameters"] / 1e6
        rate, flops, millions = map(number, numbers)
        rows.append((_finer_name(results, name), rate, str(gain), flops, millions, *theirs_none))
    columns = ("blocks", "samples/s", "speed-up", "GFLOPs", "M parameters")
    theirs = tuple(f"paper: {name}" for name in columns[1:]) if results.blocks == paper.BLOCKS else ()
    return TextTable(
        "Efficiency",
        f"One structure ({found['structure']}) after the other on {found['machine']}: {what}, graphs included. Times "
        f"are the shortest of many, speed-ups have their spread and are unclear where it exceeds ± {BOUND:.0%}. GFLOPs "
        "are those of matrix products, multiply and add counted as two. Parameters are those of the pre-trained model "
        "with all its heads. The paper's Table 2: JMP-L fine-tuned on QMOF, a V100.",
        columns + theirs,
        tuple(rows),
    )


def physics(results: Results) -> TextTable | None:
    """Outcomes of the physics checks of each variant, beside its errors; None until some are made."""
    rows = {}
    for variant in results.variants:
        if found := results.physics(variant):
            size = {"force error, × full": _times(results.growth(variant))} if results.tasks else {}
            rows[label(variant)] = size | found
    if not rows:
        return None
    note = f"The full model alone, the others against it; the first seed. {NOTE}"
    return replace(column_table(rows, "variant", note), title="Where it stops being physical")


def failures(results: Results) -> TextTable | None:
    """Cells without a result, and why; None if there are none."""
    board = results.board
    rows = [(cell.name, _STATES[state], board.error(cell)) for cell, state in board.states().items() if state != "done"]
    note = "They are tried again when the study is run again."
    return TextTable("Cells without a result", note, ("cell", "state", "reason"), tuple(rows)) if rows else None


def _finer_name(results: Results, name: str) -> str:
    return f"without {name}" if name in results.options.without else f"cutoff {float(name):g} Å"


def _paper_efficiency(blocks: int) -> tuple[str, str, str, str]:
    if blocks not in paper.EFFICIENCY:
        return ("", "", "", "")
    rate, flops, parameters = paper.EFFICIENCY[blocks]
    return (f"{rate:g}", f"{rate / paper.EFFICIENCY[paper.BLOCKS][0]:.2f}", f"{flops:g}", f"{parameters:g}")


def _steps(results: Results, part: DownstreamOptions) -> str:
    """Say how many steps a wall-clock budget was."""
    found = [(label(one), results.steps(part, one)) for one in results.tuned_variants(part)]
    told = [f"{name} {' and '.join(map(str, steps))}" for name, steps in found if steps]
    return f"Steps in {part.finetune['budget']} on {part.name}: {'; '.join(told)}." if told else ""


def _long_recipe(part: DownstreamOptions, unit: str) -> str:
    """Return the error of the whole JMP-L on a dataset, if known in the same unit."""
    name = part.data.partition("@")[0]
    value, known = paper.LONG_RECIPE.get(name, (0.0, ""))
    return f"{value:g}" if known and known == unit else ""


def _millions(results: Results, variant: Variant) -> str:
    count = results.parameters(variant)
    return "" if count is None else number(count / 1e6)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
