"""Text of unknown origin as it may be shown on a terminal."""

import re

HIDDEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Control characters, which a terminal obeys; marks that turn the direction of what follows; halves of surrogate
pairs, which cannot be printed at all."""


def printable(text: str, keep: str = "\n\t") -> str:
    r"""The same text with hidden characters written as Python would: an escape becomes \x1b."""
    return HIDDEN.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)
