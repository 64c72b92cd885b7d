"""Words of messages."""


def number_of(count: int, what: str) -> str:
    """Return a number with what is counted, as in `1 structure` and `2 structures`; thousands have no separators."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
