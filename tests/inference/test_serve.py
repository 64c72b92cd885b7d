"""Our end of i-PI's socket: what an engine gets, what it may not do, and a run of i-PI itself where it is installed."""

import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.emt import EMT
from ase.calculators.socketio import IPIProtocol, SocketClosed, SocketIOCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

from atomslim.cli.main import main
from atomslim.errors import AtomslimError, ConfigError
from atomslim.inference.calculator import Calculator
from atomslim.inference.parity import expected_of, require_parity, structure_alone
from atomslim.inference.serve import serve
from atomslim.models import Task
from atomslim.models.model_file import save
from samples import CONSERVATIVE, DIRECT, ethanol, moving, sheared_crystal, small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*(was not trained on|ignores charges)")

IPI = Path(sys.executable).with_name("i-pi")

INPUT = """
<simulation verbosity='low'>
  <output prefix='run'>
    <properties filename='out' stride='1'>
      [ potential{electronvolt}, conserved{electronvolt}, virial_md{ev/ang3} ]
    </properties>
    <trajectory filename='pos' stride='1' format='ase' > positions{ase} </trajectory>
    <trajectory filename='force' stride='1' format='ase' > forces{ase} </trajectory>
  </output>
  <total_steps>8</total_steps>
  <ffsocket name='model' mode='unix' pbc='false'>
    <address>NAME</address>
  </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='ase'> start.xyz </file>
      <velocities mode='thermal' units='kelvin'> 50 </velocities>
    </initialize>
    <forces> <force forcefield='model'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics>
    </motion>
  </system>
</simulation>
"""


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"atomslim-test-{tmp_path.name}-{socket.gethostname()}-{id(tmp_path)}"


def served(calculator: AseCalculator, atoms: Atoms, address: str) -> tuple[threading.Thread, list[Any]]:
    """Serve in another thread; what came of it is in the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(serve(calculator, atoms, address, wait=20))
        except AtomslimError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("task", [CONSERVATIVE, DIRECT], ids=lambda task: task.name)
def test_a_server_gets_what_the_calculator_gives(task: Task, name: str) -> None:
    atoms, calculator = sheared_crystal(), Calculator(small_model(task))
    given = atoms.copy()
    given.set_constraint(FixAtoms([0]))  # the engine's business
    with SocketIOCalculator(unixsocket=name, timeout=20) as engine:
        thread, outcome = served(calculator, given, name)
        for _ in range(3):
            atoms.rattle(0.05, seed=1)
            expected = expected_of(Calculator(small_model(task)), atoms)
            engine.get_property("energy", atoms)
            assert engine.results["energy"] == pytest.approx(expected["energy"], rel=1e-10)
            np.testing.assert_allclose(engine.results["forces"], expected["forces"], atol=1e-10)
            virial = expected.get("virial", np.zeros((3, 3)))
            found = -atoms.get_volume() * engine.get_stress(atoms)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
            np.testing.assert_allclose(found, virial, atol=1e-9)
    thread.join()
    assert outcome == [3]


@pytest.mark.parametrize(
    ("task", "structure", "words"),
    [
        (CONSERVATIVE, sheared_crystal, "GaAs, periodic"),
        (CONSERVATIVE, ethanol, "C2OH6, not periodic; no stress: the virial is zero, which no barostat may use"),
        (DIRECT, sheared_crystal, "GaAs, periodic; forces are direct, not the gradient of the energy: .*; no stress:"),
    ],
)
def test_says_what_is_served(task: Task, structure: Any, words: str, name: str) -> None:
    said: list[str] = []
    with pytest.raises(AtomslimError, match=f"{name}: nobody listens .*start the engine, which is the server, first"):
        serve(Calculator(small_model(task)), structure(), name, wait=0, said=said.append)
    (line,) = said
    assert re.match(words, line)


def listening(tmp_path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen(1)
    return server


def test_another_number_of_atoms_is_refused(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        thread, outcome = served(Calculator(small_model()), ethanol(), str(tmp_path / "s"))
        connection, _ = server.accept()
        with connection:
            engine = IPIProtocol(connection)
            assert engine.status() == "READY"
            engine.sendposdata(np.eye(3), np.eye(3), np.zeros((1, 3)))
            thread.join()
    assert isinstance(outcome[0], ConfigError)
    assert str(outcome[0]) == "the engine has 1 atoms, the structure 9: give the engine's own structure"


@pytest.mark.parametrize(
    ("sent", "words"),
    [(b"GET / HTTP/1.1\r\n\r\n", "speaks another protocol than i-PI's"), (b"POSDATA     abc", "broke off after 0")],
)
def test_an_engine_that_is_none(tmp_path: Path, sent: bytes, words: str) -> None:
    with listening(tmp_path) as server:
        thread, outcome = served(Calculator(small_model()), ethanol(), str(tmp_path / "s"))
        connection, _ = server.accept()
        with connection:
            connection.sendall(sent)
        thread.join()
    assert words in str(outcome[0])


class Failing(EMT):
    """Computes until it is told to fail."""

    fails = False

    def calculate(self, *arguments: Any) -> None:
        if self.fails:
            raise RuntimeError("out of\nmemory")
        super().calculate(*arguments)  # type: ignore[no-untyped-call]


def test_a_calculator_that_fails_in_a_run(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        atoms, calculator = bulk("Cu"), Failing()  # type: ignore[no-untyped-call]
        thread, outcome = served(calculator, atoms, str(tmp_path / "s"))
        connection, _ = server.accept()
        calculator.fails = True
        with connection, pytest.raises((SocketClosed, ConnectionError)):
            IPIProtocol(connection).calculate(atoms.positions + 0.1, 1.01 * atoms.cell.array)
        thread.join()
    assert str(outcome[0]) == f"{tmp_path / 's'}: the calculator fails after 0 structures: RuntimeError: out of memory"


def test_a_calculator_that_does_not_know_the_elements() -> None:
    with pytest.raises(
        AtomslimError,
        match=r"^Ar: the calculator fails for this structure: NotImplementedError: No EMT-potential for Ar",
    ):
        serve(EMT(), bulk("Ar"), "nobody", wait=0)


def test_a_path_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match=r"ipi_a+: is longer than the 107 bytes of a socket's path"):
        serve(EMT(), bulk("Cu"), "a" * 120, wait=0)


@pytest.mark.parametrize("address", ["localhost:", ":31415", "localhost:99999", "localhost:port", "", "a:1:x"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        serve(Calculator(small_model()), ethanol(), address, wait=0)


def test_other_numbers_than_the_calculators_are_refused() -> None:
    expected = expected_of(Calculator(small_model()), sheared_crystal())
    require_parity("it", expected, expected)
    for what in ("energy", "forces", "virial"):
        with pytest.raises(
            AtomslimError, match=f"it gets another {what} than the calculator gives, by .*nothing is run"
        ):
            require_parity("it", expected | {what: np.asarray(expected[what]) + 1e-3}, expected)


def test_structures_come_without_constraints_and_velocities() -> None:
    atoms = moving(ethanol())
    atoms.set_constraint(FixAtoms([0]))
    bare = structure_alone(atoms)
    assert not bare.constraints
    assert not bare.has("momenta")


@pytest.mark.skipif(not IPI.is_file(), reason="needs i-PI: pip install ipi")
def test_ipi_runs_a_model(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("start.xyz", sheared_crystal() * (2, 1, 1))
    Path("input.xml").write_text(INPUT.replace("NAME", name))
    save(small_model(CONSERVATIVE), Path("model.safetensors"))
    engine = subprocess.Popen([sys.executable, IPI, "input.xml"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        served = main(["serve", "model.safetensors", "start.xyz", "--socket", name, "--device", "cpu"])
        output, _ = engine.communicate(timeout=60)
    finally:
        engine.kill()
    assert served == 0, output
    assert engine.returncode == 0, output
    assert "the engine has ended after 9 structures" in capsys.readouterr().out
    _is_what_ase_gives(Calculator("model.safetensors"))


def _is_what_ase_gives(calculator: Calculator) -> None:
    energies, conserved, *virials = np.loadtxt("run.out", unpack=True)
    moved: Any = read("run.pos_0.extxyz", ":")
    forces: Any = read("run.force_0.extxyz", ":")
    assert len(moved) == len(energies) == 9
    assert np.ptp(conserved) < 1e-4 < np.ptp(energies) * 100
    for step, atoms in enumerate(moved):
        expected = expected_of(calculator, atoms)
        assert energies[step] == pytest.approx(expected["energy"], abs=1e-6)
        np.testing.assert_allclose(forces[step].get_forces(), expected["forces"], atol=1e-6)
        virial = expected["virial"][[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]] / atoms.get_volume()
        np.testing.assert_allclose([column[step] for column in virials], virial, atol=1e-6)
