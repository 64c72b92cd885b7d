"""Why a structure has no labels."""

from ase.calculators.calculator import CalculationFailed


class Unlabelled(CalculationFailed):
    """A structure for which a teacher gives no labels; the text says why. ASE calculators fail the same way."""


class Hung(Unlabelled):
    """A structure for which a teacher took too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
