"""Rotary positions for contexts longer than those that a model was trained with. Imports no torch."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

RotaryScalingName = Literal["llama3", "yarn"]

OWN_KEYS: dict[str, str] = {
    "low_freq_factor": "llama3",
    "high_freq_factor": "llama3",
    "beta_fast": "yarn",
    "beta_slow": "yarn",
    "attention_factor": "yarn",
}
"""Keys that only one of the two ways has."""


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """Rotate more slowly those pairs of dimensions that turned less than a few times in the original context.

    Pairs that turn often tell neighbors apart and stay as they were. Pairs that never finished a turn would reach
    angles that the model has not seen, and are slowed down by `factor`. Between the two, the share changes linearly.

    llama3: linearly in the number of turns (Grattafiori et al. 2024, section 3.4.3, and the code of Llama 3.1).
    yarn: linearly in the index of the pair; the scores are also divided by a temperature (Peng et al. 2023, section 3,
    and the authors' code).

    Raises: ValueError naming the key, its value and the rule.

        >>> scaling = RotaryScaling(name="llama3", factor=8.0, original_context_length=64)
        >>> [round(divisor, 1) for divisor in scaling.divisors(width=8, base=10_000.0)]
        [1.0, 76.7, 800.0, 8000.0]
    """

    name: RotaryScalingName
    factor: float
    """Number of times by which the context becomes longer."""
    original_context_length: int
    """Longest sequence in the training before."""
    low_freq_factor: float = 1.0
    """llama3: pairs with at most this many turns in the original context are slowed down by the whole factor."""
    high_freq_factor: float = 4.0
    """llama3: pairs with at least this many turns stay as they were."""
    beta_fast: float = 32.0
    """yarn: pairs with at least this many turns stay as they were."""
    beta_slow: float = 1.0
    """yarn: pairs with at most this many turns are slowed down by the whole factor."""
    attention_factor: float | None = None
    """yarn: factor on rotated queries and keys, 0.1 ln(factor) + 1 when None."""

    def __post_init__(self) -> None:
        if self.name not in get_args(RotaryScalingName):
            raise ValueError(f"rotary_scaling.name={self.name} is not one of {', '.join(get_args(RotaryScalingName))}")
        if not 1.0 <= self.factor < math.inf:
            raise ValueError(f"rotary_scaling.factor={self.factor} must be 1 or more: the context becomes longer by it")
        if self.original_context_length < 1:
            raise ValueError(
                f"rotary_scaling.original_context_length={self.original_context_length} must be 1 or more: "
                "it is the longest sequence in the training before"
            )
        defaults = {field.name: field.default for field in fields(self)}
        for key, name in OWN_KEYS.items():
            value = getattr(self, key)
            if value == defaults[key]:
                continue
            if name != self.name:
                raise ValueError(
                    f"rotary_scaling.{key}={value} has no effect with rotary_scaling.name={self.name}; leave it out"
                )
            if not 0.0 < value < math.inf:
                raise ValueError(f"rotary_scaling.{key}={value} must be above 0; leave it out for the usual value")
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"rotary_scaling.{low}={getattr(self, low)} must be below "
                    f"rotary_scaling.{high}={getattr(self, high)}; leave both out for the usual values"
                )

    @property
    def amplitude(self) -> float:
        """Factor on rotated queries and keys; their products have its square (Peng et al. 2023, section 3.4)."""
        if self.name == "llama3":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor

    def divisors(self, width: int, base: float) -> list[float]:
        """Return for each pair of `width` dimensions the number of positions in which it turns by one radian."""
        plain = [base ** (2 * pair / width) for pair in range(width // 2)]
        kept = self._kept_by_turns(plain) if self.name == "llama3" else self._kept_by_pair(width, base)
        return [divisor / (share + (1 - share) / self.factor) for divisor, share in zip(plain, kept, strict=True)]

    def _kept_by_turns(self, divisors: list[float]) -> list[float]:
        """Return the share of each pair's speed that is kept: 1 for all of it, 0 for a speed divided by the factor."""
        turns = [self.original_context_length / (2 * math.pi * divisor) for divisor in divisors]
        return [_ramp(number, self.low_freq_factor, self.high_freq_factor) for number in turns]

    def _kept_by_pair(self, width: int, base: float) -> list[float]:
        # The authors round the ends of the ramp to whole pairs, and keep a ramp of no length from dividing by zero.
        first = max(math.floor(self._pair_with_turns(self.beta_fast, width, base)), 0)
        last = min(math.ceil(self._pair_with_turns(self.beta_slow, width, base)), width - 1)
        return [1 - _ramp(pair, first, last if first != last else last + 0.001) for pair in range(width // 2)]

    def _pair_with_turns(self, turns: float, width: int, base: float) -> float:
        """Return which pair, as a real number, turns this many times in the original context."""
        return width * math.log(self.original_context_length / (2 * math.pi * turns)) / (2 * math.log(base))


def _ramp(value: float, start: float, end: float) -> float:
    """Return 0 up to start, 1 from end on, and the straight line between them."""
    return min(1.0, max(0.0, (value - start) / (end - start)))
