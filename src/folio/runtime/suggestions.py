"""TODO folio.runtime.suggestions."""

import difflib


def did_you_mean(value: str, options: list[str]) -> str:
    """The nearest of the options as the end of a sentence; empty where none is near."""
    near = difflib.get_close_matches(value.lower(), options, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
