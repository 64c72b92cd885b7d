"""Tables of a study, as rows of texts: the report writes them as HTML, `report.md` as Markdown."""

from atomslim.measure.page import TextTable
from atomslim.study import paper
from atomslim.study.figures import label
from atomslim.study.results import Results, Variant


def pretraining(results: Results) -> TextTable:
    """Force errors on the pre-training tasks by strategy and blocks, as in the paper's Table 1."""
    tasks = [task.name for task in results.options.mix]
    rows = [
        (label(variant), _millions(results, variant), *_errors(results, variant, tasks)) for variant in results.variants
    ]
    seeds = len(results.options.seeds)
    return TextTable(
        "Cutting and distilling, on the pre-training tasks",
        f"Force MAE in meV/Å on the validation sets; ± is the standard deviation over {seeds} seeds, where chance is.",
        ("variant", "parameters / M", *tasks),
        tuple(rows),
    )


def recovery(results: Results) -> TextTable:
    """Shares of what slicing lost that other ways win back."""
    tasks = [task.name for task in results.options.mix]
    variants = [one for one in results.variants if one.strategy not in {"full", "sliced"}]
    rows = [(label(variant), *(_percent(results.recovered(variant, task)) for task in tasks)) for variant in variants]
    return TextTable(
        "What is won back",
        "Share of the force error that slicing added which a variant takes away again: 100 % is the full model, "
        "0 % the sliced one, negative is worse than slicing.",
        ("variant", *tasks),
        tuple(rows),
    )


def published(results: Results) -> TextTable:
    """The paper's Table 1, for comparison of the trends."""
    del results
    rows = [
        (
            f"{blocks} blocks, {strategy}" if strategy != "full" else "full (6 blocks)",
            *(f"{value:g}" for value in values),
        )
        for strategy, by_blocks in paper.FORCE_MAE.items()
        for blocks, values in by_blocks.items()
    ]
    return TextTable(
        "The paper's Table 1",
        "Force MAE in meV/Å of JMP-L on its own data (arXiv 2504.19538): another model and other data, so compare "
        "trends, not numbers.",
        ("variant", *paper.TASKS),
        tuple(rows),
    )


def downstream(results: Results) -> TextTable:
    """Test errors after fine-tuning under equal budgets, as in the paper's Fig. 3."""
    parts = results.options.downstream
    variants = dict.fromkeys(variant for part in parts for variant in results.tuned_variants(part))
    rows = [(label(variant), *(_text(results.tuned(part, variant)) for part in parts)) for variant in variants]
    return TextTable(
        "Fine-tuned under equal budgets",
        "Test MAE of the model with the best validation, in milli-units (meV/Å for forces, meV for energies).",
        ("variant", *(f"{part.name} {part.target}" for part in parts)),
        tuple(rows),
    )


def failures(results: Results) -> TextTable:
    """Cells without a result, and why."""
    board = results.board
    rows = [
        (cell.name, state, board.error(cell) or ("needs a cell that failed" if state == "blocked" else ""))
        for cell, state in board.states().items()
        if state != "done"
    ]
    return TextTable(
        "Cells without a result",
        "They are tried again when the study is run again.",
        ("cell", "state", "reason"),
        tuple(rows),
    )


def _errors(results: Results, variant: Variant, tasks: list[str]) -> list[str]:
    return [_text(results.reduced(variant, task)) for task in tasks]


def _millions(results: Results, variant: Variant) -> str:
    count = results.parameters(variant)
    return "" if count is None else f"{count / 1e6:.3g}"


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
