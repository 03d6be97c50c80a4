"""Predict hidden tokens of a line from those on both sides."""

from collections.abc import Sequence

import numpy as np

from folio.config.objective import MaskedLMConfig
from folio.data.batches.lines import LineFiles, Lines
from folio.data.batches.masking import MaskedTrainingLines, MaskedValidationLines, Masking, unigram_baseline
from folio.data.prepared import TokenSplit
from folio.data.token_file import TokenFileInfo
from folio.objectives.metrics import Metrics
from folio.objectives.objective import Objective, TrainingDataset


class MaskedLM(Objective):
    """Lines of the text, in which the masked tokens are the targets."""

    def training_dataset(self) -> MaskedTrainingLines:
        return MaskedTrainingLines(self._lines(self.data.train), self._masking(), seed=self.config.seed)

    def validation_dataset(self, split: TokenSplit) -> MaskedValidationLines:
        return MaskedValidationLines(self._lines(split), self._masking())

    def tokens_per_step(self) -> float:
        return self.config.training.batch_size * self._lines(self.data.train).mean_length

    def bits_per_byte_info(self, split: TokenSplit) -> TokenFileInfo | None:
        return None

    def baseline(self, datasets: Sequence[MaskedValidationLines]) -> Metrics:
        """Return the loss and the accuracy of a unigram model, which reads nothing."""
        return unigram_baseline(self.data.train.tokens, self.data.tokenizer.line_break_ids(), datasets)

    def corpus_ranges(self, dataset: TrainingDataset) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(dataset, MaskedTrainingLines)
        offsets = dataset.n_before(self.corpus_offsets())
        return offsets[:-1], np.diff(offsets)

    def _lines(self, split: TokenSplit) -> Lines:
        """Return the lines of a split, cut at context_length. Those of a large split are kept in its folder."""
        name, context_length = split.info.split, self.config.model.context_length
        borders = self.corpus_offsets()[1:-1].tolist() if split is self.data.train else []
        identity = split.info.source_sha256[:16] or split.info.tokens_sha256[:16]
        files = LineFiles(split.path.parent / f"lines-{name}-{context_length}-{identity}")
        return Lines(split.tokens, self.data.tokenizer.line_break_ids(), context_length, borders, files)

    def _masking(self) -> Masking:
        """Return how tokens are masked. The id of the mask follows the tokenizer's ids."""
        objective, n_symbols = self.config.objective, self.data.tokenizer.vocab_size
        assert isinstance(objective, MaskedLMConfig)
        return Masking(
            mask_id=n_symbols,
            n_symbols=n_symbols,
            mask_fraction=objective.mask_fraction,
            mask_share=objective.mask_share,
            random_share=objective.random_share,
        )
