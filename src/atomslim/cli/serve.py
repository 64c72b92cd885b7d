"""`atomslim serve`: energies, forces and virials of a model for i-PI and other servers of its socket protocol."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from atomslim.cli.devices import Device
from atomslim.terminal import say
from atomslim.words import number_of


def serve(
    model: str,
    structure: str,
    /,
    *,
    socket: str,
    task: str | None = None,
    device: Device = "auto",
    compiled: Literal["auto", "off"] = "auto",
    wait: Annotated[float, Parameter(validator=Number(gte=0))] = 60.0,
    strict: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compute energies, forces and virials for i-PI, or another program that is a server of its socket protocol.

    Ends when the server ends. Before it connects, it checks that the numbers it would serve for the structure agree
    with the calculator's.

    Example: atomslim serve aspirin.safetensors start.xyz --socket localhost:31415

    Parameters
    ----------
    model
        A model file, a name (chgnet:0.3.0), a package (.pt2), or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    structure
        A file or dataset whose first structure has the server's atoms in the server's order and its periodicity.
    socket
        Where the server listens: HOST:PORT, a socket name (for /tmp/ipi_NAME), or a path.
    task
        The task to use, by name; needed if the model has several.
    device
        Where the model runs; auto uses a CUDA device if there is one.
    compiled
        auto compiles the model in the background after some steps, and switches to it if it is faster.
    wait
        Seconds to wait for an engine that does not listen yet.
    strict
        Refuse elements and compositions that the task was not trained on, charges, and capped neighbours.

    """
    from atomslim.cli.devices import device_of
    from atomslim.errors import printable
    from atomslim.inference.inputs import first_structure
    from atomslim.inference.named_calculators import calculator_of
    from atomslim.inference.serve import serve as run

    atoms = first_structure(structure)
    calculator = calculator_of(model, task=task, device=device_of(device), strict=strict, compiled=compiled)
    steps = run(calculator, atoms, socket, wait=wait, said=lambda line: print(printable(line), file=sys.stderr))
    say(f"{socket}: the engine has ended after {number_of(steps, 'structure')}")
