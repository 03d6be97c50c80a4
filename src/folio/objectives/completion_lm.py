"""Predict the completions of prompts: the causal language model of training.loss_on=completion."""

import numpy as np

from folio.data.batches.completions import CompletionDataset, CompletionTraining, CompletionValidation
from folio.data.prepared import TokenSplit
from folio.data.token_file import TokenFileInfo
from folio.objectives.objective import Objective, TrainingDataset


class CompletionLM(Objective):
    """Documents that are a prompt and a completion, of which only the completion is predicted."""

    def training_dataset(self) -> CompletionTraining:
        split = self.data.train
        assert split.documents is not None
        return CompletionTraining(split.tokens, split.documents, self.config.model.context_length)

    def validation_dataset(self, split: TokenSplit) -> CompletionValidation:
        assert split.documents is not None
        return CompletionValidation(split.tokens, split.documents, self.config.model.context_length)

    def description(self) -> str:
        dataset = self.training_dataset()
        n_prompts, n_completions = dataset.count_cut()
        cut = f", {n_prompts:,} prompts without their beginning, {n_completions:,} completions without their end"
        return f"{super().description()} on {len(dataset):,} completions{cut if n_prompts or n_completions else ''}"

    def tokens_per_step(self) -> float:
        return self.config.training.batch_size * self.training_dataset().mean_length()

    def bits_per_byte_info(self, split: TokenSplit) -> TokenFileInfo | None:
        return split.completions_info

    def corpus_ranges(self, dataset: TrainingDataset) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(dataset, CompletionDataset)
        firsts = dataset.index.firsts
        return firsts[:-1], np.diff(firsts)
