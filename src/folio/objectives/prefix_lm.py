"""Predict a text from the prefix before it."""

from folio.config.objective import PrefixLMConfig
from folio.data.batches.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.data.prepared import TokenSplit
from folio.objectives.objective import Objective


class PrefixLM(Objective):
    """Windows of context_length tokens, each with a prefix of random length, which the encoder reads."""

    def training_dataset(self) -> PrefixTrainingWindows:
        shortest, longest = self._prefix_lengths()
        return PrefixTrainingWindows(
            self.data.train.tokens,
            self.config.model.context_length,
            seed=self.config.seed,
            min_prefix_length=shortest,
            max_prefix_length=longest,
        )

    def validation_dataset(self, split: TokenSplit) -> PrefixValidationWindows:
        return self._validation_windows(split, shuffled=False)

    def shuffled_prefix_dataset(self, split: TokenSplit) -> PrefixValidationWindows:
        return self._validation_windows(split, shuffled=True)

    def tokens_per_step(self) -> float:
        """Prefixes are read too."""
        return super().tokens_per_step() + self.config.training.batch_size * sum(self._prefix_lengths()) / 2

    def _validation_windows(self, split: TokenSplit, shuffled: bool) -> PrefixValidationWindows:
        shortest, longest = self._prefix_lengths()
        return PrefixValidationWindows(
            split.tokens,
            self.config.model.context_length,
            min_prefix_length=shortest,
            max_prefix_length=longest,
            shuffled=shuffled,
        )

    def _prefix_lengths(self) -> tuple[int, int]:
        objective = self.config.objective
        assert isinstance(objective, PrefixLMConfig)
        return objective.prefix_lengths(self.config.model.context_length)
