"""Evaluate a model over a whole split. Imports no lightning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from folio.data.batches.batch import Batch
from folio.data.token_file import TokenFileInfo
from folio.models import Model
from folio.objectives.metrics import SHUFFLED_PREFIX, Metrics, metrics_from_sums, token_sums


@dataclass(frozen=True)
class ValidationPart:
    """One corpus of a split: the only one, or one of a mixture."""

    name: str
    """Name in a mixture; empty for the only corpus."""
    info: TokenFileInfo | None
    """The text, for bits per byte; None if they have no meaning."""
    loader: DataLoader[Batch]
    shuffled_prefix_loader: DataLoader[Batch] | None = None
    """The same batches with the prefixes of other windows; for a prefix LM."""


@dataclass(frozen=True)
class Validation:
    """A split to evaluate: every target once, in fixed order, one corpus after another."""

    info: TokenFileInfo | None
    """The text of all parts together, for bits per byte."""
    parts: tuple[ValidationPart, ...]
    baseline: Metrics = field(default_factory=dict)
    """Metrics that are known without a model; for a masked LM."""

    @property
    def loaders(self) -> list[DataLoader[Batch]]:
        """The loaders of the parts, then their loaders with shuffled prefixes, if any."""
        shuffled = [part.shuffled_prefix_loader for part in self.parts if part.shuffled_prefix_loader is not None]
        return [*(part.loader for part in self.parts), *shuffled]

    def metrics(self, sums: Sequence[Tensor]) -> Metrics:
        """Return the metrics of the split, from the `token_sums` of each loader.

        The loss is the mean over the targets of all parts. A mixture also has the loss and the bits per byte of each
        part, as `<name>/loss_nats`.
        """
        n_parts = len(self.parts)
        metrics = metrics_from_sums(torch.stack(list(sums[:n_parts])).sum(dim=0), self.info)
        if n_parts > 1:
            for part, part_sums in zip(self.parts, sums, strict=False):
                own = metrics_from_sums(part_sums, part.info)
                metrics |= {f"{part.name}/{key}": own[key] for key in ("loss_nats", "bits_per_byte") if key in own}
        if len(sums) > n_parts:
            shuffled = metrics_from_sums(torch.stack(list(sums[n_parts:])).sum(dim=0), None)
            metrics[SHUFFLED_PREFIX] = shuffled["loss_nats"]
        return metrics | self.baseline


def evaluate(model: Model, validation: Validation, device: torch.device) -> Metrics:
    """Return the metrics of a split, the same numbers that training logs for it."""
    return validation.metrics([sum_over(model, loader, device) for loader in validation.loaders])


def sum_over(model: Model, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """Return the `token_sums` of all batches, without dropout."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        sums += token_sums(model, batch.to(device))
    return sums
