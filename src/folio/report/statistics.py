"""What can be said of a few numbers: mean, spread, and whether two means differ by more than the noise.

Student's t by its definition, in a few lines, because scipy would be a large dependency for one function.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Of the tests: how often a difference may be claimed where there is none, over all comparisons together."""


@dataclass(frozen=True)
class Summary:
    """Of the values of one configuration; `deviation` is the sample's, and None for a single value."""

    n: int
    mean: float
    deviation: float | None

    @property
    def margin(self) -> float | None:
        """Half of the 95 % interval of the mean by Student's t; None for a single value."""
        if self.deviation is None:
            return None
        return t_quantile(self.n - 1) * self.deviation / math.sqrt(self.n)


def summarize(values: Sequence[float]) -> Summary | None:
    """None where there are no values."""
    if not values:
        return None
    return Summary(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Difference:
    """Of the means of two configurations, the second minus the first."""

    value: float
    margin: float
    """Half of its 95 % interval, of this pair alone."""
    p: float
    """How often chance alone would give one as large, of this pair alone."""


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's t test, which does not take the two spreads for equal.

    None where nothing can be said: with a single value on a side, or where neither side shows any spread.
    """
    if min(len(first), len(second)) < 2:
        return None
    errors = [statistics.variance(values) / len(values) for values in (first, second)]
    value, error = statistics.fmean(second) - statistics.fmean(first), sum(errors)
    if error <= 0.0:
        return None
    parts = [part**2 / (len(values) - 1) for part, values in zip(errors, (first, second), strict=True)]
    if sum(parts) <= 0.0:  # squares too small for a float
        return None
    freedom = error**2 / sum(parts)
    root = math.sqrt(error)
    return Difference(value, t_quantile(freedom) * root, two_sided_p(value / root, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p values, made larger for their number: Holm 1979, "A simple sequentially rejective procedure"."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def two_sided_p(t: float, freedom: float) -> float:
    """The chance of a Student's t at least as far from 0."""
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """The t that is passed on either side with a chance of `level` in all: 1.96 for many degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > level:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > level else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # where the other side's converges sooner
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Evaluated from its end: 200 terms are more than any a and b here need.
    fraction = 0.0
    for term in range(200, 0, -1):
        half, odd = divmod(term, 2)
        if odd:
            factor = -(a + half) * (a + b + half) / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            factor = half * (b - half) / ((a + 2 * half - 1) * (a + 2 * half))
        fraction = factor * x / (1.0 + fraction)
    return math.exp(log_front) / a / (1.0 + fraction)
