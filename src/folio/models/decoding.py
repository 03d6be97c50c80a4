"""Texts that a decoder continues together, one token at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from folio.models.blocks import EncoderOutput
from folio.models.cache import KeyValueCache
from folio.models.masks import check_padding_mask
from folio.models.sampling import SamplingParams
from folio.models.token_sampler import draw_tokens


def continue_tokens(
    model: Any,  # a GPT, which imports this module
    tokens: Tensor,
    padding_mask: Tensor | None,
    max_new_tokens: int,
    sampling: SamplingParams,
    generator: torch.Generator | None,
) -> Tensor:
    """Do what `GPT.generate` says: (B, T) -> (B, T + max_new_tokens)."""
    _check_rows(tokens, padding_mask, max_new_tokens)
    is_token = torch.ones_like(tokens, dtype=torch.bool) if padding_mask is None else padding_mask
    texts = [row[mask].tolist() for row, mask in zip(tokens, is_token, strict=True)]
    batch = DecodingBatch(model, texts, None, n_new=max_new_tokens, use_cache=True)
    new = tokens.new_empty(len(texts), max_new_tokens)
    device = torch.device("cpu") if generator is None else generator.device
    for step in range(max_new_tokens):
        drawn = draw_tokens(batch.next_logits().float().to(device), sampling, len(texts) * [generator])
        new[:, step] = drawn
        batch.append(drawn.tolist())
    ends = [int(mask.nonzero().max()) + 1 for mask in is_token]  # of the texts; padding may follow
    rows = zip(tokens, new, ends, strict=True)
    return torch.stack([torch.cat((row[:end], added, row[end:])) for row, added, end in rows])


def _check_rows(tokens: Tensor, padding_mask: Tensor | None, max_new_tokens: int) -> None:
    if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point():
        raise ValueError(
            f"tokens have the shape {tuple(tokens.shape)} and the type {tokens.dtype}, but must be (B, T) int64 with "
            "at least one token in each row; a single text is tokens[None]"
        )
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be 0 or more")
    if padding_mask is not None:
        check_padding_mask(padding_mask, *tokens.shape)
        if not padding_mask.any(dim=1).all():
            raise ValueError("padding_mask has a row without tokens, but a model continues at least one; leave it out")


class DecodingBatch:
    """Texts that grow together by n_new tokens and keep at most `window` tokens each.

    Without a window that is the model's context_length; but a model all of whose layers attend to windows, and whose
    positions have no end, keeps whole texts, since its cache does not grow with them (Jiang et al. 2023, Mistral 7B,
    section 2).

    Shorter texts are padded at the start, so that all end in the same column. Memory for the tokens, and for a cache's
    keys and values, is allocated once.

        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> batch = DecodingBatch(model, [[1, 2, 3], [4]], None, n_new=2, use_cache=True)
        >>> batch.next_logits().shape
        torch.Size([2, 65])
        >>> batch.append([5, 6])
        >>> batch.next_logits().shape  # after [1, 2, 3, 5] and [4, 6]
        torch.Size([2, 65])
    """

    def __init__(
        self,
        model: Any,  # a GPT, which imports this module, or an EncoderDecoder
        texts: Sequence[Sequence[int]],
        encoder_output: EncoderOutput | None,
        window: int | None = None,
        *,
        n_new: int,
        use_cache: bool,
    ) -> None:
        config = model.config
        device = next(model.parameters()).device
        longest = max(map(len, texts))
        if window is None:
            keeps_all = None not in config.layer_windows and config.max_positions is None
            window = longest + n_new if keeps_all else config.context_length
        padded = torch.tensor([[0] * (longest - len(text)) + [*text] for text in texts], device=device)  # (B, T)
        n_padding = torch.tensor([longest - len(text) for text in texts], device=device)
        is_token = torch.arange(longest, device=device) >= n_padding[:, None]  # (B, T)
        self._model = model
        self._encoder_output = encoder_output
        self._n_tokens = min(longest, window)
        capacity = min(window, longest + n_new)
        self._tokens = padded.new_zeros(len(texts), capacity)
        """(B, capacity), of which the first n_tokens columns are used."""
        self._tokens[:, : self._n_tokens] = padded[:, -self._n_tokens :]
        self._padding_mask: Tensor | None = None
        """(B, capacity) bool, False for padding; None if there is none."""
        if not is_token[:, -self._n_tokens :].all():
            self._padding_mask = torch.ones_like(self._tokens, dtype=torch.bool)
            self._padding_mask[:, : self._n_tokens] = is_token[:, -self._n_tokens :]
        self._cache: KeyValueCache | None = None
        self._n_cached = 0
        """Number of columns in the cache."""
        if use_cache and longest <= window:
            if encoder_output is not None and config.conditioning == "hidden_cache":
                capacity += encoder_output.states.size(1)
            self._cache = KeyValueCache(config.n_layers, capacity, config.layer_windows)

    def next_logits(self) -> Tensor:
        """Return the logits of the token after each text, (B, V)."""
        if self._cache is None:
            hidden = self._hidden(0, self._n_tokens)
        else:
            # In pieces, because the mask of a long text with itself would be large.
            for start in range(self._n_cached, self._n_tokens, self._model.config.context_length):
                end = min(start + self._model.config.context_length, self._n_tokens)
                hidden = self._hidden(start, end)
            self._n_cached = self._n_tokens
        logits: Tensor = self._model.output(hidden[:, -1])  # (B, D): only the last
        return logits

    def append(self, tokens: Sequence[int]) -> None:
        """Append one token to each text; a text longer than the window loses its oldest token."""
        if self._n_tokens == self._tokens.size(1):
            self._slide()
        self._tokens[:, self._n_tokens] = torch.tensor(tokens, device=self._tokens.device)
        self._n_tokens += 1

    def _slide(self) -> None:
        """Drop the oldest column, and the cache with it: every position changes."""
        self._tokens[:, :-1] = self._tokens[:, 1:].clone()
        if self._padding_mask is not None:
            self._padding_mask[:, :-1] = self._padding_mask[:, 1:].clone()
        self._n_tokens -= 1
        self._cache, self._n_cached = None, 0

    def _hidden(self, start: int, end: int) -> Tensor:
        """Read the columns from start to end: (B, end - start, D)."""
        tokens = self._tokens[:, start:end]
        padding_mask = None if self._padding_mask is None else self._padding_mask[:, :end]
        inputs = (tokens,) if self._encoder_output is None else (tokens, self._encoder_output)
        read = self._model.hidden if self._encoder_output is None else self._model.decode
        hidden: Tensor = read(*inputs, cache=self._cache, padding_mask=padding_mask)
        return hidden
