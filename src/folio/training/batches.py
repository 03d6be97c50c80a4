"""Which batches an objective is trained and validated on. Imports no lightning."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import DataLoader, Dataset

from folio.config import CausalLMConfig, MaskedLMConfig, RunConfig
from folio.data.batch import Batch
from folio.data.lines import LineFiles, Lines
from folio.data.loaders import token_loader, validation_loader
from folio.data.masking import MaskedTrainingLines, MaskedValidationLines, Masking, unigram_baseline
from folio.data.mixture import Mixture
from folio.data.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.data.prepared import PreparedData, TokenSplit
from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers import line_breaks
from folio.data.windows import TrainingBatches, TrainingWindows, ValidationWindows

Indexed = TrainingWindows | MaskedTrainingLines | PrefixTrainingWindows
"""A dataset that makes the batch of a draw; its length is the number of indices to draw from."""


def training_dataset(config: RunConfig, data: PreparedData) -> Indexed:
    """What the objective trains on: windows of the training split, or its lines."""
    tokens, context_length = data.train.tokens, config.model.context_length
    if isinstance(config.objective, CausalLMConfig):
        return TrainingWindows(tokens, context_length)
    if isinstance(config.objective, MaskedLMConfig):
        return MaskedTrainingLines(lines_of(config, data, data.train), masking(config, data), seed=config.seed)
    shortest, longest = config.prefix_lengths
    return PrefixTrainingWindows(
        tokens, context_length, seed=config.seed, min_prefix_length=shortest, max_prefix_length=longest
    )


def mixture_of(config: RunConfig, data: PreparedData, dataset: Indexed) -> Mixture | None:
    """Which indices of the dataset belong to which corpus, so that none reaches over into the next; None of one."""
    if not data.parts:
        return None
    n_tokens = [part.train.info.n_tokens for part in data.parts]
    begins = np.cumsum([0, *n_tokens])
    shares = tuple(part.share for part in data.parts)
    if isinstance(dataset, MaskedTrainingLines):
        first_lines = dataset.n_before(begins)
        return Mixture(shares, tuple(np.diff(first_lines).tolist()), tuple(first_lines[:-1].tolist()))
    width = len(data.train.tokens) - len(dataset)  # of a window, less one: it starts nowhere in the last of them
    return Mixture(shares, tuple(n - width for n in n_tokens), tuple(begins[:-1].tolist()))


def training_loader(config: RunConfig, data: PreparedData, first_step: int) -> DataLoader[Batch]:
    """The batches of a run from a step on."""
    dataset, training = training_dataset(config, data), config.training
    batches = TrainingBatches(
        window_order=config.data.window_order,
        n_starts=len(dataset),
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batch_size=training.sequences_at_once,
        first_step=first_step,
        n_steps=training.max_steps,
        mixture=mixture_of(config, data, dataset),
    )
    return token_loader(cast(Dataset[Batch], dataset), batches)


@dataclass(frozen=True)
class PartValidation:
    """How one corpus is measured; the only one, or one of a mixture."""

    name: str
    info: TokenFileInfo | None
    loader: DataLoader[Batch]
    shuffled_prefix: DataLoader[Batch] | None
    """The same with the prefixes of other windows; for a prefix LM."""


@dataclass(frozen=True)
class Validation:
    """How a split is measured: every target once, in fixed order, a corpus after the other."""

    info: TokenFileInfo | None
    """Of the text of all parts, for bits per byte; see `coding_info`."""
    parts: tuple[PartValidation, ...]
    baseline: dict[str, float]
    """What can be had without a model; for a masked LM."""

    @property
    def loaders(self) -> list[DataLoader[Batch]]:
        """Those of the parts, and then those of their shuffled prefixes, where there are some."""
        shuffled = [part.shuffled_prefix for part in self.parts if part.shuffled_prefix is not None]
        return [*(part.loader for part in self.parts), *shuffled]

    @property
    def infos(self) -> tuple[tuple[str, TokenFileInfo | None], ...]:
        """Name and text of each part."""
        return tuple((part.name, part.info) for part in self.parts)


def validation(config: RunConfig, data: PreparedData, split: TokenSplit) -> Validation:
    """Of one of the two splits of `data`, for the objective of the run."""
    name = split.info.split
    splits = [(part.name, part.train if name == "train" else part.val) for part in data.parts] or [("", split)]
    info = coding_info(config, split)
    if isinstance(config.objective, MaskedLMConfig):
        return _masked_validation(config, data, splits)
    return Validation(info, tuple(_part_validation(config, name, part) for name, part in splits), {})


def _part_validation(config: RunConfig, name: str, split: TokenSplit) -> PartValidation:
    context_length, batch_size = config.model.context_length, config.training.sequences_at_once
    info = coding_info(config, split)
    if isinstance(config.objective, CausalLMConfig):
        windows = ValidationWindows(split.tokens, context_length)
        return PartValidation(name, info, validation_loader(windows, batch_size), None)
    shortest, longest = config.prefix_lengths
    right, shuffled = (
        validation_loader(
            PrefixValidationWindows(
                split.tokens, context_length, min_prefix_length=shortest, max_prefix_length=longest, shuffled=shuffled
            ),
            batch_size,
        )
        for shuffled in (False, True)
    )
    return PartValidation(name, info, right, shuffled)


def _masked_validation(config: RunConfig, data: PreparedData, splits: list[tuple[str, TokenSplit]]) -> Validation:
    batch_size = config.training.sequences_at_once
    lines = [MaskedValidationLines(lines_of(config, data, split), masking(config, data)) for _, split in splits]
    parts = [
        PartValidation(name, None, validation_loader(own, batch_size), None)
        for (name, _), own in zip(splits, lines, strict=True)
    ]
    return Validation(None, tuple(parts), unigram_baseline(data.train.tokens, line_breaks(data.tokenizer), lines))


def coding_info(config: RunConfig, split: TokenSplit) -> TokenFileInfo | None:
    """What turns a loss into bits per byte; None for a masked LM, whose guesses are no code for the text."""
    return None if isinstance(config.objective, MaskedLMConfig) else split.info


def lines_of(config: RunConfig, data: PreparedData, split: TokenSplit) -> Lines:
    """The lines of a split, cut where they are longer than the context. Those of a large one are kept in its folder."""
    name, context_length = split.info.split, config.model.context_length
    borders: list[int] = []
    if split is data.train:
        borders = np.cumsum([part.train.info.n_tokens for part in data.parts]).tolist()[:-1]
    identity = split.info.source_sha256[:16] or split.info.tokens_sha256[:16]
    files = LineFiles(split.path.parent / f"lines-{name}-{context_length}-{identity}")
    return Lines(split.tokens, line_breaks(data.tokenizer), context_length, borders, files)


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
        return batch_size * lines_of(config, data, data.train).mean_length
    return batch_size * (context_length + sum(config.prefix_lengths) / 2)
