"""TODO folio.objectives.prefix_lm."""

from folio.data.batches.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.data.prepared import TokenSplit
from folio.objectives.objective import Objective, ValidationPart


class PrefixLM(Objective):
    """Windows from the prefixes before them."""

    def training_dataset(self) -> PrefixTrainingWindows:
        shortest, longest = self.config.prefix_lengths
        return PrefixTrainingWindows(
            self.data.train.tokens,
            self.config.model.context_length,
            seed=self.config.seed,
            min_prefix_length=shortest,
            max_prefix_length=longest,
        )

    def part_validation(self, name: str, split: TokenSplit) -> ValidationPart:
        shortest, longest = self.config.prefix_lengths
        right, shuffled = (
            PrefixValidationWindows(
                split.tokens,
                self.config.model.context_length,
                min_prefix_length=shortest,
                max_prefix_length=longest,
                shuffled=shuffled,
            )
            for shuffled in (False, True)
        )
        return ValidationPart(name, self.bits_per_byte_info(split), self._loader(right), self._loader(shuffled))

    def tokens_per_step(self) -> float:
        return self.config.training.batch_size * (
            self.config.model.context_length + sum(self.config.prefix_lengths) / 2
        )
