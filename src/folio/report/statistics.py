"""Statistics of a few numbers: mean, standard deviation, intervals, Welch's t-test and Holm's correction.

Student's t distribution is computed from its definition: scipy would be a large dependency for one function.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

SIGNIFICANCE_LEVEL = 0.05
"""Chance of finding a significant difference where there is none, over all comparisons together."""


@dataclass(frozen=True)
class Summary:
    """Sample statistics of a few values."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation; None for a single value."""

    @property
    def margin(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean; None for a single value."""
        return None if self.std is None else critical_t(self.n - 1) * self.std / math.sqrt(self.n)

    def prediction_margin(self, n_new: int) -> float | None:
        """Half the width of the 95 % prediction interval for the mean of n more values; None without a spread.

        If all values come from one normal distribution, 95 % of such means lie within: t(n - 1) s sqrt(1/n + 1/n_new).
        Source: Hahn 1969, "Factors for calculating two-sided prediction intervals".
        """
        if not self.std:
            return None
        return critical_t(self.n - 1) * self.std * math.sqrt(1 / self.n + 1 / n_new)


def summarize(values: Sequence[float]) -> Summary | None:
    """Return the statistics of the values; None if there are no values."""
    if not values:
        return None
    return Summary(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class WelchTest:
    """Result of Welch's t-test for two samples."""

    difference: float
    """Mean of the second sample minus mean of the first."""
    margin: float
    """Half the width of the 95 % confidence interval of the difference."""
    p_value: float
    """Chance of a difference at least as large if the means were equal."""


def welch_t_test(first: Sequence[float], second: Sequence[float]) -> WelchTest | None:
    """Compare two means by Welch's two-sided t-test, which does not assume equal variances.

    Returns None if either sample has a single value, or if neither has any variance.
    """
    if min(len(first), len(second)) < 2:
        return None
    squared_errors = [statistics.variance(values) / len(values) for values in (first, second)]
    difference, squared_error = statistics.fmean(second) - statistics.fmean(first), sum(squared_errors)
    if squared_error <= 0.0:
        return None
    terms = [e**2 / (len(values) - 1) for e, values in zip(squared_errors, (first, second), strict=True)]
    if sum(terms) <= 0.0:  # squares too small for a float
        return None
    df = squared_error**2 / sum(terms)
    error = math.sqrt(squared_error)
    return WelchTest(difference, critical_t(df) * error, two_sided_p_value(difference / error, df))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number: Holm 1979, "A simple sequentially rejective multiple test procedure"."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def two_sided_p_value(t: float, df: float) -> float:
    """Return the chance that Student's t with `df` degrees of freedom is at least as far from 0 as `t`."""
    return _regularized_incomplete_beta(df / (df + t * t), df / 2, 0.5)


@cache
def critical_t(df: float, level: float = SIGNIFICANCE_LEVEL) -> float:
    """Return the t whose two-sided p-value is `level`: 1.96 for many degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided_p_value(high, df) > level:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p_value(middle, df) > level else (low, middle)
    return high


def _regularized_incomplete_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # the fraction of the complement converges sooner
        return 1.0 - _regularized_incomplete_beta(1.0 - x, b, a)
    log_factor = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Evaluated from its end: no a and b here need as many as 200 terms.
    fraction = 0.0
    for term in range(200, 0, -1):
        half, odd = divmod(term, 2)
        if odd:
            coefficient = -(a + half) * (a + b + half) / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            coefficient = half * (b - half) / ((a + 2 * half - 1) * (a + 2 * half))
        fraction = coefficient * x / (1.0 + fraction)
    return math.exp(log_factor) / a / (1.0 + fraction)
