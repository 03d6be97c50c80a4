"""The loss of a model over a whole split. Training and `scripts/evaluate.py` share it, so their figures agree.

Imports no lightning.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from folio.data.windows import IGNORE_INDEX
from folio.models import GPT
from folio.training.objectives import CHUNK_ROWS, score_

Metrics = dict[str, float]


@torch.no_grad()
def token_sums(model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Sums over the counted targets of a batch: tokens, targets (B, T) -> (3,) float64.

    They are: nats, correct greedy predictions, number of targets. Sums, because a mean of means would weigh
    the tokens of a batch with few targets more; float64, because they run over a whole split.
    """
    hidden, weight = model.hidden(tokens).flatten(end_dim=1), model.output.weight  # (B*T, D), (V, D)
    counted = targets.flatten() != IGNORE_INDEX
    sums = torch.zeros(3, dtype=torch.float64)
    # In chunks: the logits of a whole batch over a large vocabulary would be the peak of the run's memory.
    chunks = zip(hidden[counted].split(CHUNK_ROWS), targets.flatten()[counted].split(CHUNK_ROWS), strict=True)
    for rows, wanted in chunks:
        losses, correct, *_ = score_(F.linear(rows, weight).float(), wanted)  # (R,), (R,)
        # float64 on the CPU: Apple's GPU has none.
        sums[:2] += torch.stack((losses, correct)).cpu().double().sum(dim=1)
    sums[2] = int(counted.sum())
    return sums


def metrics_from(sums: Tensor, tokens_per_byte: float) -> Metrics:
    """`metrics_of` the means that `token_sums` gives."""
    nats, correct, n_tokens = sums.tolist()
    return metrics_of(nats / n_tokens, correct / n_tokens, tokens_per_byte)


def metrics_of(loss_nats: float, accuracy: float, tokens_per_byte: float) -> Metrics:
    """Nats per token, perplexity, bits per byte and accuracy.

    Bits per byte, loss / ln 2 x tokens / bytes of the split, makes tokenizers comparable: a token that spans more
    text may cost more.
    """
    return {
        "loss_nats": loss_nats,
        "perplexity": perplexity(loss_nats),
        "bits_per_byte": loss_nats / math.log(2) * tokens_per_byte,
        "accuracy": accuracy,
    }


def perplexity(loss_nats: float) -> float:
    """exp of the loss; infinity where that is past the largest float."""
    try:
        return math.exp(loss_nats)
    except OverflowError:
        return math.inf


def evaluate(model: GPT, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Tensor:
    """`token_sums` over all batches, with dropout off."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for tokens, targets in batches:
        sums += token_sums(model, tokens.to(device), targets.to(device))
    return sums
