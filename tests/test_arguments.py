"""Wrong arguments are one line with a remedy, and objects say in a few lines what they are."""

import html
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import atomslim
from atomslim.arguments import checked, explained
from atomslim.data.in_memory import Samples
from atomslim.errors import ConfigError, StructureError
from atomslim.models.block_model import BlockModel
from atomslim.report.shown import MOST_LINES, Shown
from samples import DIRECT, small_model
from train.water import waters


@pytest.fixture(scope="module")
def model() -> BlockModel:
    return small_model(DIRECT).float()


ANY: Any = atomslim
"""The package without its types: what is wrong here is meant to be."""

CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a name that is nearly right": (lambda m: ANY.evaluate(m, [], bacth_size=2), "did you mean batch_size"),
    "of a class": (lambda m: ANY.Calculator(m, tsk="x"), "Calculator: has no argument tsk: did you mean task"),
    "too few": (lambda _: ANY.keep_blocks(), "missing a required argument: 'model'"),
    "too many": (lambda _: ANY.load("mini", "mini", "mini"), "too many positional arguments"),
    "no path": (lambda _: ANY.load(3), "load: path is an int: give str or PathLike"),
    "no number": (lambda m: ANY.evaluate(m, [], batch_size="2"), "batch_size is a str: give int"),
    "a choice": (lambda m: ANY.evaluate(m, [], part="tset"), "evaluate: part 'tset': did you mean test"),
    "no model": (lambda _: ANY.save("mini", "x.safetensors"), "save: model is a str: give BlockModel"),
    "a model's name where it is read already": (lambda _: ANY.keep_blocks("mini", 2), "keep_blocks: model is a str"),
    "what a list is of": (
        lambda m: ANY.evaluate(m, [1]),
        "data is a list of int: give str or Dataset or Sequence",
    ),
    "what a table is of": (lambda m: ANY.compare({"a": m}, {"x": 3}), "compare: data is a dict of int"),
    "no data": (lambda m: ANY.keep_blocks(m, 0, realign="least-squares", calibration={"direct": 3}), "data: is an int"),
    "bytes": (lambda m: ANY.predict(m, b"water.xyz"), "predict: structures is a bytes"),
    "nothing": (lambda m: ANY.predict(m, None), "predict: structures is a NoneType"),
    "no table": (lambda m: ANY.narrow(m, "edge=4", []), "narrow: widths is a str: give Mapping of float"),
    "no calculator": (lambda m: ANY.validate(m, against=3), "validate: against is an int"),
    "no structures": (lambda _: ANY.slim(3, "mini", "out"), "slim: structures is an int"),
    "a name of a task": (
        lambda _: ANY.Task(name="a", tragets=(), graph=None),
        "there is no option tragets: did you mean",
    ),
    "a task without names": (lambda _: ANY.Task("a"), "Task: give values by their names: name, targets, graph"),
    "half a task": (lambda _: ANY.Task(name="a"), "Task: targets: Field required"),
    "graphs": (lambda _: ANY.GraphSettings(cutof=5.0), "GraphSettings: there is no option cutof: did you mean cutoff"),
    "a field of a sample": (lambda _: ANY.Sample(number=[1]), "Sample: has no argument number: did you mean numbers"),
    "half a sample": (lambda _: ANY.Sample([1]), "Sample: missing a required argument: 'positions'"),
    "half a batch": (lambda _: ANY.AtomsBatch(1), "AtomsBatch: missing a required argument: 'numbers'"),
    "a field of a batch": (
        lambda _: replace(ANY.from_ase(Atoms("H")), possitions=1),
        "AtomsBatch: has no argument possitions: did you mean positions",
    ),
    "a part of a structure": (
        lambda _: ANY.Sample.create([1], [[0, 0, 0]], {}, periodic=True),
        "Sample.create: has no argument periodic",
    ),
    "an option of training": (lambda m: ANY.finetune(m, [], stesp=2), "there is no option stesp"),
}


@pytest.mark.parametrize(("call", "said"), CALLS.values(), ids=CALLS)
def test_a_wrong_argument_is_one_line(call: Callable[[Any], object], said: str, model: BlockModel) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_what_is_not_numbers_is_said() -> None:
    with pytest.raises(StructureError, match=r"water: positions are not numbers"):
        atomslim.Sample.create([1], [["a", "b", "c"]], {}, name="water")
    with pytest.raises(StructureError, match=r"structure: numbers are not numbers"):
        atomslim.Sample.create("water", [], {})
    with pytest.raises(TypeError, match="a fault within"):
        explained(fails)(1)


def fails(number: int) -> None:
    raise TypeError(f"a fault within {number}")


def test_a_checked_function_is_still_itself() -> None:
    @checked
    def add(one: int, two: float = 1.0) -> float:
        """Add."""
        return one + two

    assert (add.__name__, add.__doc__, add(1)) == ("add", "Add.", 2.0)
    assert add(np.int64(1), two=2) == 3  # type: ignore[arg-type]


def test_a_model_is_a_few_lines_and_a_table(model: BlockModel) -> None:
    text = repr(model)
    assert text.count("\n") < 8
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in text
    assert all(task in text for task in model.tasks)
    assert "history" in text
    assert html.escape(str(model.num_blocks)) in model._repr_html_()


def test_results_are_a_few_lines_and_html(model: BlockModel) -> None:
    samples = waters(2)
    found = atomslim.evaluate(model, samples)
    assert repr(found).splitlines()[0] == "Evaluation:"
    assert "2 structures" in repr(found)
    scores = atomslim.block_relevance(model, samples, leave_out=False)
    assert repr(scores).startswith("Relevance:")
    assert "<svg" in scores._repr_html_()
    assert "<table" in scores._repr_html_()


def test_data_say_what_they_are() -> None:
    samples = waters(2)
    assert repr(Samples(samples)) == "Dataset samples: 2 structures in memory"
    assert "3 atoms with" in repr(samples[0])
    batch = atomslim.from_ase([sample.to_ase() for sample in samples])
    assert repr(batch) == f"AtomsBatch: 2 structures, {batch.num_atoms} atoms, float64 on cpu"
    assert repr(atomslim.open_dataset("mini:molecules")).startswith("Dataset mini:molecules: ")


def test_long_results_are_cut_short() -> None:
    class Long(Shown):
        def words(self) -> list[str]:
            return [f"line {number}" for number in range(100)]

    assert repr(Long()).count("\n") == MOST_LINES + 1
    assert "… and 88 more lines" in repr(Long())


def test_predictions_of_structures_in_memory_are_those_of_the_calculator(model: BlockModel) -> None:
    atoms = [sample.to_ase() for sample in waters(2)]
    found = atomslim.predict(model, atoms)
    atoms[1].calc = atomslim.Calculator(model)
    np.testing.assert_allclose(found[1]["energy"], atoms[1].get_potential_energy(), rtol=1e-5)
    np.testing.assert_allclose(found[1]["forces"], atoms[1].get_forces(), atol=1e-5)
    assert len(atomslim.predict(model, atoms[0])) == 1
