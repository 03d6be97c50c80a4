"""Which batches an objective is trained and validated on, and by which loss. Imports no lightning."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.data.batches.loaders import validation_loader
from folio.data.batches.masking import MaskedTrainingLines
from folio.data.batches.mixture import Mixture
from folio.data.batches.prefixes import PrefixTrainingWindows
from folio.data.batches.windows import TrainingWindows, ValidationWindows
from folio.data.prepared import PreparedData, TokenSplit
from folio.data.token_file import TokenFileInfo
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.models import Model
from folio.objectives.losses import batch_loss

Indexed = TrainingWindows | MaskedTrainingLines | PrefixTrainingWindows
"""A dataset that makes the batch of a draw; its length is the number of indices to draw from."""


@dataclass(frozen=True)
class ValidationPart:
    """How one corpus is measured; the only one, or one of a mixture."""

    name: str
    info: TokenFileInfo | None
    """Of the text, for bits per byte; see `Objective.bits_per_byte_info`."""
    loader: DataLoader[Batch]
    shuffled_prefix: DataLoader[Batch] | None
    """The same with the prefixes of other windows; for a prefix LM."""


@dataclass(frozen=True)
class Validation:
    """How a split is measured: every target once, in fixed order, a corpus after the other."""

    info: TokenFileInfo | None
    """Of the text of all parts."""
    parts: tuple[ValidationPart, ...]
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

    def __init__(self, config: RunConfig, data: PreparedData, distributed: DistributedContext = SINGLE_PROCESS) -> None:
        self.config = config
        self.data = data
        self.distributed = distributed

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
        return Validation(self.bits_per_byte_info(split), parts, {})

    def part_validation(self, name: str, split: TokenSplit) -> ValidationPart:
        """Of that split of one corpus."""
        windows = ValidationWindows(split.tokens, self.config.model.context_length)
        return ValidationPart(name, self.bits_per_byte_info(split), self._loader(windows), None)

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """What training makes small, and the accuracy: two scalars, means over the targets."""
        return batch_loss(model, batch)

    def bits_per_byte_info(self, split: TokenSplit) -> TokenFileInfo | None:
        """What turns a loss into bits per byte; None where the guesses of the model are no code for the text."""
        return split.info

    def tokens_per_step(self) -> float:
        """How many tokens a step reads; the mean, where sequences differ in length."""
        return self.config.training.batch_size * self.config.model.context_length

    def _loader(self, dataset: Dataset[Batch]) -> DataLoader[Batch]:
        return validation_loader(
            dataset, self.config.micro_batch_size, self.distributed.rank, self.distributed.world_size
        )

    def _parts_of(self, split: TokenSplit) -> list[tuple[str, TokenSplit]]:
        """The same split of each corpus, with its name; the only one has none."""
        is_train = split.info.split == "train"
        return [(part.name, part.train if is_train else part.val) for part in self.data.parts] or [("", split)]

    def _begins(self) -> np.ndarray:
        """(n + 1,) int64: where each of the n corpora of a mixture begins in the training split, and where it ends."""
        return np.cumsum([0, *(part.train.info.n_tokens for part in self.data.parts)])
