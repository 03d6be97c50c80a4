"""The colours of groups: the same in tables, curves and pictures, and told apart by colour-blind people."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b5538c", "#b57b00", "#3a9bd9", "#5c5c5c")
"""After Okabe and Ito 2008, "Color Universal Design", without yellow, which is not seen on white."""
DARK = ("#5ab0e8", "#ff9350", "#35cfa1", "#e9a3cb", "#f2bd45", "#9ad6f7", "#bdbdbd")
"""The same on a dark page."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Of lines, in SVG's words, when the colours begin anew."""

SCALE = ("#f2a65a", "#e9764f", "#c23b6e", "#7f2a87", "#3b1f6b")
SCALE_DARK = ("#7a4fd0", "#b65fc9", "#e8718d", "#f6a96b", "#fbe3a4")
"""For numbers of which there are more than colours, from the lowest to the highest."""


@dataclass(frozen=True)
class Style:
    light: str
    dark: str
    dash: str


def styles(values: Sequence[str]) -> dict[str, Style]:
    """One for each of the values, which are in the order of a legend."""
    distinct = list(dict.fromkeys(values))
    numbers = [_number(value) for value in distinct]
    if len(distinct) > len(LIGHT) and None not in numbers:
        last = len(distinct) - 1
        return {
            value: Style(mixed(SCALE, place / last), mixed(SCALE_DARK, place / last), "")
            for place, value in enumerate(sorted(distinct, key=float))
        }
    return {
        value: Style(LIGHT[place % len(LIGHT)], DARK[place % len(DARK)], DASHES[place // len(LIGHT) % len(DASHES)])
        for place, value in enumerate(distinct)
    }


def mixed(scale: Sequence[str], share: float) -> str:
    """The colour at 0 .. 1 of a scale."""
    place = share * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    upper = place - low
    pairs = [(int(scale[low][at : at + 2], 16), int(scale[low + 1][at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(first * (1 - upper) + second * upper):02x}" for first, second in pairs)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
