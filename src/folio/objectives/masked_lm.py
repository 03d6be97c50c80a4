"""TODO folio.objectives.masked_lm."""

import numpy as np

from folio.config.objective import MaskedLMConfig
from folio.data.batches.lines import LineFiles, Lines
from folio.data.batches.masking import MaskedTrainingLines, MaskedValidationLines, Masking, unigram_baseline
from folio.data.batches.mixture import Mixture
from folio.data.prepared import TokenSplit
from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers.registry import line_breaks
from folio.objectives.objective import Indexed, Objective, Validation, ValidationPart


class MaskedLM(Objective):
    """Hidden tokens of lines from those on both sides."""

    def training_dataset(self) -> MaskedTrainingLines:
        return MaskedTrainingLines(self._lines(self.data.train), self._masking(), seed=self.config.seed)

    def mixture(self, dataset: Indexed) -> Mixture | None:
        if not self.data.parts:
            return None
        assert isinstance(dataset, MaskedTrainingLines)
        firsts, shares = dataset.n_before(self._begins()), tuple(part.share for part in self.data.parts)
        return Mixture(shares, tuple(np.diff(firsts).tolist()), tuple(firsts[:-1].tolist()))

    def validation(self, split: TokenSplit) -> Validation:
        names, splits = zip(*self._parts_of(split), strict=True)
        lines = [MaskedValidationLines(self._lines(part), self._masking()) for part in splits]
        parts = (ValidationPart(name, None, self._loader(own), None) for name, own in zip(names, lines, strict=True))
        baseline = unigram_baseline(self.data.train.tokens, line_breaks(self.data.tokenizer), lines)
        return Validation(None, tuple(parts), baseline)

    def bits_per_byte_info(self, split: TokenSplit) -> TokenFileInfo | None:
        return None

    def tokens_per_step(self) -> float:
        return self.config.training.batch_size * self._lines(self.data.train).mean_length

    def _lines(self, split: TokenSplit) -> Lines:
        """The lines of a split, cut where they are longer than the context; of a large one kept in its folder."""
        name, context_length = split.info.split, self.config.model.context_length
        borders = self._begins()[1:-1].tolist() if split is self.data.train else []
        identity = split.info.source_sha256[:16] or split.info.tokens_sha256[:16]
        files = LineFiles(split.path.parent / f"lines-{name}-{context_length}-{identity}")
        return Lines(split.tokens, line_breaks(self.data.tokenizer), context_length, borders, files)

    def _masking(self) -> Masking:
        """The mask's id follows the tokenizer's."""
        objective, n_symbols = self.config.objective, self.data.tokenizer.vocab_size
        assert isinstance(objective, MaskedLMConfig)
        return Masking(
            mask_id=n_symbols,
            n_symbols=n_symbols,
            mask_fraction=objective.mask_fraction,
            mask_share=objective.mask_share,
            random_share=objective.random_share,
        )
