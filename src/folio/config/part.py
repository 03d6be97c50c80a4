"""The key `part`, by which many machines divide the preparation of a corpus."""

import re
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator


class PartOfCorpus(NamedTuple):
    """Part `number` of `n_parts`, counted from 1; all of them, to be joined, if number is None."""

    number: int | None
    n_parts: int


def parse_part(text: Any) -> PartOfCorpus:
    """Return the meaning of 3/16 or join/16. Raises: ValueError."""
    match = re.fullmatch(r"(join|\d{1,6})/(\d{1,6})", str(text))
    if match is not None:
        part = PartOfCorpus(None if match[1] == "join" else int(match[1]), int(match[2]))
        if part.n_parts >= 1 and (part.number is None or 1 <= part.number <= part.n_parts):
            return part
    raise ValueError("must be k/n with k from 1 to n, as in part=3/16, or join/n, as in part=join/16")


def _check(text: Any) -> Any:
    if text is not None:
        parse_part(text)
    return text


Part = Annotated[str, BeforeValidator(_check)]
"""A part of a corpus, as people write it."""
