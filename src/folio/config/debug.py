"""The `debug` section of the config."""

from typing import Literal

from folio.config.section import Count, Section


class DebugConfig(Section):
    """A debugging mode. Its run checks the code and the recipe; its numbers are no results."""

    name: Literal["fast", "limit", "overfit", "profile"]
    one_batch: bool = False
    """Whether every step trains on the batch of the first step, which validations measure as well."""
    val_batches: Count | None = None
    """Number of batches that a validation measures; the whole validation split when null."""

    def describe(self) -> str:
        """Return the mode in one line."""
        if self.one_batch:
            validation = "one batch for training and validation"
        elif self.val_batches is None:
            validation = "validation on the whole split"
        else:
            validation = f"{self.val_batches} batch{'es' if self.val_batches > 1 else ''} in each validation"
        return f"{self.name}: {validation}; the numbers of this run are no results"
