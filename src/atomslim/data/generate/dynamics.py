"""Molecular dynamics of one molecule, paracetamol, which is larger than any other here: something to fine-tune on.

Each group is a trajectory of its own from the relaxed molecule: 500 K, stochastic velocity rescaling, steps of 1 fs.
"""

from collections.abc import Iterator

from ase import units
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from numpy.random import Generator

from atomslim.atoms.sample import Sample
from atomslim.data.generate.labels import Labeller
from atomslim.data.generate.molecules import embedded, relaxed

SMILES = "CC(=O)Nc1ccc(O)cc1"
TEMPERATURE = 500.0
"""K."""

EVERY = 10
"""Steps between two frames, and ten times as many before the first."""

_RELAXATION = 50.0
"""fs, of the temperature (Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007))."""


def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
    """Give frames of a trajectory without end."""
    label.group = f"paracetamol, trajectory {number}"
    atoms = relaxed(embedded(SMILES, random), label.method, steps=500)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=random)
    Stationary(atoms)
    atoms.calc = label.method.calculator()
    dynamics = Bussi(atoms, units.fs, temperature_K=TEMPERATURE, taut=_RELAXATION * units.fs, rng=random)
    dynamics.run(10 * EVERY)
    while True:
        dynamics.run(EVERY)
        if (labelled := label(atoms)) is not None:
            yield labelled
