"""The documents of a run: report.html, and a README of ten lines beside the model."""

from collections.abc import Iterator
from pathlib import Path

from ase.data import chemical_symbols
from matplotlib.figure import Figure

from atomslim.benchmarking.turns import Gain
from atomslim.files import atomic_write
from atomslim.labelling.pool import FIGURE
from atomslim.models.family import Family, family_of
from atomslim.models.model_file import load
from atomslim.report import page
from atomslim.report.page import TextTable, number
from atomslim.report.structure_view import structure_view
from atomslim.slimming.finishing import MODEL, PACKAGE, VALIDATION, bars
from atomslim.slimming.journal import NAME
from atomslim.slimming.rounds import stages_of_dynamics, students
from atomslim.slimming.work import Work

REPORT, README = "report.html", "README.md"


def write(work: Work) -> None:
    """Write the report and the README."""
    if "report" in work.done:
        return
    with work.journal.stage("report", REPORT):
        _write(work.folder / REPORT, page.page(f"A fast student of {work.teacher.name}", _body(work)))
        _write(work.folder / README, "\n".join(_readme(work)) + "\n")


def sentences(work: Work) -> Iterator[str]:
    """Summarise the result, the answer first."""
    rows = bars(work)
    held = [name for name, (_, _, good) in rows.items() if good]
    missed = [f"{name}: {found} (asked for {bar})" for name, (bar, found, good) in rows.items() if not good]
    yield f"{_gain(work)}; errors on held-out frames: {_held_out(work)}."
    yield f"{len(held)} of {len(rows)} bars are met" + (f"; not met: {'; '.join(missed)}." if missed else ".")
    yield f"The student: {work.done['student']['name']}, {work.done['model']['parameters']:,} weights."
    moved = stages_of_dynamics(work)
    if moved:
        first, last = (work.done[name] for name in (moved[0], moved[-1]))
        yield (
            f"Unstable runs of {first['steps']} steps: {first['unstable']} of {first['runs']} after the first training"
            + (f", {last['unstable']} of {last['runs']} after the last round." if len(moved) > 1 else ".")
        )
    yield str(work.done["validation"]["sentence"])
    checking = work.done["validation"]["seconds"]
    spent, budget = work.journal.seconds - checking, work.options.seconds
    yield f"{spent:.0f} s of {budget:.0f} s were used, and {checking:.0f} s by the validation."


def _gain(work: Work) -> str:
    """Say how fast the student is beside its teacher."""
    gain, steps = Gain.read(work.done["model"]["gain"]), f"{number(work.done['model']['milliseconds'])} ms a step"
    if gain.reliable:
        return f"The student is {gain} as fast as {work.teacher.name} ({steps})"
    return (
        f"The student takes {steps}, {work.teacher.name} {number(work.done['model']['teacher'])} ms (speed-up {gain})"
    )


def _body(work: Work) -> Iterator[str]:
    yield page.summary(sentences(work))
    yield page.links({"the student": work.folder / MODEL}, work.folder)
    yield _bars(work).html()
    if len(students(work)) > 1 or stages_of_dynamics(work):
        yield _rounds(work).html()
    if max(len(students(work)), len(stages_of_dynamics(work))) > 1:
        yield page.picture(_figure(work), "Force errors on held-out frames, and unstable runs, from round to round.")
    if "candidates" in work.done["student"]:
        columns = ("student", "kind", "M parameters", "ms a step", "ns a day", "speed-up", "outcome")
        rows = tuple(tuple(row) for row in work.done["student"]["candidates"])
        yield TextTable("What students would cost", work.done["student"]["why"], columns, rows).html()
    yield page.heading("Validation", work.done["validation"]["sentence"])
    for title, note, columns, rows in work.done["validation"]["tables"]:
        yield TextTable(title, note, tuple(columns), tuple(map(tuple, rows))).folded()
    yield _stages(work).html()
    yield structure_view(work.structures[0], "The first of the given structures.")
    yield page.footer({NAME: (work.folder / NAME).read_text(encoding="utf-8")})


def _bars(work: Work) -> TextTable:
    rows = [(name, *row[:2], "met" if row[2] else "NOT MET") for name, row in bars(work).items()]
    note = f"Held-out frames: {_held_out_are(work)}."
    return TextTable("What was asked for", note, ("quantity", "asked for", "found", "outcome"), tuple(rows))


def _rounds(work: Work) -> TextTable:
    """The results of every training and of every round of dynamics, in the order of the run."""
    rows = []
    for name, facts in work.done.items():
        if name in students(work):
            found = facts["held out"]
            errors = (
                f"{number(found['forces'])} meV/Å ({number(found['share'], 2)} %)",
                f"{number(found['energy'])} meV/atom",
            )
            rows.append((name if facts.get("kept", True) else f"{name} (not kept)", *errors, "", ""))
        elif name in stages_of_dynamics(work):
            signs = sorted({one["left"] for one in facts["outcomes"] if one["left"]})
            rows.append((name, "", "", f"{facts['unstable']} of {facts['runs']}", ", ".join(signs)))
        elif name.endswith(", labels"):
            found = facts["fresh"]
            errors = (
                f"{number(found['forces'])} meV/Å ({number(found['share'], 2)} %)",
                f"{number(found['energy'])} meV/atom",
            )
            rows.append((f"{name}: {facts['structures']} frames, before training on them", *errors, "", ""))
    columns = ("stage", "forces", "energy", "unstable runs", "signs")
    note = "Errors are on held-out frames; in brackets, relative to the rms force."
    return TextTable("Round by round", note, columns, tuple(rows))


def _figure(work: Work) -> Figure:
    """Draw series with several points: one point says less than the table."""
    names, moved = students(work), stages_of_dynamics(work)
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(len(names)), [work.done[name]["held out"]["share"] for name in names], "o-", color="#0072b2")
    left.axhline(work.options.force_bar, color="#808080", linewidth=0.8, linestyle="--")
    left.set_ylabel("forces, % of rms")
    right.bar(range(len(moved)), [work.done[name]["unstable"] for name in moved], color="#e69f00")
    right.set_ylabel("unstable runs")
    for axes, count in ((left, len(names)), (right, len(moved))):
        axes.set_visible(count > 1)
        axes.set_xticks(range(count), [str(index) for index in range(count)])
        axes.set_xlabel("rounds before")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _stages(work: Work) -> TextTable:
    rows = [(name, f"{facts['seconds']:.1f}") for name, facts in work.done.items() if not name.endswith("begun")]
    return TextTable(
        "Stages",
        "Wall-clock time of each; a killed stage counts from where it was continued.",
        ("stage", "s"),
        tuple(rows),
    )


def _other_programs(work: Work, family: Family) -> str:
    """Say how the model runs without Python, or in programs of its family."""
    if "packages" in family.capabilities:
        made = "is" if "package" in work.done["model"] else f"`atomslim package {MODEL} -o {PACKAGE}` makes"
        return (
            f"C++: {made} `{PACKAGE}`, a package that needs no Python; docs/packages.md of atomslim says how to run it"
        )
    if "export" in family.capabilities:
        return (
            f'C++, LAMMPS: `atomslim.export(atomslim.load("{MODEL}"), FILE)` writes the format of {family.title}, for '
            "the programs that its own models run in"
        )
    return f"C++: {family.title} models run in Python only"


def _licence(work: Work, family: Family) -> str:
    """Say whose weights the student has, and what their licence is, where it is known."""
    code, weights = family.licences
    if work.done["student"].get("kind") == "cut of the teacher" and weights:
        return f"that of {work.teacher.name}, which it is a cut of; weights: {weights}; code: {code}"
    return "unknown; check those of the teacher, and of the model that the student started from"


def _readme(work: Work) -> Iterator[str]:
    """Write ten lines."""
    teacher, student = work.done["teacher"], work.done["student"]
    versions = ", ".join(f"{name} {version}" for name, version in teacher["what"].get("versions", {}).items())
    settings = ", ".join(f"{name}={value}" for name, value in (teacher["what"].get("settings") or {}).items())
    elements = sorted({int(number) for atoms in work.structures for number in atoms.numbers})
    names = ", ".join(chemical_symbols[number] for number in elements)
    hottest = max(work.options.temperatures)
    family = family_of(load(work.folder / MODEL))
    yield f"# A fast student of {work.teacher.name}"
    yield f"- What it is: {student['name']}, trained on {_labels(work)} labelled structures. {next(sentences(work))}"
    yield f'- ASE: `atoms.calc = atomslim.Calculator("{MODEL}")`'
    yield f'- TorchSim: `from atomslim.inference.torch_sim import TorchSimModel; TorchSimModel("{MODEL}")`'
    yield f"- {_other_programs(work, family)}"
    yield f"- Teacher: {work.teacher.name} ({versions or 'no versions known'}); settings: {settings or 'the defaults'}"
    yield f"- Level of theory: that of the teacher, see its authors; {work.options.forces} forces"
    yield f"- Licence: {_licence(work, family)}"
    yield (
        f"- Not for: elements other than {names}; temperatures above {hottest:g} K; phases, surfaces, defects and "
        "pressures unlike the given structures"
    )
    yield f"- Numbers: `{VALIDATION}`, `{REPORT}`, `{NAME}`; the training structures are shown in `work/pool/{FIGURE}`"


def _labels(work: Work) -> int:
    more = sum(
        facts["structures"] for name, facts in work.done.items() if name.startswith("round") and name.endswith("labels")
    )
    return int(work.done["labels"]["train"] + more)


def _held_out(work: Work) -> str:
    found = work.done[students(work)[-1]]["held out"]
    forces = f"forces {number(found['forces'])} meV/Å, {number(found['share'], 2)} % of the rms"
    return f"{forces}, energy {number(found['energy'])} meV/atom"


def _held_out_are(work: Work) -> str:
    if work.done["held-out pool"]["structures"]:
        return "from separate dynamics of the teacher, with other random numbers than the pool's"
    return "a tenth of the pool, since the teacher is too slow for separate dynamics at this budget"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
