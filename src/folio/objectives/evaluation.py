"""The loss of a model over a whole split. Training and `scripts/evaluate.py` share it, so their figures agree.

Imports no lightning.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from folio.config.run import RunConfig
from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.token_file import TokenFileInfo
from folio.generation.prompts import last_position
from folio.models import Model
from folio.objectives.losses import CHUNK_ROWS, hidden_states, score_
from folio.objectives.objective import Validation
from folio.runs.checkpoints import LoadedCheckpoint
from folio.runtime.errors import FolioError

Metrics = dict[str, float]

SHUFFLED_PREFIX = "shuffled_prefix_loss_nats"
"""The loss of an encoder-decoder that is given the prefixes of other windows: what its own are worth to it."""

EXTRA = ("unigram_accuracy", "unigram_loss_nats", SHUFFLED_PREFIX)
"""What a validation gives to compare its figures with."""


@torch.no_grad()
def token_sums(model: Model, batch: Batch) -> Tensor:
    """Sums over the counted targets of a batch: (3,) float64.

    They are: nats, correct greedy predictions, number of targets. Sums, because a mean of means would weigh
    the tokens of a batch with few targets more; float64, because they run over a whole split.
    """
    hidden = hidden_states(model, batch).flatten(end_dim=1)  # (B*T, D)
    targets = batch.targets.flatten()
    counted = targets != IGNORE_INDEX
    sums = torch.zeros(3, dtype=torch.float64)
    # In chunks: the logits of a whole batch over a large vocabulary would be the peak of the run's memory.
    chunks = zip(hidden[counted].split(CHUNK_ROWS), targets[counted].split(CHUNK_ROWS), strict=True)
    for rows, wanted in chunks:
        losses, correct, *_ = score_(model.output(rows).float(), wanted)  # (R,), (R,)
        # float64 on the CPU: Apple's GPU has none.
        sums[:2] += torch.stack((losses, correct)).cpu().double().sum(dim=1)
    sums[2] = int(counted.sum())
    return sums


def split_metrics(
    sums: Mapping[int, Tensor], parts: Sequence[tuple[str, TokenFileInfo | None]], info: TokenFileInfo | None
) -> Metrics:
    """What a validation has to say, from the `token_sums` of `Validation.loaders` by their numbers.

    All parts together are the mean over their targets. Of a mixture, loss and bits per byte of each part as well, as
    `<name>/loss_nats`.
    """
    n = len(parts)
    metrics = metrics_from(torch.stack([sums[number] for number in range(n)]).sum(dim=0), info)
    if n > 1:
        for number, (name, own) in enumerate(parts):
            of_part = metrics_from(sums[number], own)
            metrics |= {f"{name}/{key}": of_part[key] for key in ("loss_nats", "bits_per_byte") if key in of_part}
    if n in sums:
        shuffled = torch.stack([sums[n + number] for number in range(n)]).sum(dim=0)
        metrics[SHUFFLED_PREFIX] = metrics_from(shuffled, None)["loss_nats"]
    return metrics


def metrics_from(sums: Tensor, info: TokenFileInfo | None) -> Metrics:
    """`metrics_of` the means that `token_sums` gives."""
    nats, correct, n_tokens = sums.tolist()
    return metrics_of(nats / n_tokens, correct / n_tokens, info)


def metrics_of(loss_nats: float, accuracy: float, info: TokenFileInfo | None) -> Metrics:
    """Nats per token, perplexity, bits per byte of the split that `info` describes, and accuracy.

    `info` is None where bits per byte have no meaning, because the model does not predict every token in turn.
    """
    return {
        "loss_nats": loss_nats,
        "perplexity": perplexity(loss_nats),
        **({} if info is None else {"bits_per_byte": info.bits_per_byte(loss_nats)}),
        "accuracy": accuracy,
    }


def perplexity(loss_nats: float) -> float:
    """exp of the loss; infinity where that is past the largest float."""
    try:
        return math.exp(loss_nats)
    except OverflowError:
        return math.inf


def describe(metrics: Metrics) -> str:
    """What a line of progress says of a validation."""
    bits = f", bits per byte {metrics['bits_per_byte']:.4f}" if "bits_per_byte" in metrics else ""
    others = "".join(f", {name.replace('_', ' ')} {metrics[name]:.3f}" for name in sorted(metrics) if name in EXTRA)
    parts = "".join(
        f", {name.removesuffix('/loss_nats')} {metrics[name]:.4f}" for name in metrics if name.endswith("/loss_nats")
    )
    return (
        f"val loss {metrics['loss_nats']:.4f} nats, perplexity {metrics['perplexity']:.1f}{bits}, "
        f"accuracy {metrics['accuracy']:.3f}{others}{parts}"
    )


def in_words(metrics: Mapping[str, Any], prefix: str = "", split: str = "") -> list[tuple[str, str]]:
    """Names and values for people, of those that the objective has; the keys of `metrics` begin with `prefix`."""
    rows = {
        "loss_nats": ("validation loss" if prefix == "val/" else "loss", "{:.6f} nats"),
        SHUFFLED_PREFIX: ("shuffled prefix", "{:.6f} nats, with the prefixes of other windows"),
        "unigram_loss_nats": ("unigram loss", "{:.6f} nats, without reading anything"),
        "perplexity": ("perplexity", "{:.2f}"),
        "bits_per_byte": ("bits per byte", "{:.4f}"),
        "accuracy": ("accuracy", "{:.4f}"),
        "unigram_accuracy": ("unigram accuracy", "{:.4f}"),
    }
    for name in metrics:
        part, _, metric = name.removeprefix(prefix).rpartition("/")
        if part and name.startswith(prefix) and metric in rows:
            title, form = rows[metric]
            rows[f"{part}/{metric}"] = (f"{title} of {part}", form)
    found = [(row, metrics[prefix + name]) for name, row in rows.items() if prefix + name in metrics]
    return [(title, form.format(value)) for (title, form), value in found]


def measure(model: Model, validation: Validation, device: torch.device) -> Metrics:
    """What training logs of a validation, with the same numbers: the sums run over the same batches."""
    sums = {number: evaluate(model, loader, device) for number, loader in enumerate(validation.loaders)}
    return split_metrics(sums, validation.infos, validation.info) | validation.baseline


def evaluate(model: Model, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """`token_sums` over all batches, with dropout off."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        sums += token_sums(model, batch.to(device))
    return sums


def with_context(trained: LoadedCheckpoint, context_length: int) -> RunConfig:
    """The run's config with windows of another length. Raises: FolioError where the model cannot read them."""
    config = trained.config
    if config.model.family != "decoder":
        raise FolioError(f"--context-length={context_length}: this is for a decoder; RUN is an {config.model.family}")
    longest = last_position(trained.model.config)
    if longest is not None and context_length > longest:
        raise FolioError(
            f"--context-length={context_length}: learned positions end at the {longest} that the model was trained "
            f"with; use at most {longest}, or train with another positional_encoding"
        )
    model = config.model.model_copy(update={"context_length": context_length})
    return config.model_copy(update={"model": model})
