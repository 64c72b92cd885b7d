"""Errors that a user's input can cause; the command line prints each as one line and exits with status 1."""


class AtomslimError(Exception):
    """Base of every error caused by input: its message is one line that names the place and the remedy."""


class StructureError(AtomslimError):
    """A structure that no model can take: NaN positions, overlapping atoms, an unknown element, a flat cell."""


class CheckpointError(AtomslimError):
    """A model file that cannot be read, or whose tensors do not fit the architecture it claims."""


class ConfigError(AtomslimError):
    """Options that contradict each other, or name something that does not exist (an unknown task, say)."""


class DataError(AtomslimError):
    """A dataset's file that is broken, incomplete, or not what its reader expects; names the file and the record."""


class AtomslimWarning(UserWarning):
    """Results that are right as computed but may mislead: direct forces in molecular dynamics, trimmed neighbours."""
