"""Measure why attention divides its scores by sqrt(d_head), with random queries and keys. Imports no torch.

Source: Vaswani et al. 2017, section 3.2.1 and its footnote 4: a product of K terms of unit variance has variance K.
"""

from dataclasses import dataclass

import numpy as np

N_KEYS = 16
"""Number of keys in each softmax."""

MAX_QUERIES = 2048
MAX_NUMBERS = 2**20
"""Limit for the numbers in all queries of one width; wider heads have fewer queries."""

MAX_D_HEAD = MAX_NUMBERS // N_KEYS

N_WIDTHS = 7
"""Number of widths, each half of the next."""


@dataclass(frozen=True)
class ScalingMeasurement:
    """Products of random queries and keys of one width, and the softmax over N_KEYS of them."""

    d_head: int
    variance: float
    scaled_variance: float
    """Variance after the division by sqrt(d_head)."""
    largest_weight: float
    """Mean of the largest weight of a softmax; 1 if it chooses one key, and 1 / N_KEYS if all keys are equal."""
    scaled_largest_weight: float
    weights: np.ndarray
    """The softmax of one query: (N_KEYS,)."""
    scaled_weights: np.ndarray


def measure_scaling(d_head: int, seed: int = 0) -> list[ScalingMeasurement]:
    """Measure heads of width d_head, a half of it, a quarter and so on, in ascending order."""
    widths = [d_head >> halvings for halvings in range(N_WIDTHS) if d_head >> halvings]
    return [measure_width(width, seed) for width in reversed(widths)]


def measure_width(d_head: int, seed: int = 0) -> ScalingMeasurement:
    """Measure the products of independent queries and keys with entries of N(0, 1)."""
    rng = np.random.default_rng(seed)
    n = min(MAX_QUERIES, MAX_NUMBERS // d_head) // N_KEYS * N_KEYS
    queries, keys = rng.standard_normal((2, n, d_head), dtype=np.float32)
    products = queries @ keys.T  # (n, n)
    scaled = products / np.float32(d_head**0.5)
    weights, scaled_weights = (softmax(part.reshape(-1, N_KEYS)) for part in (products, scaled))
    return ScalingMeasurement(
        d_head=d_head,
        variance=float(products.var(dtype=np.float64)),
        scaled_variance=float(scaled.var(dtype=np.float64)),
        largest_weight=float(weights.max(axis=1).mean()),
        scaled_largest_weight=float(scaled_weights.max(axis=1).mean()),
        weights=weights[0],
        scaled_weights=scaled_weights[0],
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    """Normalize along the last axis."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalized: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return normalized
