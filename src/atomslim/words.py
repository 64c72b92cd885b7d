"""Wording of messages: counts and articles."""


def number_of(count: int, what: str) -> str:
    """Return a number with what is counted, as in `1 structure` and `2 structures`; without thousands separators."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def article(noun: str) -> str:
    """Return a noun with its article, as in `a str` and `an int`."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
