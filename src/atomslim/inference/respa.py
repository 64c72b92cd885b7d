"""Multiple time stepping in ASE: a small model moves the atoms, the full one corrects every few steps.

Reversible RESPA (Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990 (1992)) with the full model's forces F and the
small model's f. The propagator of n inner steps δt is, with Δt = n δt,

    exp(iL Δt) ≈ exp(Δt/2 (F − f) ∂/∂p) [exp(δt/2 f ∂/∂p) exp(δt p/m ∂/∂r) exp(δt/2 f ∂/∂p)]ⁿ exp(Δt/2 (F − f) ∂/∂p)

It is symplectic and reversible, and the energy that it keeps is the full model's, up to terms in Δt² that grow with
the difference between the models. A less accurate small model needs shorter outer steps, not another ensemble.
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.constraints import FixAtoms
from ase.md.md import MolecularDynamics
from numpy.typing import NDArray

from atomslim.errors import ConfigError
from atomslim.inference.named_calculators import Named, calculator_of


class Respa(MolecularDynamics):
    """Moves atoms at constant energy of their own calculator, the full model, which is called once in n steps.

        atoms.calc = atomslim.Calculator("full.safetensors")
        Respa(atoms, timestep=0.5 * units.fs, small="small.safetensors", inner_steps=4).run(1000)

    One step of `run` is one outer step, n inner ones; observers and logs see the full model's energy and forces.
    """

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        small: Named,
        *,
        inner_steps: int = 4,
        task: str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """Make an integrator.

        Args:
            atoms: what is moved, with the full model as its calculator.
            timestep: the inner step δt in ASE's units of time; what the fastest vibration allows.
            small: the small model: a model, a model file, a package, an ASE calculator or its import path.
            inner_steps: how many inner steps n make an outer one. With hydrogen, keep n δt below 4 fs: a longer one
                comes into resonance with the fastest vibrations.
            task: name of the small model's task head; needed where it has several.
            device: where the small model runs; default: its present device.
            **options: those of ASE's `MolecularDynamics`: trajectory, logfile, loginterval, append_trajectory.

        Raises:
            ConfigError: atoms without a calculator, a step that is not positive, fewer than one inner step, constraints
                other than fixed atoms, or an invalid small model.

        """
        if atoms.calc is None:
            raise ConfigError("the atoms have no calculator: give them the full model")
        if inner_steps < 1 or not timestep > 0:
            raise ConfigError(f"{inner_steps} inner steps of {timestep}: give at least one, with a positive time step")
        if not all(isinstance(constraint, FixAtoms) for constraint in atoms.constraints):
            raise ConfigError(
                "constraints other than fixed atoms are not kept here: remove them, or use VelocityVerlet"
            )
        self.inner_steps, self.inner_timestep = inner_steps, timestep
        self.small: AseCalculator = calculator_of(small, task=task, device=device)
        super().__init__(atoms, inner_steps * timestep, **options)
        self._inner: Atoms = atoms.copy()
        self._inner.calc = self.small

    def todict(self) -> dict[str, Any]:
        """Describe the integrator, for trajectories."""
        described: dict[str, Any] = super().todict()  # type: ignore[no-untyped-call]
        return described | {"inner_steps": self.inner_steps, "small": self.small.name}

    def step(self) -> NDArray[np.float64]:
        """Make one outer step, and return the full model's forces (n, 3) in eV/Å after it."""
        atoms, inner, time = self.atoms, self._inner, self.inner_timestep
        forces = self._small_forces()
        momenta = atoms.get_momenta() + 0.5 * self.dt * (atoms.get_forces() - forces)
        for _ in range(self.inner_steps):
            momenta = momenta + 0.5 * time * forces
            inner.positions += time * momenta / self.masses
            forces = inner.get_forces()
            momenta = momenta + 0.5 * time * forces
        atoms.positions = inner.positions
        atoms.set_momenta(momenta, apply_constraint=False)
        full: NDArray[np.float64] = atoms.get_forces()
        atoms.set_momenta(momenta + 0.5 * self.dt * (full - forces))
        return full

    def _small_forces(self) -> NDArray[np.float64]:
        """Return the small model's forces where the atoms are, kept from the last step unless somebody moved them."""
        self._inner.positions = self.atoms.positions
        self._inner.cell[:] = self.atoms.cell
        forces: NDArray[np.float64] = self._inner.get_forces()
        return forces
