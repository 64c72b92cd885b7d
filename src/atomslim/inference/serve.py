"""A client of i-PI and other programs that use its socket protocol: forces of a model for any engine.

The engine is the server: it listens, moves the atoms, and sends positions and cell in bohr. We connect, and answer with
energy in hartree, forces in hartree/bohr and the virial −V σ in hartree (Kapil et al., Comput. Phys. Commun. 236, 214
(2019)). The protocol names no elements: they come from a structure with the atoms in the engine's order.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.socketio import IPIProtocol, SocketClient, SocketClosed
from ase.parallel import world
from numpy.typing import NDArray

from atomslim.errors import AtomslimError, ConfigError, one_line
from atomslim.inference.parity import expected_of, require_parity, structure_alone

UNIX_PREFIX = "/tmp/ipi_"  # noqa: S108 - where i-PI puts its sockets
"""Prefix of i-PI and others for Unix socket names."""

LONGEST_PATH = 107
"""Longest path of a socket on Linux, in bytes."""

LOOK_AGAIN = 0.1
"""Seconds between attempts to connect."""

ANSWERS_WITHIN = 10
"""Seconds that another machine has to accept a connection, or refuse it."""


def serve(
    calculator: AseCalculator,
    atoms: Atoms,
    address: str,
    *,
    wait: float = 60.0,
    said: Callable[[str], None] = lambda _: None,
) -> int:
    """Answer an engine until it ends, and return for how many structures.

    Before it connects, the answer for ``atoms`` is sent through a test socket and compared with the calculator's.

    Args:
        calculator: any ASE calculator, of a model or a package.
        atoms: a structure of the engine's elements in the engine's order, periodic where the model is to be; cell and
            positions are the engine's. Its constraints are left to the engine.
        address: ``HOST:PORT``, or the name of a socket as in i-PI's input (``/tmp/ipi_NAME``), or its path.
        wait: seconds to wait for an engine that does not listen yet.
        said: gets a line about what is served.

    Raises:
        ConfigError: an invalid address, a calculator without forces.
        StructureError: structures that no model can take.
        AtomslimError: nobody listens, the parity check fails, the engine has another number of atoms, or breaks off, or
            the calculator fails.

    """
    connect = _connector(address)
    atoms = structure_alone(atoms)
    expected = expected_of(calculator, atoms)
    atoms.calc = calculator
    require_parity("a client of the socket", _through_a_socket(atoms, with_virial="virial" in expected), expected)
    said(_sentence(atoms, expected, calculator))
    with _connected(connect, address, wait) as connection:
        return _answered(Client(connection, len(atoms)), atoms, address, with_virial="virial" in expected)


class Client(SocketClient):
    """ASE's client on an existing connection."""

    def __init__(self, connection: socket.socket, natoms: int) -> None:
        self.comm = world
        self.protocol = Protocol(connection, natoms)
        self.log = self.protocol.log
        self.closed = False
        self.bead_index, self.bead_initbytes = 0, b""
        self.state = "READY"


class Protocol(IPIProtocol):
    """ASE's protocol, for so many atoms."""

    def __init__(self, connection: socket.socket, natoms: int) -> None:
        super().__init__(connection)  # type: ignore[no-untyped-call]
        self.natoms = natoms

    def recvposdata(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return cell (3, 3) and positions (n, 3) in Å, raise ConfigError for another number of atoms."""
        cell, inverse, positions = super().recvposdata()  # type: ignore[no-untyped-call]
        if len(positions) != self.natoms:
            raise ConfigError(
                f"the engine has {len(positions)} atoms, the structure {self.natoms}: give the engine's own structure"
            )
        return cell, inverse, positions


def _answered(client: Client, atoms: Atoms, address: str, *, with_virial: bool) -> int:
    """Answer until the engine ends, and return how often; raises AtomslimError if it breaks off."""
    steps = 0
    try:
        for _ in client.irun(atoms, use_stress=with_virial):  # type: ignore[no-untyped-call]
            steps += 1
    except (SocketClosed, ConnectionError) as error:
        raise AtomslimError(f"{address}: the engine broke off after {steps} structures: see its own output") from error
    except (AssertionError, KeyError, UnicodeDecodeError) as error:
        raise AtomslimError(f"{address}: speaks another protocol than i-PI's ({one_line(error)}): check it") from error
    except AtomslimError:
        raise
    except Exception as error:
        raise AtomslimError(f"{address}: the calculator fails after {steps} structures: {one_line(error)}") from error
    return steps


def _through_a_socket(atoms: Atoms, *, with_virial: bool) -> dict[str, Any]:
    """Return what an engine receives for a structure, with ASE's server side of the protocol."""
    ours, theirs = socket.socketpair()
    found: dict[str, Any] = {}

    def ask() -> None:
        with theirs, suppress(OSError):  # closed, where the calculator raises
            engine = IPIProtocol(theirs)
            found.update(engine.calculate(atoms.positions, atoms.cell.array))
            engine.end()

    asking = threading.Thread(target=ask)
    asking.start()
    moved: Atoms = atoms.copy()
    moved.calc = atoms.calc
    try:
        Client(ours, len(atoms)).run(moved, use_stress=with_virial)  # type: ignore[no-untyped-call]
    finally:
        asking.join()
    return found


def _sentence(atoms: Atoms, expected: Mapping[str, Any], calculator: AseCalculator) -> str:
    """Say what is served, and what an engine must not use it for."""
    periodic = "periodic" if atoms.pbc.all() else f"periodic along {int(atoms.pbc.sum())} of 3 vectors"
    parts = [f"{atoms.symbols}, {periodic if atoms.pbc.any() else 'not periodic'}"]
    task = getattr(calculator, "task", None)
    if task is not None and task.direct and not task.conservative:
        parts.append("forces are direct, not the gradient of the energy: no run conserves energy without a thermostat")
    if "virial" not in expected:
        parts.append("no stress: the virial is zero, which no barostat may use")
    return "; ".join(parts)


@contextmanager
def _connected(connect: Callable[[], socket.socket], address: str, wait: float) -> Iterator[socket.socket]:
    """Connect as soon as somebody listens; raises AtomslimError if nobody does for so many seconds."""
    until = time.monotonic() + wait
    while True:
        try:
            connection = connect()
            break
        except socket.gaierror as error:
            raise ConfigError(f"{address}: there is no such host: {one_line(error)}") from error
        except OSError as error:
            if time.monotonic() > until:
                raise AtomslimError(
                    f"{address}: nobody listens ({one_line(error)}): start the engine, which is the server, first"
                ) from error
            time.sleep(LOOK_AGAIN)
    with connection:
        yield connection


def _connector(address: str) -> Callable[[], socket.socket]:
    """Return a function that connects to HOST:PORT, or to a Unix socket by name or path."""
    host, separator, port = address.rpartition(":")
    if separator and "/" not in address:
        if not host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 2**16:
            raise ConfigError(f"{address}: is not an address: write HOST:PORT, as in localhost:31415, or a name")
        return lambda: _tcp_connection(host.strip("[]"), int(port))
    if not address.strip("/"):
        raise ConfigError(f"socket {address!r}: write HOST:PORT, or the name that the engine's input has")
    path = address if "/" in address else UNIX_PREFIX + address
    if len(path.encode()) > LONGEST_PATH:
        raise ConfigError(f"{path}: is longer than the {LONGEST_PATH} bytes of a socket's path: use a shorter one")
    return lambda: _unix_connection(path)


def _tcp_connection(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=ANSWERS_WITHIN)
    connection.settimeout(None)
    return connection


def _unix_connection(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
