"""Fast predictions for one structure after another, as dynamics asks for: fewer and larger operations, same numbers."""

from atomslim.families.jmp.steps.steps import JMPSteps

__all__ = ["JMPSteps"]
