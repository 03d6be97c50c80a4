"""Which batches an objective is trained and validated on, and by which loss. Imports no lightning."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from folio.config import RunConfig
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
from folio.models import Model
from folio.options.objectives import MaskedLMConfig
from folio.training.objectives import batch_loss
from folio.training.world import World

Indexed = TrainingWindows | MaskedTrainingLines | PrefixTrainingWindows
"""A dataset that makes the batch of a draw; its length is the number of indices to draw from."""


@dataclass(frozen=True)
class PartValidation:
    """How one corpus is measured; the only one, or one of a mixture."""

    name: str
    info: TokenFileInfo | None
    """Of the text, for bits per byte; see `Objective.coding_info`."""
    loader: DataLoader[Batch]
    shuffled_prefix: DataLoader[Batch] | None
    """The same with the prefixes of other windows; for a prefix LM."""


@dataclass(frozen=True)
class Validation:
    """How a split is measured: every target once, in fixed order, a corpus after the other."""

    info: TokenFileInfo | None
    """Of the text of all parts."""
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

    def mixture(self, dataset: Indexed) -> Mixture | None:
        """Which indices of `training_dataset` belong to which corpus, so that none reaches over into the next.

        None of a single one.
        """
        if not self.data.parts:
            return None
        width = len(self.data.train.tokens) - len(dataset)  # of a window, less one: it starts nowhere in the last ones
        begins, shares = self._begins(), tuple(part.share for part in self.data.parts)
        return Mixture(shares, tuple((np.diff(begins) - width).tolist()), tuple(begins[:-1].tolist()))

    def validation(self, split: TokenSplit) -> Validation:
        """Of one of the two splits; of many processes each has its share of the batches."""
        parts = tuple(self.part_validation(name, part) for name, part in self._parts_of(split))
        return Validation(self.coding_info(split), parts, {})

    def part_validation(self, name: str, split: TokenSplit) -> PartValidation:
        """Of that split of one corpus."""
        windows = ValidationWindows(split.tokens, self.config.model.context_length)
        return PartValidation(name, self.coding_info(split), self._loader(windows), None)

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """What training makes small, and the accuracy: two scalars, means over the targets."""
        return batch_loss(model, batch)

    def coding_info(self, split: TokenSplit) -> TokenFileInfo | None:
        """What turns a loss into bits per byte; None where the guesses of the model are no code for the text."""
        return split.info

    def tokens_per_step(self) -> float:
        """How many tokens a step reads; the mean, where sequences differ in length."""
        return self.config.training.batch_size * self.config.model.context_length

    def _loader(self, dataset: Dataset[Batch]) -> DataLoader[Batch]:
        return validation_loader(dataset, self.config.sequences_at_once, self.world.rank, self.world.size)

    def _parts_of(self, split: TokenSplit) -> list[tuple[str, TokenSplit]]:
        """The same split of each corpus, with its name; the only one has none."""
        is_train = split.info.split == "train"
        return [(part.name, part.train if is_train else part.val) for part in self.data.parts] or [("", split)]

    def _begins(self) -> np.ndarray:
        """(n + 1,) int64: where each of the n corpora of a mixture begins in the training split, and where it ends."""
        return np.cumsum([0, *(part.train.info.n_tokens for part in self.data.parts)])


class CausalLM(Objective):
    """Every token from those before it."""


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
        parts = (PartValidation(name, None, self._loader(own), None) for name, own in zip(names, lines, strict=True))
        baseline = unigram_baseline(self.data.train.tokens, line_breaks(self.data.tokenizer), lines)
        return Validation(None, tuple(parts), baseline)

    def coding_info(self, split: TokenSplit) -> TokenFileInfo | None:
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

    def part_validation(self, name: str, split: TokenSplit) -> PartValidation:
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
        return PartValidation(name, self.coding_info(split), self._loader(right), self._loader(shuffled))

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
    objective, training = objective_of(config, data), config.training
    dataset = objective.training_dataset()
    batches = TrainingBatches(
        window_order=config.data.window_order,
        n_starts=len(dataset),
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batch_size=config.sequences_at_once,
        first_step=first_step,
        n_steps=training.max_steps,
        mixture=objective.mixture(dataset),
        rank=world.rank,
        world_size=world.size,
    )
    return token_loader(cast(Dataset[Batch], dataset), batches)


def validation(config: RunConfig, data: PreparedData, split: TokenSplit) -> Validation:
    """Of one of the two splits of `data`, for the objective of the run."""
    return objective_of(config, data).validation(split)
