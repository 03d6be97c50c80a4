"""The metrics of a split: how they are computed and shown. Training and `scripts/evaluate.py` share them.

Imports no lightning.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.token_file import TokenFileInfo
from folio.models import Model
from folio.objectives.losses import CHUNK_ROWS, cross_entropy_, hidden_states

Metrics = dict[str, float]

SHUFFLED_PREFIX = "shuffled_prefix_loss_nats"
"""Loss of an encoder-decoder that reads the prefixes of other windows. Its own prefixes should lower the loss."""

BASELINES = ("unigram_accuracy", "unigram_loss_nats", SHUFFLED_PREFIX)
"""Metrics that the others are compared with."""


@torch.no_grad()
def token_sums(model: Model, batch: Batch) -> Tensor:
    """Return sums over the targets of a batch: nats, correct greedy predictions, number of targets. (3,) float64.

    Sums, because a mean of means would give the tokens of a batch with few targets more weight. In float64, because
    they are added up over a whole split.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for losses, correct in target_losses(model, batch):
        # float64 on the CPU: Apple's GPU has none.
        sums[:2] += torch.stack((losses, correct)).cpu().double().sum(dim=1)
        sums[2] += len(losses)
    return sums


def target_losses(model: Model, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the losses of the targets of a batch in nats, row by row, and whether each was predicted: (R,), (R,).

    In chunks: the logits of a whole batch over a large vocabulary would set the run's peak memory. The caller turns
    gradients off.
    """
    hidden = hidden_states(model, batch).flatten(end_dim=1)  # (B*T, D)
    targets = batch.targets.flatten()
    counted = targets != IGNORE_INDEX
    chunks = zip(hidden[counted].split(CHUNK_ROWS), targets[counted].split(CHUNK_ROWS), strict=True)
    for chunk_hidden, chunk_targets in chunks:
        losses, correct, *_ = cross_entropy_(model.output(chunk_hidden).float(), chunk_targets)  # (R,), (R,)
        yield losses, correct


def metrics_from_sums(sums: Tensor, info: TokenFileInfo | None) -> Metrics:
    """Return the metrics of `token_sums`; see `compute_metrics`."""
    nats, correct, n_tokens = sums.tolist()
    return compute_metrics(nats / n_tokens, correct / n_tokens, info)


def compute_metrics(loss_nats: float, accuracy: float, info: TokenFileInfo | None) -> Metrics:
    """Return loss in nats per token, perplexity, bits per byte of the split that `info` describes, and accuracy.

    `info` is None if bits per byte have no meaning, because the model does not predict every token in turn.
    """
    return {
        "loss_nats": loss_nats,
        "perplexity": perplexity(loss_nats),
        **({} if info is None else {"bits_per_byte": info.bits_per_byte(loss_nats)}),
        "accuracy": accuracy,
    }


def perplexity(loss_nats: float) -> float:
    """Return exp of the loss; infinity if that exceeds the largest float."""
    try:
        return math.exp(loss_nats)
    except OverflowError:
        return math.inf


def format_line(metrics: Metrics) -> str:
    """Return validation metrics as one line of a log."""
    bits = f", bits per byte {metrics['bits_per_byte']:.4f}" if "bits_per_byte" in metrics else ""
    baselines = "".join(f", {name.replace('_', ' ')} {metrics[name]:.3f}" for name in BASELINES if name in metrics)
    parts = "".join(
        f", {name.removesuffix('/loss_nats')} {metrics[name]:.4f}" for name in metrics if name.endswith("/loss_nats")
    )
    return (
        f"val loss {metrics['loss_nats']:.4f} nats, perplexity {metrics['perplexity']:.1f}{bits}, "
        f"accuracy {metrics['accuracy']:.3f}{baselines}{parts}"
    )


def format_rows(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return metrics as rows of a title and a value. Other keys, and keys without `prefix`, are left out."""
    rows = {
        "loss_nats": ("validation loss" if prefix == "val/" else "loss", "{:.6f} nats"),
        SHUFFLED_PREFIX: ("shuffled prefix", "{:.6f} nats, with the prefixes of other windows"),
        "unigram_loss_nats": ("unigram loss", "{:.6f} nats, without reading anything"),
        "perplexity": ("perplexity", "{:.2f}"),
        "bits_per_byte": ("bits per byte", "{:.4f}"),
        "accuracy": ("accuracy", "{:.4f}"),
        "unigram_accuracy": ("unigram accuracy", "{:.4f}"),
    }
    for key in metrics:
        part, _, name = key.removeprefix(prefix).rpartition("/")
        if part and key.startswith(prefix) and name in rows:  # of one corpus of a mixture
            title, template = rows[name]
            rows[f"{part}/{name}"] = (f"{title} of {part}", template)
    return [
        (title, template.format(metrics[prefix + name]))
        for name, (title, template) in rows.items()
        if prefix + name in metrics
    ]
