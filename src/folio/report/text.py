"""Text for people: values cleaned of control characters, formatted, shortened and sorted."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from folio.runtime.terminal import printable

Scalar = bool | int | float | str | None

MAX_TEXT = 400
"""Characters of a value or an error that are shown."""

ABSENT = "—"
"""Shown for a run that does not have a key (SGD has no betas) or a metric."""


def clean_text(value: object, max_length: int = MAX_TEXT) -> str:
    """Return a value as one line of bounded length. Control characters are written as escapes."""
    text = printable(str(value), keep="")
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def format_value(value: Scalar) -> str:
    """Return a config value as a person types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def fixed_point(n_digits: int) -> Callable[[float], str]:
    """Return a formatter that writes n digits after the decimal point."""
    return lambda value: f"{value:,.{n_digits}f}"


def three_digits(value: float) -> str:
    """Write three significant digits, and all digits before the decimal point: 0.512, 12.3, 12,345."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def join_names(names: Sequence[str], max_names: int = 5) -> str:
    """Join names as in a sentence: a, b and c."""
    names = [*names[:max_names], f"{len(names) - max_names} more"] if len(names) > max_names else list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def natural_sort_key(text: str) -> list[Any]:
    """Return a key that sorts numbers in text by value: seed=2 before seed=10, and 0.0121 before 0.15."""
    parts = re.split(r"(\d{1,18}(?:\.\d{1,18})?(?:e[+-]?\d{1,2})?)", text)  # every other part is a number
    return [(1, 0.0, part) if i % 2 == 0 else (0, float(part), "") for i, part in enumerate(parts)]
