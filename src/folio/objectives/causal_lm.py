"""Predict every token from those before it."""

from folio.config.objective import CausalLMConfig
from folio.data.batches.noise import TokenNoise
from folio.data.batches.windows import TrainingWindows, ValidationWindows
from folio.data.document_index import DocumentIndex
from folio.data.prepared import TokenSplit
from folio.objectives.objective import Objective


class CausalLM(Objective):
    """Windows of context_length tokens, in which every token but the first is a target."""

    def training_dataset(self) -> TrainingWindows:
        split, objective, noise = self.data.train, self.config.objective, None
        if isinstance(objective, CausalLMConfig) and objective.token_noise:  # an objective built on this one has no key
            noise = TokenNoise(objective.token_noise, self.data.tokenizer.vocab_size, self.config.seed)
        return TrainingWindows(split.tokens, self.config.model.context_length, self._documents(split), noise)

    def validation_dataset(self, split: TokenSplit) -> ValidationWindows:
        return ValidationWindows(split.tokens, self.config.model.context_length, self._documents(split))

    def _documents(self, split: TokenSplit) -> DocumentIndex | None:
        """Return where the documents are that tokens must not attend beyond."""
        return split.documents if self.config.data.mask_documents else None
