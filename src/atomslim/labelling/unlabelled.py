"""Why a structure has no labels."""


class Unlabelled(Exception):  # noqa: N818 -- no error of the run: structures without labels are counted
    """A structure that a teacher gives no labels for; the text says why."""


class Hung(Unlabelled):
    """A structure for which a teacher took too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
