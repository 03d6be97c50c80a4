"""The loss of a model on any text, token by token. Imports no lightning."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.windows import ValidationWindows
from folio.data.tokenizers.base import Tokenizer
from folio.generation.prompts import check_prompt, check_request
from folio.models import GPT, Encoder, EncoderDecoder, Model
from folio.objectives.metrics import target_losses
from folio.runtime.errors import FolioError

TOKENS_PER_BATCH = 16384
"""Tokens that are read at once, in as many windows as that makes."""


@torch.no_grad()
def text_losses(model: Model, tokenizer: Tokenizer, text: str, prefix: str | None = None) -> tuple[list[int], Tensor]:
    """Return the ids of the tokens that a model predicts of a text, and the loss of each in nats: (N,) float64.

    A decoder predicts every token but the first. A text that is longer than its context is read as a split is
    validated: in windows that count each token once. After a prefix it predicts every token of the text, as it does
    with training.loss_on=completion; a prefix that does not fit loses its beginning. An encoder-decoder predicts every
    token from the prefix on.

    Raises: FolioError if the model cannot measure this text.
    """
    device = next(model.parameters()).device
    ids, batches = _batches(model, tokenizer, text, prefix)
    chunks = [losses for batch in batches for losses, _ in target_losses(model, batch.to(device))]
    return ids, torch.cat([losses.cpu().double() for losses in chunks])


def _batches(model: Model, tokenizer: Tokenizer, text: str, prefix: str | None) -> tuple[list[int], Iterator[Batch]]:
    if isinstance(model, Encoder):
        raise FolioError(
            "the model is an encoder, which reads a text from both sides and so has no loss for it; "
            "ask for the tokens at a [MASK] instead"
        )
    if isinstance(model, EncoderDecoder):
        check_request(model.config, tokenizer, text, prefix)
        ids = tokenizer.encode(text).tolist()
        _check_number("text", len(ids), least=1, most=model.config.context_length)
        return ids, iter([_prefix_batch(tokenizer.encode(prefix or "").tolist(), ids)])
    check_prompt(model.config, tokenizer, text)
    ids, before = tokenizer.encode(text).tolist(), tokenizer.encode(prefix or "").tolist()
    if not before:
        _check_number("text", len(ids), least=2)
        before, ids = ids[:1], ids[1:]
    room = max(1, model.config.context_length + 1 - len(ids))
    return ids, _window_batches(model, before[-room:], ids)


def _prefix_batch(prefix: Sequence[int], ids: Sequence[int]) -> Batch:
    """Return one row: the decoder starts with the last token of the prefix."""
    tokens = torch.tensor([[prefix[-1], *ids[:-1]]])
    return Batch(
        tokens,
        torch.tensor([ids]),
        n_tokens=len(prefix) + len(ids),
        prefix=torch.tensor([prefix]),
        prefix_lengths=torch.tensor([len(prefix)]),
    )


def _window_batches(model: GPT, before: Sequence[int], ids: Sequence[int]) -> Iterator[Batch]:
    """Yield windows in which all ids are targets once, and what stands before them is none."""
    whole = np.array([*before, *ids])
    length = min(model.config.context_length, len(whole) - 1)
    windows, n_rows = ValidationWindows(whole, length), max(1, TOKENS_PER_BATCH // length)
    for first in range(0, len(windows), n_rows):
        batch = windows.batch(range(first, min(first + n_rows, len(windows))))
        if first == 0:  # which holds all that stands before them
            batch.targets[0, : len(before) - 1] = IGNORE_INDEX
        yield batch


def _check_number(name: str, n_tokens: int, *, least: int, most: int | None = None) -> None:
    if n_tokens < least:
        raise FolioError(f"a {name} of {n_tokens} tokens has nothing to predict; give at least {least} tokens")
    if most is not None and n_tokens > most:
        raise FolioError(f"a {name} of {n_tokens} tokens is longer than the model's context_length={most}; shorten it")
