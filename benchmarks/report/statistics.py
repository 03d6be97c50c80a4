"""What is made of measured numbers. Pure functions; imports no torch."""

import math
import statistics
from collections.abc import Sequence

import numpy as np


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Round by round: what slows both sides of one round cancels."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over rounds of the ratio in each, which is not the ratio of the medians."""
    return statistics.median(ratios(numerators, denominators))


def model_flops_per_token(*, n_parameters: int, n_layers: int, d_model: int, context_length: int) -> int:
    """Of a training step: 6 N + 12 L D T, where N leaves out the table of positions, which multiplies nothing.

    Two for the product and the sum, three for the forward pass and the two gradients: 6 for each weight. Attention adds
    two products of T x d_head a head and token, 12 D T a layer; that a causal mask needs half of it is not counted.
    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    return 6 * n_parameters + 12 * n_layers * d_model * context_length


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The p of values ~ sizes ** p, by least squares on both logarithms."""
    assert len(sizes) == len(values) >= 2
    assert min(sizes) > 0
    # Memory that grows by nothing measurable would have no logarithm.
    logs = [math.log(max(value, 1e-12)) for value in values]
    slope, _ = np.polyfit(np.log(np.asarray(sizes, dtype=float)), logs, 1)
    return float(slope)


def largest_difference(ours: Sequence[float], to_gpt2_state: Sequence[float]) -> float:
    """Of two lists of losses, as far as both go; infinity where one of them is not a number."""
    differences = [abs(a - b) for a, b in zip(ours, to_gpt2_state, strict=False)]
    return max((math.inf if math.isnan(difference) else difference for difference in differences), default=0.0)


def first_at_most(values: Sequence[float], limit: float) -> int | None:
    """The index of the first value that is at or below the limit."""
    return next((index for index, value in enumerate(values) if value <= limit), None)


def number(value: float) -> str:
    """For a person: three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short_number(value: float) -> str:
    """For the ticks of an axis: 64, 4k, 20G."""
    for factor, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"
