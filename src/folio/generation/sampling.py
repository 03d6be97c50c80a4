"""How the next token is chosen. Imports no torch, so that a bad choice is answered at once."""

from dataclasses import dataclass

from folio.runtime.errors import FolioError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of `token_choice`, in the order in which they act: repetition penalty, temperature, top-k, top-p, min-p.

    Temperature 0 is greedy: always the likeliest token, once the penalty is taken.

    Raises: FolioError naming the option, its value and the rule.
    """

    repetition_penalty: float = 1.0
    """Logits of tokens that the text holds already, what it was given included, are divided by it where they are
    positive and multiplied where they are negative: above 1 the text repeats itself less (Keskar et al. 2019, CTRL,
    section 4.1, who only divide, which makes a negative logit likelier)."""
    temperature: float = 1.0
    """Logits are divided by it: below 1 the likely becomes likelier."""
    top_k: int | None = None
    """Only the k likeliest tokens can be drawn (Fan et al. 2018)."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability (Holtzman et al. 2020, section 3.1), of what
    temperature and top-k have left, scaled to 1."""
    min_p: float | None = None
    """Only tokens at least this many times as likely as the likeliest (Nguyen et al. 2024, section 3), at this
    temperature; top-k and top-p make no difference to it."""

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
