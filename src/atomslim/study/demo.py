"""The demo: a study of the embedded model on the structures that come with the package."""

from importlib.resources import files
from pathlib import Path

import yaml

from atomslim.study.cells import Cell
from atomslim.study.options import StudyOptions
from atomslim.study.results import Results


def demo_options() -> StudyOptions:
    """Read the configuration of the demo, demo.yaml beside this file."""
    return StudyOptions.model_validate(yaml.safe_load(files("atomslim.study").joinpath("demo.yaml").read_text("utf-8")))


def compared(results: Results) -> tuple[dict[str, Path], str, Path]:
    """Give what a finished demo tuned: models by name, the data they were tuned on, and how it was split."""
    (downstream,), (blocks,) = results.options.downstream, results.options.blocks
    cells = {
        strategy: Cell("tune", strategy, None if strategy == "full" else blocks, 0, downstream.name)
        for strategy in downstream.strategies
    }
    runs = {strategy: results.board.folder / "cells" / cell.name / "run" for strategy, cell in cells.items()}
    short = {strategy: strategy.removeprefix("least-squares-") for strategy in cells}  # to fit a terminal
    names = {strategy: "full" if strategy == "full" else f"{blocks} {short[strategy]}" for strategy in cells}
    models = {names[strategy]: run / "best.safetensors" for strategy, run in runs.items()}
    return models, downstream.data, runs["full"] / f"split.{downstream.name}.json"
