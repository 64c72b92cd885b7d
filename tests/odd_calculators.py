"""Calculators with something wrong with them, by the number of times they were asked."""

import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

STIFFNESS = 3.0


class Springs(Calculator):
    """Harmonic springs to the origin; `at` is the x of the first atom (Å) from which on `fault` shows."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]  # type: ignore[misc]

    def __init__(self, fault: str = "", at: float = 50.0, counter: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fault, self.at, self.counter, self.calls = fault, at, counter, 0

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        self.calls += 1
        if self.counter:
            with Path(self.counter).open("a") as file:
                file.write(f"{atoms.positions[0, 0]:.6f}\n")
        print("energy", self.calls)  # noqa: T201 -- as many a program does
        r = atoms.positions - np.round(atoms.positions[0] / 10) * 10  # the same wherever it stands
        self.results = {"energy": 0.5 * STIFFNESS * float((r**2).sum()), "forces": -STIFFNESS * r}
        if self.fault and atoms.positions[0, 0] > self.at:
            getattr(self, f"_{self.fault}")()

    def _nan(self) -> None:
        self.results["forces"][0, 0] = np.nan

    def _shape(self) -> None:
        self.results["forces"] = self.results["forces"][:-1]

    def _text(self) -> None:
        self.results["energy"] = "low"

    def _none(self) -> None:
        self.results["energy"] = None

    def _noforces(self) -> None:
        del self.results["forces"]

    def _raises(self) -> None:
        raise RuntimeError("SCF did not\nconverge")

    def _exits(self) -> None:
        sys.exit(3)

    def _dies(self) -> None:
        os.abort()

    def _hangs(self) -> None:
        os.write(1, b"iteration 1\n" * 100)  # no message
        time.sleep(1000)

    def _changes(self) -> None:
        self.results["energy"] += 0.5 * self.calls

    def _turns(self) -> None:
        self.results["forces"][0] += 0.2 * (self.calls > 6)

    def _trembles(self) -> None:
        self.results["forces"][0] += 0.002 * (self.calls > 6)

    def _wrong(self) -> None:
        self.results["forces"] = 0.8 * self.results["forces"]

    def _free(self) -> None:
        self.results["free_energy"] = self.results["energy"]
        self.results["energy"] += 0.3


class Free(Springs):
    """Gives a free energy, of which forces are the gradient, and another energy."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "free_energy"]  # type: ignore[misc]


class Tired(Springs):
    """Changes its answers when it was asked often."""

    def calculate(self, *args: Any, **more: Any) -> None:
        super().calculate(*args, **more)
        self.results["energy"] += max(self.calls - 10, 0)


class Doubled(EMT):
    """Gives another stress than its energy has."""

    def calculate(self, *args: Any, **more: Any) -> None:
        super().calculate(*args, **more)  # type: ignore[no-untyped-call]
        self.results["stress"] = 1.5 * self.results["stress"]


class Slow(Springs):
    """Takes its time."""

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        time.sleep(0.03)
        super().calculate(atoms, properties, system_changes)
