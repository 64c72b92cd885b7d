import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from matplotlib.figure import Figure

from atomslim.report import page
from atomslim.report.page import TextTable
from atomslim.report.structure_view import structure_view


def drawn() -> Figure:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#ff0000")
    axes.set_title("growth")
    return figure


def content(atoms: Atoms) -> Any:
    found = re.search(r'data-structure="([^"]*)"', structure_view(atoms, ""))
    assert found
    return json.loads(html.unescape(found[1]))


def test_a_page_is_one_file_with_its_parts_in_order() -> None:
    table = TextTable("Errors <&", "A note.", ("model", "error"), (("full", "1.0"),))
    body = [page.summary(["Fast."]), page.pictures([drawn(), drawn()], "Two."), table.html(), table.folded()]
    text = page.page("Title", [*body, structure_view(molecule("H2O"), "Water."), page.footer({"Versions": "a < b"})])
    offsets = [text.index(part) for part in ("Fast.", "Two.", "Errors &lt;&amp;", "Water.", "a &lt; b", "<script>")]
    assert offsets == sorted(offsets)
    assert not re.findall(r'(?:src|href)="(?!#)', text)  # nothing is fetched
    assert "prefers-color-scheme: dark" in text
    assert "<script" not in page.page("Title", body)


def test_numbers_are_set_right_and_texts_left() -> None:
    rows = (
        ("full", "embedded", "2.67", "≤ 4 %"),
        ("4 blocks", "", "-1,040", "unclear"),
        ("3 blocks", "none", "", "± 3 %"),
    )
    table = TextTable("", "", ("model", "kind", "error", "bar"), rows)
    assert '<th class="left">kind</th><th>error</th><th>bar</th>' in table.body()
    assert '<td class="left">embedded</td><td>2.67</td><td>≤ 4 %</td>' in table.body()
    assert "| --- | --- | ---: | ---: |" in table.markdown()
    assert [column.justify for column in table.rich().columns] == ["left", "left", "right", "right"]


def test_links_lead_from_the_page_to_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a b.safetensors").touch()
    found = page.links({"a <b": tmp_path / "a b.safetensors", "mini": "mini"}, tmp_path / "compare")
    assert re.findall(r'href="([^"]*)"', found) == ["../a%20b.safetensors"]
    assert "a &lt;b" in found
    assert page.links({"mini": "mini"}, tmp_path) == ""


def test_figures_have_the_colours_of_the_page_and_are_reproducible() -> None:
    text = page.picture(drawn(), "Growth.")
    assert text == page.picture(drawn(), "Growth.")
    assert "#000000" not in text
    assert "currentColor" in text
    assert "#ff0000" in text
    assert ">growth</text>" in text  # letters, not outlines
    assert not re.search(r"fill: #ffffff", text)


def test_water_has_two_bonds_and_no_cell() -> None:
    found = content(molecule("H2O"))
    assert found["bonds"] == [[0, 1], [0, 2]]
    assert found["edges"] == []
    assert found["colours"] == ["#ff0d0d", "#ffffff", "#ffffff"]
    assert len(found["points"]) == len(found["radii"]) == 3


def test_a_crystal_has_its_cell() -> None:
    copper = bulk("Cu", cubic=True)
    found = content(copper)
    assert len(found["points"]) == 4 + 8
    assert len(found["edges"]) == 12
    points = found["points"]
    for first, second in found["edges"]:
        length = sum((a - b) ** 2 for a, b in zip(points[first], points[second], strict=True)) ** 0.5
        assert length == pytest.approx(copper.cell.lengths()[0], abs=2e-3)


def test_a_page_of_a_command_says_which_and_others_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Made by" not in page.page("Title", [])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/atomslim", "compare", "a b.pt", "-o", "<out>"])
    text = page.page("Title", [])
    assert "atomslim compare &#x27;a b.pt&#x27; -o &#x27;&lt;out&gt;&#x27;" in text
    assert "clipboard" in text
