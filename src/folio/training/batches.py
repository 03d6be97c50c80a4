"""Which batches an objective is trained and validated on, and by which loss. Imports no lightning."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from folio.config import RunConfig
from folio.data.batch import Batch
from folio.data.lines import Lines
from folio.data.loaders import token_loader, validation_loader
from folio.data.masking import MaskedTrainingLines, MaskedValidationLines, Masking, unigram_baseline
from folio.data.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.data.prepare import PreparedData
from folio.data.token_file import TokenFile, TokenFileInfo
from folio.data.windows import TrainingBatches, TrainingWindows, ValidationWindows
from folio.models import Model
from folio.options.objectives import MaskedLMConfig
from folio.training.objectives import batch_loss
from folio.training.world import World

Indexed = TrainingWindows | MaskedTrainingLines | PrefixTrainingWindows
"""A dataset that makes the batch of a draw; its length is the number of indices to draw from."""


@dataclass(frozen=True)
class Validation:
    """How a split is measured: every target once, in fixed order."""

    info: TokenFileInfo | None
    """Of the text, for bits per byte; see `Objective.coding_info`."""
    loader: DataLoader[Batch]
    shuffled_prefix: DataLoader[Batch] | None
    """The same with the prefixes of other windows; for a prefix LM."""
    baseline: dict[str, float]
    """What can be had without a model; for a masked LM."""

    @property
    def loaders(self) -> list[DataLoader[Batch]]:
        return [self.loader] if self.shuffled_prefix is None else [self.loader, self.shuffled_prefix]


class Objective:
    """What a model reads, what it is asked for, and what is made small: here a causal LM, and what others build on.

    Validation counts nats of the targets whatever the loss, so that objectives of one family compare.
    """

    def __init__(self, config: RunConfig, data: PreparedData, world: World | None = None) -> None:
        self.config = config
        self.data = data
        self.world = world or World()

    def training_dataset(self) -> Indexed:
        """What is drawn from: windows of the training split."""
        return TrainingWindows(self.data.train.tokens, self.config.model.context_length)

    def validation(self, split: TokenFile) -> Validation:
        """Of one of the two splits; of many processes each has its share of the batches."""
        windows = ValidationWindows(split.tokens, self.config.model.context_length)
        return Validation(self.coding_info(split), self._loader(windows), None, {})

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """What training makes small, and the accuracy: two scalars, means over the targets."""
        return batch_loss(model, batch)

    def coding_info(self, split: TokenFile) -> TokenFileInfo | None:
        """What turns a loss into bits per byte; None where the guesses of the model are no code for the text."""
        return split.info

    def tokens_per_step(self) -> float:
        """How many tokens a step reads; the mean, where sequences differ in length."""
        return self.config.training.batch_size * self.config.model.context_length

    def _loader(self, dataset: Dataset[Batch]) -> DataLoader[Batch]:
        return validation_loader(dataset, self.config.sequences_at_once, self.world.rank, self.world.size)


class CausalLM(Objective):
    """Every token from those before it."""


class MaskedLM(Objective):
    """Hidden tokens of lines from those on both sides."""

    def training_dataset(self) -> MaskedTrainingLines:
        return MaskedTrainingLines(self._lines(self.data.train.tokens), self._masking(), seed=self.config.seed)

    def validation(self, split: TokenFile) -> Validation:
        lines = MaskedValidationLines(self._lines(split.tokens), self._masking())
        baseline = unigram_baseline(self.data.train.tokens, self.data.tokenizer.newline_ids(), lines)
        return Validation(self.coding_info(split), self._loader(lines), None, baseline)

    def coding_info(self, split: TokenFile) -> TokenFileInfo | None:
        return None

    def tokens_per_step(self) -> float:
        return self.config.training.batch_size * float(self._lines(self.data.train.tokens).lengths.mean())

    def _lines(self, tokens: np.ndarray) -> Lines:
        """The lines of a split, cut where they are longer than the context."""
        return Lines(tokens, self.data.tokenizer.newline_ids(), self.config.model.context_length)

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

    def validation(self, split: TokenFile) -> Validation:
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
        return Validation(self.coding_info(split), self._loader(right), self._loader(shuffled), {})

    def tokens_per_step(self) -> float:
        return self.config.training.batch_size * (
            self.config.model.context_length + sum(self.config.prefix_lengths) / 2
        )


def objective_of(config: RunConfig, data: PreparedData, world: World | None = None) -> Objective:
    """The objective that the config names, over these data, as one of the processes of a run has it."""
    return config.objective.load_code()(config, data, world)


def training_loader(
    config: RunConfig, data: PreparedData, first_step: int, world: World | None = None
) -> DataLoader[Batch]:
    """The batches of a run from a step on, as one of its processes has them."""
    world = world or World()
    dataset, training = objective_of(config, data).training_dataset(), config.training
    batches = TrainingBatches(
        window_order=config.data.window_order,
        n_starts=len(dataset),
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batch_size=config.sequences_at_once,
        first_step=first_step,
        n_steps=training.max_steps,
        rank=world.rank,
        world_size=world.size,
    )
    return token_loader(cast(Dataset[Batch], dataset), batches)


def validation(config: RunConfig, data: PreparedData, split: TokenFile) -> Validation:
    """Of one of the two splits of `data`, for the objective of the run."""
    return objective_of(config, data).validation(split)
