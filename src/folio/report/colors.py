"""The colors of groups: the same in tables, curves and plots, and distinguishable for color-blind people."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b5538c", "#b57b00", "#3a9bd9", "#5c5c5c")
"""After Okabe and Ito 2008, "Color Universal Design", without yellow, which is invisible on white."""
DARK = ("#5ab0e8", "#ff9350", "#35cfa1", "#e9a3cb", "#f2bd45", "#9ad6f7", "#bdbdbd")
"""The same colors for a dark page."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Dash patterns in SVG's notation. The next one is used each time that the colors start over."""

SCALE = ("#f2a65a", "#e9764f", "#c23b6e", "#7f2a87", "#3b1f6b")
"""For more numbers than there are colors, from the lowest to the highest."""
SCALE_DARK = ("#7a4fd0", "#b65fc9", "#e8718d", "#f6a96b", "#fbe3a4")


@dataclass(frozen=True)
class Style:
    """Color and dash pattern of a line."""

    light: str
    dark: str
    dash: str


def assign_styles(values: Sequence[str]) -> dict[str, Style]:
    """Return a style for each distinct value, in the order of a legend."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) > len(LIGHT) and all(_is_finite_number(value) for value in distinct):
        last = len(distinct) - 1
        return {
            value: Style(interpolate(SCALE, index / last), interpolate(SCALE_DARK, index / last), "")
            for index, value in enumerate(sorted(distinct, key=float))
        }
    return {
        value: Style(LIGHT[index % len(LIGHT)], DARK[index % len(DARK)], DASHES[index // len(LIGHT) % len(DASHES)])
        for index, value in enumerate(distinct)
    }


def interpolate(scale: Sequence[str], fraction: float) -> str:
    """Return the color at a fraction (0 to 1) of a scale."""
    position = fraction * (len(scale) - 1)
    low = min(int(position), len(scale) - 2)
    weight = position - low
    channels = [(int(scale[low][at : at + 2], 16), int(scale[low + 1][at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(first * (1 - weight) + second * weight):02x}" for first, second in channels)


def _is_finite_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
