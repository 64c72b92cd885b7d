"""Time and memory of the factorised interactions, against the floor of the dense layers and the enumerating form.

    python benchmarks/interactions.py                  everything (about half an hour on 2 cores)
    python benchmarks/interactions.py --quick          small widths and few sizes: checks that the script runs
    python benchmarks/interactions.py --parts model    one part: model, growth or neighbours

Three parts, each in a process of its own per row, so that peak memory is that row's:

model       JMP-L, energy of MOF-5 (106 atoms): forward and forward + backward against the floor, which is the
            multiply-adds of its dense layers (2 FLOP each) at the matmul rate measured in the same process; memory
            against the enumerating form, with and without blocks computed again in the backward pass
growth      the interaction part alone (JMP-L's narrow widths, one block, edges of width 32), growing cells; with
            --figure FILE, drawn, too
neighbours  the same for a growing number of neighbours

The enumerating form is the tests' reference. Where it would list more than 5·10⁶ quadruplets it is left out ("–").
Times are medians of warm repeats. Ratios are medians too, each of two numbers measured one after the other.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
from atomslim.atoms import AtomsBatch, from_ase
from atomslim.benchmarking.machine import processor
from atomslim.benchmarking.structures import mof5, oxide
from atomslim.families.jmp import JMP, JMPGraphSettings, jmp_l
from atomslim.families.jmp.gemnet_oc import Topology
from atomslim.families.jmp.gemnet_oc.layers import PairLinear
from atomslim.families.jmp.layout import Layout
from atomslim.memory import keep_freed_memory
from atomslim.models import Target, Task
from reference import Graph, Inputs, forward

MOST_QUADRUPLETS = 5e6
MOST_ATOMS_BACKWARD = 2500  # what 24 GB hold
NARROW = {
    "emb_size_atom": 32,
    "emb_size_edge": 32,
    "num_blocks": 1,
    "num_before_skip": 0,
    "num_after_skip": 0,
    "num_concat": 0,
    "num_atom": 0,
    "num_output_afteratom": 0,
    "num_atom_emb_layers": 0,
    "num_global_out_layers": 0,
}


def main() -> None:
    """Run the parts asked for and print their tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["model", "growth", "neighbours"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="file for time and memory of growing cells")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(repeats=options.repeats, **options.row)))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {options.threads} threads, torch {torch.__version__}, float32")
    for part in options.parts:
        {"model": model_table, "growth": growth_table, "neighbours": neighbours_table}[part](options)


def model_table(options: argparse.Namespace) -> None:
    """Print JMP-L on MOF-5."""
    blocks = 2 if options.quick else 6
    widths = {"num_blocks": blocks} | ({"emb_size_edge": 128, "emb_size_atom": 64} if options.quick else {})
    print(f"\n## JMP-L, {blocks} blocks, MOF-5, energy\n")
    header("form", "main edges", "matmul GFLOP/s", "dense TFLOP", "floor s", "forward s", "× floor", "peak GB")
    case: dict[str, Any] = {"widths": widths, "atoms": 0, "k": 30, "cutoff": 19.0}
    for form in ("factorised", "enumerating"):
        row = run(options, **case, form=form, backward=False)
        floor = row["dense"] / row["rate"]
        numbers = (f"{row['rate'] / 1e9:.0f}", f"{row['dense'] / 1e12:.3f}", f"{floor:.2f}", f"{row['forward']:.2f}")
        line(form, row["edges"], *numbers, f"{row['over floor']:.2f}", f"{row['peak']:.1f}")
    print()
    header("form", "forward s", "forward + backward s", "× forward", "peak GB")
    for form in ("factorised", "checkpointed", "enumerating"):
        row = run(options, **case, form=form, backward=True)
        numbers = (f"{row['forward']:.2f}", f"{row['backward']:.2f}", f"{row['over forward']:.2f}")
        line(form, *numbers, f"{row['peak']:.1f}")


def growth_table(options: argparse.Namespace) -> None:
    """Print the interaction part for growing cells."""
    sizes = [64, 216] if options.quick else [100, 300, 1000, 2500, 5000, 10000, 20000]
    print("\n## Interaction part, growing cells, k = 30, cutoff 12 Å\n")
    measured = rows_of(options, [(atoms, 30) for atoms in sizes])
    if options.figure:
        draw(measured, options.figure)


def neighbours_table(options: argparse.Namespace) -> None:
    """Print the interaction part for a growing number of neighbours."""
    counts = [10, 20] if options.quick else [10, 20, 30, 40, 60]
    print("\n## Interaction part, 216 atoms, growing k, cutoff 12 Å\n")
    rows_of(options, [(216, k) for k in counts])


def draw(measured: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the forward pass's time and peak memory against the number of atoms."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    backward = f"up to {MOST_ATOMS_BACKWARD} atoms with the backward pass"
    for index, name, label, title in ((1, "forward", "forward pass, s", ""), (2, "peak", "peak memory, GB", backward)):
        axes = figure.add_subplot(1, 2, index, xscale="log", yscale="log", xlabel="atoms")
        axes.set_ylabel(label)
        axes.set_title(title, fontsize=9)
        for form, rows in measured.items():
            points = [(row["atoms"], row[name]) for row in rows if "forward" in row]
            axes.plot(*zip(*points, strict=True), marker="o", label=form)
        atoms, values = zip(*((row["atoms"], row[name]) for row in measured["factorised"]), strict=True)
        if name == "forward":
            linear = [values[-1] * number / atoms[-1] for number in atoms]
            axes.plot(atoms, linear, color="0.6", linestyle="--", zorder=0, label="proportional to the atoms")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def rows_of(options: argparse.Namespace, cases: list[tuple[int, int]]) -> dict[str, list[dict[str, Any]]]:
    """Print forward and forward + backward of both forms for (atoms, k), and return them by form."""
    measured: dict[str, list[dict[str, Any]]] = {"factorised": [], "enumerating": []}
    times = ("forward ms", "+ backward ms", "peak GB")
    header("atoms", "k", "main edges", *times, "ms per atom", *(f"enumerating {name}" for name in times))
    for atoms, k in cases:
        cells = []
        for form in ("factorised", "enumerating"):
            backward = atoms <= MOST_ATOMS_BACKWARD
            row = run(options, form=form, widths=NARROW, atoms=atoms, k=k, cutoff=12.0, backward=backward)
            measured[form].append(row)
            cells.append(f"{1000 * row['forward']:.0f}" if "forward" in row else "–")
            cells.append(f"{1000 * row['backward']:.0f}" if "backward" in row else "–")
            cells.append(f"{row['peak']:.2f}" if "forward" in row else "–")
            if form == "factorised":
                count, edges = row["atoms"], row["edges"]
                cells.append(f"{1000 * row['forward'] / count:.2f}")
        line(count, k, edges, *cells)
    return measured


def run(options: argparse.Namespace, **row: Any) -> dict[str, Any]:
    """Measure one row in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(options.threads), "--repeats", str(options.repeats)]
    result = subprocess.run([*command, "--row", json.dumps(row)], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def measure(
    *, form: str, widths: dict[str, Any], atoms: int, k: int, cutoff: float, backward: bool, repeats: int
) -> dict[str, Any]:
    """Return seconds, dense FLOPs, matmul rate and peak memory of one form on one structure.

    ``checkpointed`` is the factorised form with its blocks computed again in the backward pass.
    """
    keep_freed_memory()
    batch = from_ase(oxide(atoms) if atoms else mof5())
    task = Task(
        name="benchmark",
        targets=(Target(name="energy", kind="energy"),),
        graph=JMPGraphSettings.from_neighbours(cutoff, k),
    )
    torch.manual_seed(0)
    model = JMP(jmp_l(direct_forces=False, **widths), [task]).eval()
    topology = model.topology(batch)
    result = {
        "atoms": batch.num_atoms,
        "edges": len(topology.main),
        "dense": dense_flops(model, batch, topology),
    }
    if form == "enumerating" and count_quadruplets(topology) > MOST_QUADRUPLETS:
        return result
    model.checkpoint_blocks = form == "checkpointed"
    energy = (enumerating if form == "enumerating" else factorised)(model, batch, topology)
    product = matrix_product(len(topology.main), model.config.emb_size_edge)
    forward, rates, ratios = [], [], []
    for _ in range(repeats + 1):  # in turn, because the speed of a shared machine drifts
        rates.append(1 / seconds(product))
        with torch.no_grad():
            forward.append(seconds(energy))
        ratios.append(forward[-1] * rates[-1] / result["dense"])
    result |= {"forward": median(forward[1:]), "rate": median(rates[1:]), "over floor": median(ratios[1:])}
    if backward:
        pairs = [(seconds(lambda: energy().backward()), seconds(torch.no_grad()(energy))) for _ in range(repeats + 1)]
        result |= {"backward": median(b for b, _ in pairs[1:]), "over forward": median(b / f for b, f in pairs[1:])}
    return result | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def factorised(model: JMP, batch: AtomsBatch, topology: Topology) -> Callable[[], torch.Tensor]:
    """Return the production path."""

    def energy() -> torch.Tensor:
        return model(batch, topology, normalised=True)["benchmark"]["energy"].sum()

    return energy


def enumerating(model: JMP, batch: AtomsBatch, topology: Topology) -> Callable[[], torch.Tensor]:
    """Return the tests' reference with the same weights, in float32 throughout."""
    names = Layout.of_tasks(list(model.tasks.values())).names(model.config, list(model.tasks))
    tensors = model.state_dict()
    state = {name.jmp: tensors[name.ours].detach().clone() for name in names if name.ours}
    for tensor in state.values():
        tensor.requires_grad_()
    graphs = {"main": topology.main, "a2a": topology.atom, "a2ee2a": topology.atom_edge, "qint": topology.quad}
    inputs = Inputs(
        positions=batch.positions.float(),
        numbers=batch.numbers,
        cell=batch.cell.float(),
        batch=batch.batch,
        graphs={name: Graph(edges.source, edges.target, edges.offset) for name, edges in graphs.items()},
        reverse=topology.reverse,
    )

    def energy() -> torch.Tensor:
        return forward(state, inputs)["E"].sum()

    return energy


def count_quadruplets(topology: Topology) -> float:
    """Return the number of quadruplets, those that close a triangle included."""
    degree = torch.bincount(topology.main.target, minlength=int(topology.main.target.max()) + 1).double()
    return float((degree[topology.quad.source] * degree[topology.quad.target]).sum())


def dense_flops(model: JMP, batch: AtomsBatch, topology: Topology) -> float:
    """Return 2 × multiply-adds of all linear layers in one forward pass, weights of angular sums left out."""
    total = 0.0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, PairLinear):
            h, x, *_ = inputs
            total += 2 * (2 * h.numel() + x.numel()) * output.shape[-1]
        else:
            total += 2 * inputs[0].numel() * output.shape[-1]

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | PairLinear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(batch, topology, normalised=True)
    for hook in hooks:
        hook.remove()
    return total


def matrix_product(rows: int, width: int, at_least: float = 1.0) -> Callable[[], float]:
    """Return a function that multiplies the largest layers' shapes for ``at_least`` seconds and returns the FLOPs."""
    x, weights = torch.randn(rows, width), torch.randn(16, width, width)

    def product() -> float:
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < at_least:
            torch.nn.functional.linear(x, weights[done % len(weights)])
            done += 1
        return 2.0 * rows * width * width * done

    return product


def seconds(function: Callable[[], Any]) -> float:
    """Return the seconds of one call, divided by the FLOPs if the call returns some."""
    start = time.perf_counter()
    result = function()
    elapsed = time.perf_counter() - start
    return elapsed / result if isinstance(result, float) else elapsed


def header(*names: str) -> None:
    """Print the head of a Markdown table."""
    line(*names)
    line(*("---" for _ in names))


def line(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
