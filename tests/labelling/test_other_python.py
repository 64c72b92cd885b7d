"""Real packages as teachers, each in a Python of its own that an environment variable names."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from atomslim.labelling.label import label

TEACHERS = {
    "ATOMSLIM_MACE_PYTHON": "ase:mace.calculators:MACECalculator?model_paths=small.model&device=cpu",
    "ATOMSLIM_SEVENNET_PYTHON": "ase:sevenn.calculator:SevenNetCalculator?model=7net-0&device=cpu",
}

MACE = """
import numpy as np, torch
from mace import modules  # first: it tells torch to load what e3nn needs
from e3nn import o3
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
blocks = modules.blocks
torch.save(modules.ScaleShiftMACE(
    r_max=4.0, num_bessel=4, num_polynomial_cutoff=5, max_ell=1, num_interactions=2, num_elements=2,
    interaction_cls_first=blocks.RealAgnosticInteractionBlock,
    interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
    hidden_irreps=o3.Irreps("4x0e+4x1o"), MLP_irreps=o3.Irreps("4x0e"), atomic_energies=np.array([[-1.0, -2.0]]),
    avg_num_neighbors=8.0, atomic_numbers=[8, 12], correlation=2, gate=torch.nn.functional.silu, radial_MLP=[6],
    atomic_inter_scale=[1.3], atomic_inter_shift=[0.4], heads=["Default"],
), "small.model")
"""
"""Saves a small model with random weights, as the package does."""

DIRECT = """
import sys
import numpy as np
from ase.io import read
module, made, arguments = sys.argv[1:]
calculator = getattr(__import__(module, fromlist=[made]), made)(**eval(arguments))
for number, atoms in enumerate(read("cells.xyz", ":")):
    calculator.reset()
    atoms.calc = calculator
    np.savez(f"{number}.npz", energy=atoms.get_potential_energy(), forces=atoms.get_forces(), stress=atoms.get_stress())
"""
"""Computes labels without atomslim."""


def cells() -> list[Atoms]:
    found = [bulk("MgO", "rocksalt", a=4.21, cubic=True), bulk("MgO", "rocksalt", a=4.4)]
    for number, atoms in enumerate(found):
        atoms.rattle(0.05, seed=number)
    return found


@pytest.mark.parametrize("variable", TEACHERS)
def test_labels_of_another_python_are_the_bits_that_it_computes(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, name = os.environ.get(variable), TEACHERS[variable]
    if python is None:
        pytest.skip(f"{variable} names no Python that has the package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write("cells.xyz", cells())
    module, made = name.removeprefix("ase:").partition("?")[0].split(":")
    arguments = repr(dict(one.split("=") for one in name.partition("?")[2].split("&")))
    if "small.model" in name:
        subprocess.run([python, "-c", MACE], check=True, capture_output=True)
    subprocess.run([python, "-c", DIRECT, module, made, arguments], check=True, capture_output=True)
    done = label("cells.xyz", name, "labelled", teacher_python=python)
    assert {"energy", "forces", "stress"} <= set(done.given.labels)
    assert not done.given.faults
    for number, sample in enumerate(done.container):
        with np.load(f"{number}.npz") as own:
            assert float(sample.targets["energy"]) == float(own["energy"])
            assert sample.targets["forces"].tobytes() == own["forces"].astype(np.float64).tobytes()
            np.testing.assert_array_equal(sample.to_ase().get_stress(), own["stress"])
