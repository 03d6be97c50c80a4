"""The computation that a request for text asks for, as steps of one forward pass each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX
from folio.data.batches.windows import ValidationWindows
from folio.data.tokenizers.base import Tokenizer
from folio.generation.stop_strings import StopSearch
from folio.models import GPT
from folio.models.decoding import DecodingBatch
from folio.models.sampling import SamplingParams
from folio.models.token_sampler import TokenSampler
from folio.objectives.losses import CHUNK_ROWS, hidden_states

LEAST_LOGPROB = -9999.0
"""In place of minus infinity and NaN, which JSON does not have."""


@dataclass(frozen=True)
class TextRequest:
    """A request to a model: n texts for each prompt, numbered prompt by prompt."""

    prompts: list[list[int]]
    n: int
    max_tokens: int
    sampling: SamplingParams
    seed: int
    """Seed of the first text of each prompt; the others have the next ones, as in `scripts/generate.py`."""
    stop: list[str]
    n_logprobs: int | None
    """Number of alternatives to each token; None: no probabilities at all."""
    echo: bool
    """Whether the prompt is part of the text."""
    ignore_eos: bool


@dataclass(frozen=True)
class Token:
    """A token of a text, with its probability if that was asked for."""

    id: int
    offset: int
    """Character of the text at which it begins."""
    logprob: float | None
    """Natural logarithm of its probability, before temperature; None for the first token of a prompt."""
    top: tuple[tuple[int, float], ...]
    """Ids and log-probabilities of the likeliest tokens."""


@dataclass(frozen=True)
class Piece:
    """The next piece of one of the texts."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()
    """Empty unless probabilities were asked for."""
    n_new: int = 0
    """Number of tokens that were drawn for it, with those of a stop string."""
    finish_reason: Literal["stop", "length"] | None = None


@torch.inference_mode()
def text_steps(model: GPT, tokenizer: Tokenizer, request: TextRequest) -> Iterator[Piece | None]:
    """Yield the pieces of the texts, one text after the other; None after a step that completes none.

    One at a time, so that a request holds one cache, whatever n is.
    """
    for index in range(len(request.prompts) * request.n):
        prompt, number = divmod(index, request.n)
        yield from _one_text(model, tokenizer, request, index, request.prompts[prompt], request.seed + number)


def gather(steps: Iterator[Piece | None]) -> Iterator[list[Piece] | None]:
    """Yield all pieces at the end, and None after each step before."""
    pieces = []
    for piece in steps:
        if piece is not None:
            pieces.append(piece)
        yield None
    yield pieces


def _one_text(
    model: GPT, tokenizer: Tokenizer, request: TextRequest, index: int, prompt: list[int], seed: int
) -> Iterator[Piece | None]:
    start = 0
    if request.echo:
        text, tokens = tokenizer.decode(prompt), []
        for scored in score_prompt(model, tokenizer, prompt, request.n_logprobs):
            tokens += scored
            yield None
        yield Piece(index, text, tuple(tokens))
        start = len(text)
    if request.max_tokens == 0:
        yield Piece(index, "", finish_reason="length")
        return
    writer = TextWriter(tokenizer, prompt, request.stop, index, start)
    sampler = TokenSampler([prompt], sampling=request.sampling, seeds=[_wrapped(seed)], n_symbols=tokenizer.vocab_size)
    batch = DecodingBatch(model, [prompt], None, n_new=request.max_tokens, use_cache=True)
    for _ in range(request.max_tokens):
        logits = batch.next_logits()
        (token,) = sampler.sample(logits)
        if token == tokenizer.end_of_text and not request.ignore_eos:
            yield writer.finish("stop", n_new=1)
            return
        scores = None if request.n_logprobs is None else logits.float().log_softmax(dim=-1)[0].cpu()
        yield writer.push(token, scores, request.n_logprobs)
        if writer.is_stopped:
            yield writer.finish("stop")
            return
        batch.append([token])
    yield writer.finish("length")


def _wrapped(seed: int) -> int:
    """Return a seed that torch takes: the one after the largest is the smallest."""
    return (seed + 2**63) % 2**64 - 2**63


class TextWriter:
    """Turns the drawn tokens of one text into pieces, up to a stop string."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], index: int, start: int
    ) -> None:
        self._drawn: list[int] = []
        """The token that is to be decoded next."""
        self._texts = tokenizer.decode_stream(self._take_drawn(), after=prompt)
        self._n_symbols = tokenizer.vocab_size
        self._search = StopSearch(stop)
        self._index = index
        self._offset = start
        """Character at which the next token begins."""
        self._released = start
        """Number of characters that were released."""
        self._tokens: list[Token] = []
        """Tokens that are not released."""

    def _take_drawn(self) -> Iterator[int]:
        while self._drawn:
            yield self._drawn.pop()

    @property
    def is_stopped(self) -> bool:
        return self._search.is_complete

    def push(self, token: int, scores: Tensor | None, n_top: int | None) -> Piece:
        """Add a token, with the log-probabilities (V,) of all; what might be a stop string is held back."""
        self._drawn.append(token)
        text = next(self._texts)
        if scores is not None:
            self._tokens.append(_scored(token, self._offset, scores, n_top or 0, self._n_symbols))
        self._offset += len(text)
        return self._release(self._search.push(text), n_new=1)

    def finish(self, reason: Literal["stop", "length"], n_new: int = 0) -> Piece:
        """Return the rest of the text."""
        text = "" if self.is_stopped else self._search.push("".join(self._texts)) + self._search.finish()
        piece = self._release(text, n_new)
        left = () if self.is_stopped else tuple(self._tokens)
        return Piece(self._index, piece.text, piece.tokens + left, n_new, "stop" if self.is_stopped else reason)

    def _release(self, text: str, n_new: int) -> Piece:
        """Return a piece with the tokens that begin in the text released so far, and those that only continue it."""
        self._released += len(text)
        n_tokens = sum(token.offset < self._released for token in self._tokens)
        tokens, self._tokens = tuple(self._tokens[:n_tokens]), self._tokens[n_tokens:]
        return Piece(self._index, text, tokens, n_new)


@torch.inference_mode()
def score_prompt(model: GPT, tokenizer: Tokenizer, prompt: list[int], n_top: int | None) -> Iterator[list[Token]]:
    """Yield the tokens of a prompt with their log-probabilities, one forward pass at a time; none unless asked for.

    A prompt longer than the context is read as a split is validated: in windows that count each token once.
    """
    if n_top is None:
        return
    pieces = [*tokenizer.decode_stream(prompt)][: len(prompt)]
    offsets = [0, *np.cumsum([len(piece) for piece in pieces]).tolist()]
    yield [Token(prompt[0], 0, None, ())]
    if len(prompt) == 1:
        return
    windows = ValidationWindows(np.array(prompt), min(model.config.context_length, len(prompt) - 1))
    device, place = next(model.parameters()).device, 1
    for number in range(len(windows)):
        batch = windows.batch([number]).to(device)
        counted = batch.targets[0] != IGNORE_INDEX  # (T,)
        hidden = hidden_states(model, batch)[0][counted]
        for chunk in hidden.split(CHUNK_ROWS):
            scores = model.output(chunk).float().log_softmax(dim=-1).cpu()  # (R, V)
            places = range(place, place + len(chunk))
            yield [
                _scored(prompt[at], offsets[at], row, n_top, tokenizer.vocab_size)
                for at, row in zip(places, scores, strict=True)
            ]
            place += len(chunk)


def _scored(token: int, offset: int, scores: Tensor, n_top: int, n_symbols: int) -> Token:
    """Return a token with its log-probability and the n_top likeliest, of the log-probabilities (V,) of all."""
    values, ids = scores[:n_symbols].topk(min(n_top, n_symbols))
    top = zip(ids.tolist(), map(_finite, values.tolist()), strict=True)
    return Token(token, offset, _finite(scores[token].item()), tuple(top))


def _finite(logprob: float) -> float:
    return max(LEAST_LOGPROB, logprob)
