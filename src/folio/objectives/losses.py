"""Cross-entropy, also in chunks that save memory and time on a CPU. Imports no lightning."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.models import Encoder, EncoderDecoder, Model
from folio.models.cpu_linear import onednn_matmul

CHUNK_ROWS = 256
"""Rows of logits that exist at once: enough to fill a matrix product, and far fewer than a whole batch has. 64 to 256
were equally fast on a CPU at V = 50,257."""

MIN_CHUNKED_VOCABULARY = 4096
"""Smallest vocabulary for which chunks are faster than all logits at once."""


def hidden_states(model: Model, batch: Batch) -> Tensor:
    """Return what the output layer reads at each of batch.tokens: (B, T, D)."""
    if isinstance(model, EncoderDecoder):
        assert batch.prefix is not None
        return model.hidden(batch.tokens, batch.prefix, batch.prefix_lengths)
    if isinstance(model, Encoder):
        return model.hidden(batch.tokens, batch.lengths)
    return model.hidden(batch.tokens, documents=batch.documents)


def batch_loss(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of the targets in nats, and the accuracy: two scalars.

    It is the same for all objectives, because the batch decides which tokens are hidden and which are targets. The
    accuracy is the share of the targets that had the largest logit; it cannot be differentiated.
    """
    hidden, targets = hidden_states(model, batch).flatten(end_dim=1), batch.targets.flatten()  # (B*T, D), (B*T,)
    if batch.lengths is not None:  # few tokens of a masked LM are targets; elsewhere nearly all are
        counted = targets != IGNORE_INDEX
        hidden, targets = hidden[counted], targets[counted]
    weight, bias, softcap = model.output.weight, model.output.bias, model.output.softcap
    # A GPU is fast without chunks, and under autocast their products would have the wrong dtype.
    on_cpu = hidden.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if on_cpu and weight.size(0) >= MIN_CHUNKED_VOCABULARY:
        return ChunkedCrossEntropy.apply(hidden, weight, bias, targets, softcap)
    logits = model.output(hidden).float()  # (B*T, V)
    accuracy = (logits.detach().argmax(dim=1) == targets).float().mean()
    return F.cross_entropy(logits, targets), accuracy


class ChunkedCrossEntropy(torch.autograd.Function):
    """F.cross_entropy(hidden @ weight.T + bias, targets), and the accuracy, without holding all (N, V) logits at once.

    A softcap c takes the place of the logits z by c tanh(z / c).

    The gradient of a chunk's logits, (softmax - one_hot) / N, is known as soon as they are, so it overwrites them and
    is at once multiplied into the gradients of hidden and weight: three matrix products and one buffer of
    (CHUNK_ROWS, V). On two CPU cores this takes 0.6 times as long as F.cross_entropy at N 768, D 128, V 50,257,
    because F.cross_entropy passes over main memory several times.

    Shapes: hidden (N, D), weight (V, D), bias (V,) or None, targets (N,) -> loss and accuracy, scalars. The gradient is
    computed in forward, so the loss can be differentiated only once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        n_rows = hidden.size(0)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        buffer = hidden.new_empty(min(CHUNK_ROWS, n_rows), weight.size(0))
        losses, correct = hidden.new_empty(n_rows), hidden.new_empty(n_rows)
        for start in range(0, n_rows, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            chunk_hidden, chunk_targets = hidden[rows], targets[rows]  # (R, D), (R,)
            with onednn_matmul():
                logits = torch.mm(chunk_hidden, weight.T, out=buffer[: chunk_hidden.size(0)])  # (R, V)
            if bias is not None:
                logits += bias
            slope = None if softcap is None else cap_logits_(logits, softcap)
            losses[rows], correct[rows], exponentials, normalizer = cross_entropy_(logits, chunk_targets)
            gradient = exponentials.div_(normalizer * n_rows)
            gradient.scatter_add_(1, chunk_targets[:, None], torch.full_like(normalizer, -1.0 / n_rows))
            if slope is not None:
                gradient *= slope
            with onednn_matmul():
                torch.mm(gradient, weight, out=hidden_gradient[rows])
                weight_gradient.addmm_(gradient.T, chunk_hidden)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(dim=0)
        ctx.gradients = hidden_gradient, weight_gradient, bias_gradient
        accuracy = correct.mean()
        ctx.mark_non_differentiable(accuracy)
        return losses.mean(), accuracy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        # Not by save_for_backward: autograd may then accumulate in place, without a copy as large as the weight.
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss can be differentiated only once")
        gradients, ctx.gradients = ctx.gradients, None
        if gradient != 1.0:
            for part in gradients:
                if part is not None:
                    part.mul_(gradient)
        return *gradients, None, None


def cap_logits_(logits: Tensor, softcap: float) -> Tensor:
    """Replace logits z (R, V) by c tanh(z / c), in place; return the slope there, 1 - tanh(z / c)^2 (R, V)."""
    logits.div_(softcap).tanh_()
    slope = 1 - logits.square()
    logits.mul_(softcap)
    return slope


def cross_entropy_(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cross-entropy in nats and the correctness of each row, and its softmax as a fraction.

    In place: the exponentials, the numerator of the softmax, overwrite the logits.

    Shapes: logits (R, V), targets (R,) -> losses (R,), correct (R,), exponentials (R, V), normalizer (R, 1).
    """
    largest = logits.amax(dim=1, keepdim=True)  # (R, 1)
    target_logits = logits.gather(1, targets[:, None])  # (R, 1)
    exponentials = logits.sub_(largest).exp_()
    normalizer = exponentials.sum(dim=1, keepdim=True)  # (R, 1)
    losses = (normalizer.log() + largest - target_logits).squeeze(1)
    correct = (target_logits == largest).squeeze(1).to(losses.dtype)
    return losses, correct, exponentials, normalizer
