"""The base class of the objectives. Imports no lightning."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch, BatchDataset
from folio.data.batches.loaders import token_loader, validation_loader
from folio.data.batches.mixture import Mixture
from folio.data.batches.order import MicroBatch, TrainingBatches
from folio.data.corpora.mixture import JoinedSplit
from folio.data.prepared import PreparedData, TokenSplit
from folio.data.token_file import TokenFileInfo
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.models import Model
from folio.objectives.evaluation import Validation, ValidationPart
from folio.objectives.losses import batch_loss
from folio.objectives.metrics import Metrics


class TrainingDataset(Protocol):
    """Makes the batch of a `MicroBatch`; its length is the number of sequences that can be drawn."""

    def __len__(self) -> int: ...

    def batch(self, draw: MicroBatch, /) -> Batch: ...


def build_objective(
    config: RunConfig, data: PreparedData, distributed: DistributedContext = SINGLE_PROCESS
) -> "Objective":
    """Return the objective that the config names."""
    return config.load_objective()(config, data, distributed)


class Objective(ABC):
    """A training objective: the batches that a model reads, the targets in them, and the loss.

    Validation measures cross-entropy whatever the loss is, so that objectives of one family can be compared.
    """

    def __init__(self, config: RunConfig, data: PreparedData, distributed: DistributedContext = SINGLE_PROCESS) -> None:
        self.config = config
        self.data = data
        self.distributed = distributed

    @abstractmethod
    def training_dataset(self) -> TrainingDataset:
        """Return the sequences of the training split."""

    @abstractmethod
    def validation_dataset(self, split: TokenSplit) -> BatchDataset:
        """Return a whole split in fixed order, every target once."""

    def shuffled_prefix_dataset(self, split: TokenSplit) -> BatchDataset | None:
        """Return `validation_dataset` with the prefixes of other windows; None if there are no prefixes."""
        return None

    def loss(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss that training minimizes, and the accuracy: scalars, means over the targets."""
        return batch_loss(model, batch)

    def description(self) -> str:
        """Return what is predicted, for the summary of a run."""
        return self.config.objective.name

    def tokens_per_step(self) -> float:
        """Return how many tokens an optimizer step reads, on average if sequences differ in length."""
        return self.config.training.batch_size * self.config.model.context_length

    def bits_per_byte_info(self, split: TokenSplit) -> TokenFileInfo | None:
        """Return what turns a loss into bits per byte; None if the predictions do not encode the text."""
        return split.info if split.info.reproduces_text else None

    def baseline(self, datasets: Sequence[Any]) -> Metrics:
        """Return metrics that are known without a model, from the validation datasets of all parts."""
        return {}

    def corpus_ranges(self, dataset: TrainingDataset) -> tuple[np.ndarray, np.ndarray]:
        """Return the first sequence of each corpus of a mixture, and how many it has: (n,) int64 each.

        Windows that would reach from one corpus into the next belong to neither.
        """
        width = len(self.data.train.tokens) - len(dataset)  # a window starts at none of the last `width` tokens
        offsets = self.corpus_offsets()
        return offsets[:-1], np.diff(offsets) - width

    def corpus_offsets(self) -> np.ndarray:
        """Return where each of the n corpora of a mixture begins in the training split, and its end: (n + 1,) int64."""
        return np.cumsum([0, *(part.train.info.n_tokens for part in self.data.parts)])

    def training_loader(self, first_step: int, n_steps: int | None = None) -> DataLoader[Batch]:
        """Return this process's micro-batches, from an optimizer step on; `n_steps` counts from step 0."""
        dataset, training, debug = self.training_dataset(), self.config.training, self.config.debug
        batches = TrainingBatches(
            window_order=self.config.data.window_order,
            n_indices=len(dataset),
            seed=self.config.seed,
            batch_size=training.batch_size,
            micro_batch_size=self.config.micro_batch_size,
            first_step=first_step,
            n_steps=training.max_steps if n_steps is None else n_steps,
            one_batch=debug is not None and debug.one_batch,
            mixture=self._mixture(dataset),
            rank=self.distributed.rank,
            world_size=self.distributed.world_size,
        )
        return token_loader(dataset, batches)

    def training_validation(self) -> Validation:
        """Return the validations of a run: of the whole validation split, or of what its debugging mode leaves."""
        debug = self.config.debug
        if debug is not None and debug.one_batch:
            part = ValidationPart("", self.bits_per_byte_info(self.data.train), self.training_loader(0, n_steps=1))
            return Validation(part.info, (part,))
        return self.validation(self.data.val, None if debug is None else debug.val_batches)

    def validation(self, split: TokenSplit, n_batches: int | None = None) -> Validation:
        """Return how a split is evaluated. Each process gets its share of the batches.

        `n_batches` limits those of each corpus.
        """
        corpora = self._corpora(split)
        datasets = [self.validation_dataset(corpus) for _, corpus in corpora]
        parts = []
        for (name, corpus), dataset in zip(corpora, datasets, strict=True):
            shuffled = self.shuffled_prefix_dataset(corpus)
            shuffled_loader = None if shuffled is None else self._validation_loader(shuffled, n_batches)
            info = self.bits_per_byte_info(corpus)
            parts.append(ValidationPart(name, info, self._validation_loader(dataset, n_batches), shuffled_loader))
        return Validation(self.bits_per_byte_info(split), tuple(parts), self.baseline(datasets))

    def _mixture(self, dataset: TrainingDataset) -> Mixture | None:
        if not self.data.parts:
            return None
        shares, (firsts, counts) = tuple(part.share for part in self.data.parts), self.corpus_ranges(dataset)
        return Mixture(shares, tuple(counts.tolist()), tuple(firsts.tolist()))

    def _validation_loader(self, dataset: BatchDataset, n_batches: int | None) -> DataLoader[Batch]:
        rank, world_size = self.distributed.rank, self.distributed.world_size
        return validation_loader(dataset, self.config.micro_batch_size, rank, world_size, n_batches)

    def _corpora(self, split: TokenSplit) -> list[tuple[str, TokenSplit]]:
        """Return the name and the same split of each corpus of a mixture; an only corpus has no name."""
        if not isinstance(split, JoinedSplit):
            return [("", split)]
        return [(part.name, corpus) for part, corpus in zip(self.data.parts, split.splits, strict=True)]
