"""Packages: what goes in and comes out, what is refused, and, compiled once, that machine code gives the same."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

import atomslim
from atomslim.atoms import find_pairs, from_ase
from atomslim.cli.main import main
from atomslim.errors import AtomslimError, AtomslimWarning, CheckpointError, ConfigError, StructureError
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.inference import package as packaging
from atomslim.inference import packaged
from atomslim.inference.calculator import Calculator
from atomslim.inference.package import description, deviations, package
from atomslim.inference.packaged import PackagedCalculator
from atomslim.inference.program import INPUTS, OUTPUTS, Program, inputs_of
from atomslim.models import Target, Task, energy_and_forces
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import save
from pages import ROOT, blocks
from samples import ethanol, moving, sheared_crystal, slab
from small_models import jmp

GRAPH = JMPGraphSettings(cutoff=4.5, main=12, atom=400, atom_edge=8, quad=3)
DIRECT = energy_and_forces("direct", forces="direct", graph=GRAPH)
CONSERVATIVE = energy_and_forces("conservative", forces="conservative", graph=GRAPH)
BOTH = Task(
    name="both",
    graph=GRAPH,
    targets=(
        Target(name="U", kind="energy", mean=-3.0, references={6: -1000.0, 78: -2000.0}, reduction="mean"),
        Target(name="head", kind="direct_forces"),
        Target(name="gap", kind="scalar"),
        Target(name="F", kind="conservative_forces"),
    ),
)
KCAL = Task(graph=JMPGraphSettings(), name="kcal", targets=(Target(name="energy", kind="energy", unit="kcal/mol"),))
ENERGY = Task(graph=JMPGraphSettings(), name="energy alone", targets=(Target(name="energy", kind="energy"),))


def tiny(*tasks: Task) -> JMP:
    return jmp(*tasks, num_blocks=1, num_spherical=2, num_radial=8)


def run(program: Program, atoms: Atoms) -> tuple[Tensor, ...]:
    batch = from_ase(atoms)
    positions, numbers, tags, cell, neighbours, offsets = inputs_of(batch, find_pairs(batch, 5.0))
    return program(positions, numbers, tags, cell, neighbours, offsets)


# the program


@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE, BOTH], ids=lambda task: task.name)
@pytest.mark.parametrize("structure", [ethanol, sheared_crystal, slab])
def test_gives_what_the_model_predicts(structure: Callable[[], Atoms], task: Task) -> None:
    model, atoms = tiny(task), structure()
    expected = model.predict(from_ase(atoms))
    energy, forces, *derivative = run(Program(model, task), atoms)
    assert {energy.dtype, forces.dtype} == {torch.float64}
    torch.testing.assert_close(energy, expected["U" if task is BOTH else "energy"][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(forces, expected["F" if task is BOTH else "forces"], rtol=1e-9, atol=1e-12)
    assert len(derivative) == task.conservative
    if task.conservative and structure is sheared_crystal:
        torch.testing.assert_close(derivative[0], expected["stress"][0] * atoms.cell.volume, rtol=1e-9, atol=1e-11)


def test_empty_slots_change_nothing() -> None:
    program, batch = Program(tiny(CONSERVATIVE), CONSERVATIVE), from_ase(slab())
    positions, numbers, tags, cell, neighbours, offsets = inputs_of(batch, find_pairs(batch, 5.0))
    itself = torch.arange(batch.num_atoms)[:, None].repeat(1, 4)
    padded = torch.cat([itself, neighbours], 1), torch.cat([offsets.new_zeros(*itself.shape, 3), offsets], 1)
    given = program(positions, numbers, tags, cell, neighbours, offsets)
    for found, expected in zip(program(positions, numbers, tags, cell, *padded), given, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# what is refused


class Another(BlockModel):
    """Some other architecture."""

    topology = features = read = raw_outputs = physical_outputs = readout_maps = with_blocks = parts = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (tiny(DIRECT, CONSERVATIVE), {}, "2 tasks: choose one of direct, conservative"),
        (tiny(DIRECT), {"task": "rmd17"}, "unknown task 'rmd17': the model has direct"),
        (tiny(KCAL), {}, "task kcal has energies in kcal/mol"),
        (tiny(ENERGY), {}, "task energy alone has no forces"),
        (Another(), {}, "models of the class Another belong to no family"),
        (tiny(DIRECT), {"output": "small.so"}, "small.so: a package ends in .pt2"),
        (tiny(DIRECT), {"device": "meter"}, "device meter: torch cannot use it here"),
    ],
)
def test_what_cannot_be_packaged(tmp_path: Path, model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        package(model, tmp_path / options.pop("output", "small.pt2"), **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler no-such-compiler: install"):
        package(tiny(DIRECT), tmp_path / "small.pt2")


def test_no_folder_is_said_before_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packaging, "compiled", pytest.fail)
    save(tiny(DIRECT), tmp_path / "small.safetensors")
    assert main(["package", str(tmp_path / "small.safetensors"), "-o", str(tmp_path / "none" / "small.pt2")]) == 1
    assert f"{tmp_path / 'none'}: there is no such folder" in capsys.readouterr().err


def test_agreement() -> None:
    program = Program(tiny(BOTH), BOTH)
    found = deviations(program, program)
    assert found.structures == 8
    assert max(found.energy, found.forces) < 1e-9


@pytest.mark.parametrize(("index", "name"), [(0, "energy"), (1, "forces")])
def test_a_package_that_disagrees_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int, name: str
) -> None:
    program = Program(tiny(CONSERVATIVE), CONSERVATIVE)

    def wrong(*inputs: Tensor) -> list[Tensor]:
        outputs = list(program(*inputs))
        outputs[index] = outputs[index] + 1e-6 * (len(inputs[0]) == 9)
        return outputs

    monkeypatch.setattr(packaging, "compiled", lambda _, path: path)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: wrong)
    (tmp_path / "small.pt2").write_text("what was here before")
    with pytest.raises(AtomslimError, match=f"disagrees with the model: {name} of C2OH6 by 1.0e-06 .* not written"):
        package(program.model, tmp_path / "small.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was here before"]


def test_forces_that_cancel_may_be_off_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaging, "structures", lambda: [bulk("Cu")])
    models = [atomslim.load("mini", dtype=dtype) for dtype in (torch.float32, torch.float64)]
    rounded, exact = (Program(model, model.task("molecules")) for model in models)
    off = packaging.deviations(rounded, exact).forces  # by symmetry, there is no force on the only atom
    assert off > 1e-4

    def wrong(*inputs: Tensor) -> list[Tensor]:
        energy, forces = exact(*inputs)
        return [energy, forces + 6 * off]

    with pytest.raises(AtomslimError, match="disagrees with the model: forces of Cu by"):
        packaging.deviations(rounded, wrong)


def test_a_package_that_fails_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Tensor) -> list[Tensor]:
        raise RuntimeError("Expected u0 <= 216 but received 364")

    monkeypatch.setattr(packaging, "compiled", lambda _, path: path)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: failing)
    with pytest.raises(AtomslimError, match=r"fails for H2, Expected u0 <= 216 .*: it is not written"):
        package(tiny(DIRECT), tmp_path / "small.pt2")
    assert list(tmp_path.iterdir()) == []


# the calculator


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PackagedCalculator]:
    """Makes calculators of packages that are not compiled."""

    def make(task: Task, **options: Any) -> PackagedCalculator:
        program = Program(tiny(task), task)
        monkeypatch.setattr(packaged, "load_package", lambda _: (program, json.loads(json.dumps(description(program)))))
        return PackagedCalculator("small.pt2", **options)

    return make


@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE, BOTH], ids=lambda task: task.name)
@pytest.mark.parametrize("structure", [ethanol, sheared_crystal, slab])
@pytest.mark.filterwarnings("ignore:task .* keeps the 12 nearest")
@pytest.mark.filterwarnings("ignore:.*(was not trained on|ignores charges)")
def test_calculates_what_the_usual_one_does(
    pretended: Callable[..., PackagedCalculator], structure: Callable[[], Atoms], task: Task
) -> None:
    one, other = structure(), structure()
    one.calc, other.calc = pretended(task), Calculator(tiny(task))
    for _ in range(3):
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-10)
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), rtol=1e-8, atol=1e-11)
        if "stress" in other.calc.results:
            np.testing.assert_allclose(one.get_stress(), other.get_stress(), rtol=1e-8, atol=1e-12)
        assert set(one.calc.results) == set(other.calc.results) - {"gap"}
        one.rattle(0.02, seed=7)
        other.rattle(0.02, seed=7)
    assert one.calc.neighbour_searches == 1


def test_warns_as_the_usual_one_does(pretended: Callable[..., PackagedCalculator]) -> None:
    atoms = moving(sheared_crystal())
    atoms.calc = pretended(DIRECT)
    with pytest.warns(AtomslimWarning) as caught:
        atoms.get_forces()
    assert ["are direct" in str(warning.message) for warning in caught] == [True, False]
    share = float(tiny(DIRECT).topology(from_ase(atoms)).capped_fraction)
    assert f"leaves out {share:.1%} of the pairs" in str(caught[1].message)
    atoms = sheared_crystal()
    atoms.calc = pretended(DIRECT, strict=True)
    with pytest.raises(StructureError, match="keeps the 12 nearest"):
        atoms.get_forces()


@pytest.mark.filterwarnings("ignore:.*(was not trained on|ignores charges)")
def test_a_single_atom_is_refused(pretended: Callable[..., PackagedCalculator]) -> None:
    atoms = molecule("H")
    atoms.calc = pretended(CONSERVATIVE)
    with pytest.raises(StructureError, match=r"no two atoms are within 4\.5 Å"):
        atoms.get_potential_energy()


def test_what_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt2: there is no such file"):
        PackagedCalculator(tmp_path / "none.pt2")
    save(tiny(DIRECT), tmp_path / "model.pt2")
    with pytest.raises(CheckpointError, match=r"model\.pt2: is not a package of atomslim: make it again"):
        PackagedCalculator(tmp_path / "model.pt2")


def test_description_says_what_goes_in_and_out() -> None:
    found = json.loads(json.dumps(description(Program(tiny(DIRECT), DIRECT))))
    assert {entry["name"]: (entry["dtype"], entry["shape"]) for entry in found["inputs"]} == INPUTS
    assert [entry["name"] for entry in found["outputs"]] == list(OUTPUTS)[:2]
    assert (found["forces"], found["cutoff"], found["device"]) == ("direct", 4.5, "cpu")


# compiled: takes minutes, so that one test looks at everything, another at what only direct forces in float32 show


def compiling(test: Callable[..., None]) -> Callable[..., None]:
    with_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")(test)
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore")(with_compiler))  # warnings of what torch compiles with


@compiling
def test_compiled_direct_forces_add_up(tmp_path: Path) -> None:
    graph = GRAPH.model_copy(update={"quad": 0})  # quicker to compile, and fails alike without plain scatters
    found = package(tiny(DIRECT.model_copy(update={"graph": graph})).float(), tmp_path / "small.pt2")
    assert found.energy < 3e-5  # rounding of energies of tens of eV in float32
    assert found.forces < 1e-5
    assert not torch.are_deterministic_algorithms_enabled()


@compiling
def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tiny(BOTH).float(), Path("aspirin.safetensors"))
    assert main(["package", "aspirin.safetensors", "-o", "aspirin.pt2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"aspirin.safetensors", "aspirin.pt2"}
    _gives_what_the_model_gives(PackagedCalculator("aspirin.pt2"))
    for block in blocks(ROOT / "docs" / "packages.md", "py"):
        exec(compile(block, "packages.md", "exec"), {})  # noqa: S102 - our own page
    _gives_the_same_in_cpp(tmp_path, PackagedCalculator("aspirin.pt2"))


def _gives_what_the_model_gives(calculator: PackagedCalculator) -> None:
    for atoms in (molecule("C60"), molecule("O2"), sheared_crystal(), slab(), bulk("Cu"), bulk("Fe", cubic=True) * 4):
        atoms.rattle(0.05, seed=8)
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        expected = Calculator("aspirin.safetensors", dtype=torch.float64)
        atoms.calc = expected
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)
        if "stress" in expected.results:
            np.testing.assert_allclose(calculator.results["stress"], expected.results["stress"], atol=1e-5)


def _gives_the_same_in_cpp(folder: Path, calculator: PackagedCalculator) -> None:
    """Compile the example, and give it a molecule and a thin crystal."""
    torch_folder = Path(torch.__file__).parent
    libraries, program = torch_folder / "lib", folder / "energy_and_forces"
    include = [f"-I{torch_folder / 'include'}", f"-I{torch_folder / 'include/torch/csrc/api/include'}"]
    link = [f"-L{libraries}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    source = ROOT / "examples" / "cpp" / "energy_and_forces.cpp"
    subprocess.run(["g++", "-std=c++20", abi, *include, str(source), "-o", str(program), *link], check=True)  # noqa: S607
    for atoms in (ethanol(), sheared_crystal()):
        cell = atoms.cell.array if atoms.pbc.all() else np.zeros((3, 3))
        numbered = [[atom.number, *atom.position.tolist()] for atom in atoms]
        text = "\n".join(" ".join(map(str, row)) for row in [[len(atoms)], *cell.tolist(), *numbered])
        done = subprocess.run([program, "aspirin.pt2"], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        numbers = np.array(done.stdout.split(), dtype=float)
        atoms.calc = calculator
        assert numbers[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(numbers[1:].reshape(-1, 3), atoms.get_forces(), atol=1e-5)
