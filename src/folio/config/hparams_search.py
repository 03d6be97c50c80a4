"""The `hparams_search` section of the config, which belongs to a sweep and not to a run."""

from typing import Any, Literal

from pydantic import field_validator

from folio.config.section import Count, CountOrZero, Section, Text


class SearchConfig(Section):
    """A search for the values that give the best objective. Each trial is a run. See `folio.sweeps.search`."""

    name: Literal["optuna"]
    n_trials: Count
    """Number of trials, failed ones included."""
    objective: Literal[
        "val/loss_nats",
        "val/bits_per_byte",
        "val/perplexity",
        "val/accuracy",
        "best/val/loss_nats",
        "train/loss_nats",
        "train/tokens_per_s",
    ]
    """Entry of metrics.json to optimize: accuracy and tokens/s are maximized, the others minimized."""
    space: dict[str, Text] | None
    """Values to search for each key, written as in a sweep. A key on the command line replaces its entry."""
    n_startup_trials: CountOrZero
    """Number of trials with random values, before TPE learns from them. No trial is pruned until as many have ended."""
    prune: bool
    """Stop a trial if its best validation so far is worse than the median of the other trials at the same step."""

    @field_validator("objective", mode="before")
    @classmethod
    def _refuse_test(cls, objective: Any) -> Any:
        if str(objective).startswith("test/"):
            raise ValueError(
                "is a figure of the test split, by which nothing may be chosen; use val/loss_nats or val/bits_per_byte"
            )
        return objective

    @property
    def maximizes(self) -> bool:
        """Whether a larger objective is better."""
        return self.objective in ("val/accuracy", "train/tokens_per_s")
