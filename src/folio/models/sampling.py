"""The options for drawing the next token. Imports no torch, so that a bad value is reported at once."""

from dataclasses import dataclass

from folio.runtime.errors import FolioError


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Options of `TokenSampler`, in the order in which they act.

    Raises: FolioError naming the option, its value and the rule.

        >>> SamplingParams(temperature=0.8, top_k=40).top_k
        40
    """

    repetition_penalty: float = 1.0
    """For tokens that the text already contains, positive logits are divided by it and negative ones multiplied.

    Above 1 the text repeats itself less (Keskar et al. 2019, CTRL, section 4.1; they always divide, which makes a
    token with a negative logit likelier).
    """
    temperature: float = 1.0
    """Divisor of the logits: below 1 likely tokens become likelier. 0 is greedy: always the likeliest token."""
    top_k: int | None = None
    """Draw only from the k likeliest tokens (Fan et al. 2018)."""
    top_p: float | None = None
    """Draw only from the likeliest tokens that together reach this probability (Holtzman et al. 2020, section 3.1).

    The probabilities are those after temperature and top-k, scaled to a sum of 1.
    """
    min_p: float | None = None
    """Draw only from tokens at least this many times as likely as the likeliest (Nguyen et al. 2024, section 3).

    The probabilities are those after temperature; top-k and top-p do not affect this choice.
    """

    def __post_init__(self) -> None:
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise FolioError(f"repetition-penalty={self.repetition_penalty} must be above 0; 1 is none, 1.2 is usual")
        if not 0.0 <= self.temperature < float("inf"):
            raise FolioError(f"temperature={self.temperature} must be 0 (greedy) or above; 0.8 is usual")
        if self.top_k is not None and self.top_k < 1:
            raise FolioError(f"top-k={self.top_k} must be 1 or more; leave it out to draw from all tokens")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise FolioError(f"top-p={self.top_p} must be above 0 and at most 1; 0.95 is usual")
        if self.min_p is not None and not 0.0 < self.min_p <= 1.0:
            raise FolioError(f"min-p={self.min_p} must be above 0 and at most 1; 0.1 is usual")
