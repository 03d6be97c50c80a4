"""Statistics of measured numbers, and how they are written. Pure functions; imports no torch."""

import math
import statistics
from collections.abc import Sequence

import numpy as np


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio in each round: what slows down both sides of a round cancels out."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median over rounds of the ratio in each, which is not the ratio of the medians."""
    return statistics.median(ratios(numerators, denominators))


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the p of values ~ sizes ** p, by least squares on the logarithms of both."""
    assert len(sizes) == len(values) >= 2
    assert min(sizes) > 0
    # Memory that does not measurably grow would have no logarithm.
    logs = [math.log(max(value, 1e-12)) for value in values]
    slope, _ = np.polyfit(np.log(np.asarray(sizes, dtype=float)), logs, 1)
    return float(slope)


def largest_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest difference of two lists, as far as both go; infinity if a difference is NaN."""
    differences = [abs(a - b) for a, b in zip(losses, others, strict=False)]
    return max((math.inf if math.isnan(difference) else difference for difference in differences), default=0.0)


def first_at_most(values: Sequence[float], limit: float) -> int | None:
    """Return the index of the first value at or below the limit."""
    return next((index for index, value in enumerate(values) if value <= limit), None)


def format_number(value: float) -> str:
    """Write a number with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_tick(value: float) -> str:
    """Write a number for the axis of a plot: 64, 4k, 20G."""
    for factor, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"
