"""Predict every token from those before it."""

from folio.data.batches.windows import TrainingWindows, ValidationWindows
from folio.data.prepared import TokenSplit
from folio.objectives.objective import Objective


class CausalLM(Objective):
    """Windows of context_length tokens, in which every token but the first is a target."""

    def training_dataset(self) -> TrainingWindows:
        return TrainingWindows(self.data.train.tokens, self.config.model.context_length)

    def validation_dataset(self, split: TokenSplit) -> ValidationWindows:
        return ValidationWindows(split.tokens, self.config.model.context_length)
