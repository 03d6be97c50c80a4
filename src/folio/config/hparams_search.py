"""TODO folio.config.hparams_search."""

from typing import Literal

from folio.config.section import Count, CountOrZero, Section, Text


class SearchConfig(Section):
    """A search for the values that serve an objective best, over the trials of one sweep. See `folio.sweeps.search`."""

    name: Literal["optuna"]
    n_trials: Count
    """In all, those that failed included."""
    objective: Literal[
        "val/loss_nats",
        "val/bits_per_byte",
        "val/perplexity",
        "val/accuracy",
        "best/val/loss_nats",
        "train/loss_nats",
        "train/tokens_per_s",
    ]
    """A figure of metrics.json: the most of accuracy and tokens/s, the least of the others."""
    space: dict[str, Text] | None
    """What is searched, in the words of a sweep by key. Keys that are typed go before it."""
    n_startup_trials: CountOrZero
    """Drawn at random before TPE learns from them; as many must have ended before any trial is stopped early."""
    prune: bool
    """Stop a trial whose best validation so far is worse than the median of the others at the same step."""

    @property
    def maximizes(self) -> bool:
        return self.objective in ("val/accuracy", "train/tokens_per_s")
