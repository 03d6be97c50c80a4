"""Blanks of a text, filled by an encoder. Imports no lightning."""

from collections.abc import Iterator, Sequence

import torch

from folio.data.tokenizers.base import Tokenizer
from folio.generation.prompts import encode_masked
from folio.generation.sampling import Sampling
from folio.generation.token_choice import Chooser
from folio.models import Encoder


def fill_masks(model: Encoder, tokenizer: Tokenizer, text: str, *, sampling: Sampling, seed: int) -> Iterator[str]:
    """Yield the text with a token in place of each `prompts.MASK`, up to the next blank as it is filled."""
    ids, pieces = encode_masked(text, tokenizer)
    if pieces[0]:
        yield pieces[0]
    # Blanks that touch are decoded together: a character may be spread over their tokens.
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
def fill_tokens(model: Encoder, ids: Sequence[int], *, sampling: Sampling, seed: int, n_symbols: int) -> Iterator[int]:
    """Yield a token for each id n_symbols, the mask, from left to right; the model reads each for the next.

    One at a time, since the model says of each blank alone what is likely there: filled at once, they need not fit to
    each other (Ghazvininejad et al. 2019, section 1). As many passes as blanks.
    """
    tokens = torch.tensor([list(ids)], device=next(model.parameters()).device)  # (1, T)
    chooser = Chooser([ids], sampling=sampling, seeds=[seed], n_symbols=n_symbols)
    for position in [at for at, token in enumerate(ids) if token == n_symbols]:
        (token,) = chooser.choose(model.output(model.hidden(tokens)[:, position]))
        yield token
        tokens[0, position] = token
