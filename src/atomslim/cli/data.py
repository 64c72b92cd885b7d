"""`atomslim data`: list, download, prepare, check and show datasets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT, SEED
from atomslim.terminal import say
from atomslim.words import number_of

if TYPE_CHECKING:
    from rich.table import Table

    from atomslim.data.info import DatasetInfo
    from atomslim.data.prepare import Prepared

data = App(
    name="data",
    help=(
        "List, download, prepare, check and show datasets.\n\n"
        "A dataset is named as rmd17:aspirin (name and variant), rmd17:aspirin@file.npz (with a file or folder of your "
        "own), or by the path of any file of structures. Datasets are stored in the folder --root, else "
        "$ATOMSLIM_DATA, else the user's cache folder.\n\n"
        "Example: atomslim data prepare rmd17:aspirin --root /scratch/data"
    ),
    help_format="plaintext",
)

Options = Annotated[tuple[str, ...], Parameter(name="--option", negative=())]
Flag = Annotated[bool, Parameter(negative=())]


@data.command(name="list")
def list_datasets(name: str | None = None, /, *, root: Path | None = None, json: Json = False) -> None:
    """List the datasets that can be read, or the variants of one of them, with sizes, licences and citations.

    Example: atomslim data list rmd17

    Parameters
    ----------
    name
        A dataset; without it, all are listed.
    root
        Folder of all datasets.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.data import registry
    from atomslim.data.known import names
    from atomslim.report.console import plain_console

    folder = registry.data_root(root)
    if json:
        chosen = names() if name is None else [name.partition(":")[0]]
        say_json([registry.info(known).model_dump(mode="json") for known in chosen])
        return
    console = plain_console()
    if name is None:
        for known in names():
            _print_summary(console.print, registry.info(known))
        console.print(f"Any other file of structures: xyz:PATH. Datasets are stored in {folder}.", soft_wrap=True)
        next_step("data", "list", names()[0])
        return
    found = registry.info(name.partition(":")[0])
    _print_summary(console.print, found)
    console.print(f"  {found.level_of_theory}; in the files {found.units_in_file}. {found.note}", soft_wrap=True)
    console.print(_variants(found, folder))
    next_step("data", "download", f"{found.name}:{found.variants[0].name}".rstrip(":"))


@data.command
def download(name: str, /, *, root: Path | None = None, json: Json = False) -> None:
    """Download a dataset: resumes interrupted downloads, compares checksums, unpacks archives.

    Example: atomslim data download rmd17:aspirin

    Parameters
    ----------
    name
        A dataset and variant.
    root
        Folder of all datasets.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.data.download import download as fetch_all
    from atomslim.data.registry import resolve

    source = resolve(name, root)
    with _download_progress() as advance:
        files = fetch_all(source, advance)
    if json:
        say_json({"files": files, "licence": source.info.licence, "citation": source.info.citation})
    else:
        say("\n".join(map(str, files)))
        say(f"{source.info.title}, {source.info.licence}; please cite {source.info.citation}")
    next_step("data", "prepare", name, *_in(root))


@data.command
def prepare(
    name: str,
    /,
    *,
    root: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    processes: Annotated[int, COUNT] = 1,
    edges: Flag = False,
    force: Flag = False,
    option: Options = (),
    json: Json = False,
) -> None:
    """Put a dataset's files into one container that training reads quickly; continues where a killed run stopped.

    Example: atomslim data prepare oc20:train@/scratch/s2ef -o oc20.samples --processes 8

    Parameters
    ----------
    name
        A dataset and variant, or the path of a file of structures.
    root
        Folder of all datasets.
    output
        The container to write; default: in the dataset's folder.
    processes
        Number of files of the dataset read at once.
    edges
        Also count the edges of every structure's graph, for batches of equal cost.
    force
        Overwrite an existing container or file, but never a file that it is made from.
    option
        An option of the dataset's reader, such as energy_unit=kcal/mol; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import reader_options
    from atomslim.data.dataset import PreparedDataset
    from atomslim.data.prepare import prepare as make
    from atomslim.data.registry import resolve
    from atomslim.data.survey import survey

    source = resolve(name, root, reader_options(option))
    with _count_progress("prepare") as advance:
        done = make(source, output, processes=processes, edges=edges, force=force, advance=advance)
    container = done.container
    if json:
        counts = {"structures": len(container), "atoms": int(container.natoms.sum()), "fresh": done.fresh}
        say_json({"output": container.path, **counts, "seconds": done.seconds})
    else:
        _say_prepared(done, survey(PreparedDataset(str(container.path), source.info, container)).sentence())
    next_step("data", "check", *([name, *_in(root)] if output is None else [container.path]))


def _in(root: Path | None) -> list[str | Path]:
    """Repeat --root for the next command."""
    return [] if root is None else ["--root", root]


def _say_prepared(done: "Prepared", labels: str) -> None:
    print(labels)
    speed = f"; {done.fresh} of them now, {done.fresh / done.seconds:.0f}/s" if done.fresh else "; it was there"
    atoms = number_of(int(done.container.natoms.sum()), "atom")
    say(f"{done.container.path}: {number_of(len(done.container), 'structure')}, {atoms}{speed}")


@data.command
def generate(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    structures: Annotated[int, COUNT] = 23_600,
    domains: str = "molecules,reactions,adsorbates,oxides",
    seed: Annotated[int, SEED] = 0,
    extremes: float = 0.0,
    processes: Annotated[int, COUNT] = 1,
    resume: Flag = False,
    json: Json = False,
) -> None:
    """Make a dataset from physics: molecules, reactions, adsorbates on metals and oxides, labelled by GFN-xTB.

    Needs tblite and RDKit (pip install 'atomslim[labels]'). The same arguments give the same structures, however many
    processes make them and however often they are stopped. About an hour of one core per 17 000 structures.

    Example: atomslim data generate -o generated/ --structures 23600 --processes 8

    Parameters
    ----------
    output
        Folder of the containers, one for each domain, and of generated.json.
    structures
        Number of structures.
    domains
        Which domains: molecules, reactions, adsorbates, oxides, dynamics.
    seed
        Seed of all random numbers.
    extremes
        Share of each domain's structures (0.2, say) that are isolated atoms, pairs at all distances,
        structures with two atoms pushed together, and strained cells with stress: for potentials without holes.
    processes
        Number of groups of structures made at once.
    resume
        Continue where an earlier call stopped.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.data.generate import generate as make
    from atomslim.data.generate import shares

    counts = shares(structures, domains.replace(" ", "").split(","))
    with _count_progress("generate") as advance:
        made = make(output, counts, seed=seed, extremes=extremes, processes=processes, resume=resume, advance=advance)
    if json:
        say_json({name: done.as_json() for name, done in made.domains.items()})
    for name, done in () if json else made.domains.items():
        dropped = "".join(f"; {number} dropped: {reason}" for reason, number in done.dropped.items())
        say(f"{made.container(name).path}: {done.written} structures in {done.groups} groups{dropped}")
    next_step("data", "show", made.container(next(iter(made.domains))).path)


@data.command
def check(
    name: str,
    /,
    *,
    root: Path | None = None,
    split: Path | None = None,
    against: str | None = None,
    option: Options = (),
    json: Json = False,
) -> None:
    """Look for errors in a dataset: counts, impossible values, units, duplicates, energies against forces.

    Exits with status 1 when there is a problem.

    Example: atomslim data check rmd17:aspirin --against rmd17-test.extxyz

    Parameters
    ----------
    name
        A dataset and variant, or the path of a file of structures.
    root
        Folder of all datasets.
    split
        A saved split (JSON), whose training and test sets should share no structure.
    against
        Another dataset, with which it should share no structure.
    option
        An option of the dataset's reader, such as energy_unit=kcal/mol; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import reader_options
    from atomslim.data import check as checks
    from atomslim.data.dataset import open_dataset
    from atomslim.data.registry import resolve
    from atomslim.data.splits import Split

    options = reader_options(option)
    source = resolve(name, root, options)
    variant = source.variant
    expected = variant.count if source.prepared is not None else None  # any file may be a part
    report = checks.check(
        open_dataset(name, root, options=options),
        expected,
        variant.targets,
        split=None if split is None else Split.load(split),
        against=None if against is None else open_dataset(against, root, options=options),
    )
    if json:
        say_json({"verdict": report.verdict, "findings": [vars(finding) for finding in report.findings]})
    else:
        say(str(report))
    checks.require_fit(report, name)
    next_step("finetune", "mini", name, "-o", "runs/tuned", "--budget", "30min")


@data.command
def show(
    name: str,
    /,
    *,
    root: Path | None = None,
    figure: Annotated[Path | None, Parameter(name=["--figure", "-f"])] = None,
    limit: Annotated[int | None, COUNT] = None,
    force: Flag = False,
    option: Options = (),
    json: Json = False,
) -> None:
    """Print statistics of a dataset, and draw histograms of energies, forces, atoms and elements.

    Example: atomslim data show rmd17:aspirin --figure aspirin.png

    Parameters
    ----------
    name
        A dataset and variant, or the path of a file of structures.
    root
        Folder of all datasets.
    figure
        The figure to write: .png, .pdf or .svg.
    limit
        Use only this many structures.
    force
        Overwrite an existing figure.
    option
        An option of the dataset's reader, such as energy_unit=kcal/mol; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.outputs import read_from, require_ending, require_output
    from atomslim.cli.settings import reader_options
    from atomslim.data import show as shows
    from atomslim.data.dataset import open_dataset

    if figure is not None:
        require_ending(figure, shows.FIGURE_FORMATS, "a figure")
        require_output(figure, read_from(name), force=force)
    result = shows.statistics(open_dataset(name, root, options=reader_options(option)), limit)
    if figure is not None:
        shows.save_figure(shows.figure(result), figure)
    if json:
        say_json(result.as_dict())
    else:
        say(result.table())
    next_step("data", "check", name, *_in(root))


def _print_summary(out: Callable[..., None], found: "DatasetInfo") -> None:
    from rich.text import Text

    from atomslim.data.download import describe

    names = [variant.name for variant in found.variants if variant.name]
    size = describe(list({file.url: file for variant in found.variants for file in variant.files}.values()))
    head = Text(found.name, style="bold").append(f"  {found.title}", style="not bold")
    if names:
        head.append(f" ({', '.join(names)})", style="not bold")
    out(head, soft_wrap=True)
    out(Text(f"  {found.citation}. {found.licence}, {size}. {found.homepage}"), soft_wrap=True)


def _variants(found: "DatasetInfo", folder: Path) -> "Table":
    from rich.table import Table

    from atomslim.data.download import describe
    from atomslim.data.registry import resolve

    table = Table("name", "targets", "structures", "download", "state", box=None, header_style="bold")
    for variant in found.variants:
        name = f"{found.name}:{variant.name}".rstrip(":")
        source = resolve(name, folder)
        state = "prepared" if source.container else "downloaded" if _is_there(source.path) else ""
        count = "" if variant.count is None else str(variant.count)
        table.add_row(name, ", ".join(variant.targets), count, describe(variant.files), state)
    return table


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


@contextmanager
def _download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from atomslim.report.console import plain_console

    console = plain_console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield advance


@contextmanager
def _count_progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    from atomslim.progress import counted

    with counted(what) as advance:
        yield advance
