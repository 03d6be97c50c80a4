"""Fill the blanks of a text with an encoder. Imports no lightning."""

from collections.abc import Iterator, Sequence

import torch

from folio.data.tokenizers.base import Tokenizer
from folio.generation.prompts import encode_masked
from folio.models import Encoder
from folio.models.sampling import SamplingParams
from folio.models.token_sampler import TokenSampler


def fill_masks(
    model: Encoder, tokenizer: Tokenizer, text: str, *, sampling: SamplingParams, seed: int
) -> Iterator[str]:
    """Yield the text with a token in place of each `prompts.MASK`, up to the next blank as soon as one is filled."""
    ids, pieces = encode_masked(text, tokenizer)
    if pieces[0]:
        yield pieces[0]
    # Adjacent blanks are decoded together: their tokens may be parts of one character.
    run: list[int] = []
    tokens = fill_tokens(model, ids, sampling=sampling, seed=seed, n_symbols=tokenizer.vocab_size)
    for token, piece in zip(tokens, pieces[1:], strict=True):
        run.append(token)
        if piece:
            yield tokenizer.decode(run) + piece
            run = []
    if run:
        yield tokenizer.decode(run)


@torch.inference_mode()
def fill_tokens(
    model: Encoder, ids: Sequence[int], *, sampling: SamplingParams, seed: int, n_symbols: int
) -> Iterator[int]:
    """Yield a token for each masked id (n_symbols), from left to right; the model reads each before the next.

    One forward pass per blank. The model predicts each blank independently, so tokens drawn in a single pass need not
    fit each other (Ghazvininejad et al. 2019, section 1).
    """
    tokens = torch.tensor([list(ids)], device=next(model.parameters()).device)  # (1, T)
    sampler = TokenSampler([ids], sampling=sampling, seeds=[seed], n_symbols=n_symbols)
    for position in [index for index, token in enumerate(ids) if token == n_symbols]:
        (token,) = sampler.sample(model.output(model.hidden(tokens)[:, position]))
        yield token
        tokens[0, position] = token
