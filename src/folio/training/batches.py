"""Which batches an objective is trained and validated on. Imports no lightning."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import DataLoader, Dataset

from folio.config import CausalLMConfig, MaskedLMConfig, RunConfig
from folio.data.batch import Batch
from folio.data.lines import Lines
from folio.data.loaders import token_loader, validation_loader
from folio.data.masking import MaskedTrainingLines, MaskedValidationLines, Masking, unigram_baseline
from folio.data.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.data.prepare import PreparedData
from folio.data.token_file import TokenFile, TokenFileInfo
from folio.data.windows import TrainingBatches, TrainingWindows, ValidationWindows

Indexed = TrainingWindows | MaskedTrainingLines | PrefixTrainingWindows
"""A dataset that makes the batch of a draw; its length is the number of indices to draw from."""


def training_dataset(config: RunConfig, data: PreparedData) -> Indexed:
    """What the objective trains on: windows of the training split, or its lines."""
    tokens, context_length = data.train.tokens, config.model.context_length
    if isinstance(config.objective, CausalLMConfig):
        return TrainingWindows(tokens, context_length)
    if isinstance(config.objective, MaskedLMConfig):
        return MaskedTrainingLines(lines_of(config, data, tokens), masking(config, data), seed=config.seed)
    shortest, longest = config.prefix_lengths
    return PrefixTrainingWindows(
        tokens, context_length, seed=config.seed, min_prefix_length=shortest, max_prefix_length=longest
    )


def training_loader(
    config: RunConfig, data: PreparedData, first_step: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Batch]:
    """The batches of a run from a step on, as one of its processes has them."""
    dataset, training = training_dataset(config, data), config.training
    batches = TrainingBatches(
        window_order=config.data.window_order,
        n_starts=len(dataset),
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batch_size=config.sequences_at_once,
        first_step=first_step,
        n_steps=training.max_steps,
        rank=rank,
        world_size=world_size,
    )
    return token_loader(cast(Dataset[Batch], dataset), batches)


@dataclass(frozen=True)
class Validation:
    """How a split is measured: every target once, in fixed order."""

    info: TokenFileInfo | None
    """Of the text, for bits per byte; see `coding_info`."""
    loader: DataLoader[Batch]
    shuffled_prefix: DataLoader[Batch] | None
    """The same with the prefixes of other windows; for a prefix LM."""
    baseline: dict[str, float]
    """What can be had without a model; for a masked LM."""

    @property
    def loaders(self) -> list[DataLoader[Batch]]:
        return [self.loader] if self.shuffled_prefix is None else [self.loader, self.shuffled_prefix]


def validation(
    config: RunConfig, data: PreparedData, split: TokenFile, rank: int = 0, world_size: int = 1
) -> Validation:
    """Of one of the two splits of `data`, for the objective of the run; one process's share of it."""
    context_length, batch_size = config.model.context_length, config.sequences_at_once
    info = coding_info(config, split)
    if isinstance(config.objective, CausalLMConfig):
        windows = ValidationWindows(split.tokens, context_length)
        return Validation(info, validation_loader(windows, batch_size, rank, world_size), None, {})
    if isinstance(config.objective, MaskedLMConfig):
        lines = MaskedValidationLines(lines_of(config, data, split.tokens), masking(config, data))
        baseline = unigram_baseline(data.train.tokens, data.tokenizer.newline_ids(), lines)
        return Validation(info, validation_loader(lines, batch_size, rank, world_size), None, baseline)
    shortest, longest = config.prefix_lengths
    right, shuffled = (
        validation_loader(
            PrefixValidationWindows(
                split.tokens, context_length, min_prefix_length=shortest, max_prefix_length=longest, shuffled=shuffled
            ),
            batch_size,
            rank,
            world_size,
        )
        for shuffled in (False, True)
    )
    return Validation(info, right, shuffled, {})


def coding_info(config: RunConfig, split: TokenFile) -> TokenFileInfo | None:
    """What turns a loss into bits per byte; None for a masked LM, whose guesses are no code for the text."""
    return None if isinstance(config.objective, MaskedLMConfig) else split.info


def lines_of(config: RunConfig, data: PreparedData, tokens: np.ndarray) -> Lines:
    """The lines of a split, cut where they are longer than the context."""
    return Lines(tokens, data.tokenizer.newline_ids(), config.model.context_length)


def masking(config: RunConfig, data: PreparedData) -> Masking:
    """The mask's id follows the tokenizer's."""
    objective, n_symbols = config.objective, data.tokenizer.vocab_size
    assert isinstance(objective, MaskedLMConfig)
    return Masking(
        mask_id=n_symbols,
        n_symbols=n_symbols,
        mask_fraction=objective.mask_fraction,
        mask_share=objective.mask_share,
        random_share=objective.random_share,
    )


def tokens_per_step(config: RunConfig, data: PreparedData) -> float:
    """How many tokens a step reads; the mean, where sequences differ in length."""
    batch_size, context_length = config.training.batch_size, config.model.context_length
    if isinstance(config.objective, CausalLMConfig):
        return batch_size * context_length
    if isinstance(config.objective, MaskedLMConfig):
        return batch_size * float(lines_of(config, data, data.train.tokens).lengths.mean())
    return batch_size * (context_length + sum(config.prefix_lengths) / 2)
