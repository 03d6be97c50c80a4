"""Attention masks: which keys each query may attend to. In a bool mask, True means that it may."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionMask:
    """The mask that all layers with the same window share, with the positional encoding's bias in it.

    Example:

        >>> key_mask = torch.tensor([[False, True, True]])  # the first is padding
        >>> mask = AttentionMask.causal(3, 3, torch.device("cpu"), key_mask=key_mask)
        >>> mask.allowed(3, 3, torch.device("cpu"))[0, 0].int().tolist()
        [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """

    is_causal: bool = False
    """True if each position attends to itself and those before it. Then `tensor` is None, which is fastest."""
    tensor: Tensor | None = None
    """Broadcastable to (B, H, T, S): bool, or float that is added to the scaled scores; None for all keys."""
    window: int | None = None
    """If each position attends to itself and the window - 1 positions before it, and `tensor` says nothing else."""

    @classmethod
    def causal(
        cls,
        n_queries: int,
        n_keys: int,
        device: torch.device,
        *,
        n_prefix: int = 0,
        key_mask: Tensor | None = None,
        near: Tensor | None = None,
        window: int | None = None,
        documents: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> "AttentionMask":
        """Build the mask of a decoder whose T queries are the last of S keys.

        Each query attends to its own position, those before it, and the first n_prefix. key_mask (B, S) is False for
        padding, near is the result of `near_mask` for the window, a query attends only to keys with its own number in
        documents (B, S), and bias is the positional encoding's.
        """
        is_plain = key_mask is None and documents is None and bias is None
        if is_plain and near is None and n_queries == 1:  # the newest position attends to everything
            return cls()
        is_plain = is_plain and n_queries == n_keys and not n_prefix
        if is_plain and near is None:
            return cls(is_causal=True)
        allowed = causal_mask(n_queries, n_keys, n_prefix, device)
        same = None if documents is None else same_document(documents, n_queries)
        tensor = _add_bias(combine_masks(allowed, _for_all_heads(key_mask), near, same), bias)
        return cls(tensor=tensor, window=window if is_plain else None)

    def allowed(self, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
        """Return which keys each query may attend to: (B or 1, H or 1, T, S) bool."""
        if self.tensor is None:
            full = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
            return (full.tril() if self.is_causal else full)[None, None]
        mask = self.tensor != float("-inf") if self.tensor.is_floating_point() else self.tensor
        mask = mask if mask.ndim == 4 else mask[None, None]
        return mask.expand(-1, -1, n_queries, -1)

    @classmethod
    def bidirectional(
        cls, key_mask: Tensor | None = None, bias: Tensor | None = None, near: Tensor | None = None
    ) -> "AttentionMask":
        """Build a mask that hides only padding, where key_mask (B, S) is False, and keys that are not near."""
        return cls(tensor=_add_bias(combine_masks(_for_all_heads(key_mask), near), bias))


def causal_mask(n_queries: int, n_keys: int, n_prefix: int = 0, device: torch.device | None = None) -> Tensor:
    """Return (T, S): the queries are the last T of the S keys; each attends to itself and the keys before it.

    Every query attends to the first n_prefix keys too, as in a prefix LM (Raffel et al. 2020, section 3.2.1).
    """
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)
    mask[:, :n_prefix] = True
    return mask


def near_mask(query_positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor | None:
    """Return which keys are less than `window` positions from a query, before or after it; None if all are.

    Shapes: (T,) and (S,) -> (T, S); (B, T) and (B, S) -> (B, 1, T, S).
    """
    if window is None or key_positions.size(-1) <= window:
        return None
    near = (query_positions[..., :, None] - key_positions[..., None, :]).abs() < window
    return near if near.ndim == 2 else near[:, None]


def same_document(documents: Tensor, n_queries: int) -> Tensor:
    """Return which keys are in the document of each of the last T tokens: documents (B, S) -> (B, 1, T, S) bool.

    Source: Zhao et al. 2024, "Analysing the impact of sequence composition", section 2 (intra-document masking).
    """
    return documents[:, None, -n_queries:, None] == documents[:, None, None, :]


def padding_mask(lengths: Tensor, n_keys: int) -> Tensor:
    """Return (B, S) for rows whose first lengths[b] tokens are followed by padding.

    Raises: ValueError if a length is below 1 or above n_keys. Lengths on a GPU are not checked: the CPU would have to
    wait for them.
    """
    if lengths.device.type == "cpu" and lengths.numel() and not (lengths.min() >= 1 and lengths.max() <= n_keys):
        raise ValueError(f"lengths={lengths.tolist()} must be at least 1 and at most the {n_keys} tokens of a row")
    return torch.arange(n_keys, device=lengths.device) < lengths[:, None]


def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """Return what all given masks allow; None if none is given.

    A query that could attend to no key, such as the padding before a prompt, gets the first key: a softmax over
    nothing would be NaN, and NaN times a weight of 0 is NaN everywhere. Shapes: broadcastable to (..., T, S).
    """
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    combined = given[0]
    for mask in given[1:]:
        combined = combined & mask
    is_empty = ~combined.any(dim=-1, keepdim=True)
    is_first = torch.zeros(combined.size(-1), dtype=torch.bool, device=combined.device)
    is_first[:1] = True
    return combined | (is_empty & is_first)


class Positions(NamedTuple):
    """Positions of new tokens, and of all tokens that they may attend to: the earlier ones and themselves.

    Example:

        >>> tokens = torch.tensor([[0, 7, 8]])
        >>> positions_after(0, tokens, padding_mask=torch.tensor([[False, True, True]])).new.tolist()
        [[0, 0, 1]]
    """

    new: Tensor
    """(T,), or (B, T) if rows are padded."""
    all: Tensor
    """(S,), or (B, S)."""
    key_mask: Tensor | None
    """(B, S) bool, False for padding; None if there is no padding."""
    documents: Tensor | None = None
    """(B, S) number of each token's document; None if a row is one document."""

    def last(self, n_keys: int) -> "Positions":
        """Return the positions with the last n_keys of the S keys."""
        if n_keys == self.all.size(-1):
            return self
        key_mask, documents = (None if part is None else part[:, -n_keys:] for part in (self.key_mask, self.documents))
        return Positions(self.new, self.all[..., -n_keys:], key_mask, documents)


def positions_after(
    n_before: int, tokens: Tensor, padding_mask: Tensor | None, documents: Tensor | None = None
) -> Positions:
    """Return the positions of tokens (B, T) after n_before others; padding_mask and documents (B, S) cover them all.

    Only tokens count, so that a row has the same positions with and without its padding, wherever that stands. Where
    the number of the document changes, positions start again from 0.

    Raises: ValueError if the mask or the documents have another shape or type.
    """
    n_keys = n_before + tokens.size(1)
    if documents is not None:
        _check_documents(documents, tokens.size(0), n_keys)
    if padding_mask is None and documents is None:
        columns = torch.arange(n_keys, device=tokens.device)
        return Positions(columns[n_before:], columns, None)
    if padding_mask is None:
        n_earlier = positions = torch.arange(n_keys, device=tokens.device).expand(tokens.size(0), -1)
    else:
        check_padding_mask(padding_mask, tokens.size(0), n_keys)
        n_including = padding_mask.cumsum(dim=1)
        n_earlier, positions = n_including - padding_mask.long(), (n_including - 1).clamp(min=0)
    if documents is not None:
        positions = (positions - _n_before_document(n_earlier, documents)).clamp(min=0)
    return Positions(positions[:, n_before:], positions, padding_mask, documents)


def _n_before_document(n_earlier: Tensor, documents: Tensor) -> Tensor:
    """Return how many tokens of a row precede the document of each, (B, S), from how many precede the token itself."""
    begins = documents[:, 1:] != documents[:, :-1]
    n_before = torch.where(begins, n_earlier[:, 1:], 0).cummax(dim=1).values
    return torch.cat((torch.zeros_like(n_earlier[:, :1]), n_before), dim=1)


def _check_documents(documents: Tensor, batch_size: int, n_keys: int) -> None:
    """Raises: ValueError if the numbers are not (B, S) integers."""
    if documents.is_floating_point() or documents.dtype == torch.bool or documents.shape != (batch_size, n_keys):
        raise ValueError(
            f"documents have the shape {tuple(documents.shape)} and the type {documents.dtype}, but must have the "
            f"shape of the tokens, {(batch_size, n_keys)}, and be int64: the number of each token's document"
        )


def check_padding_mask(padding_mask: Tensor, batch_size: int, n_keys: int) -> None:
    """Raises: ValueError if the mask is not (B, S) bool."""
    if padding_mask.dtype != torch.bool:
        raise ValueError(
            f"padding_mask is of type {padding_mask.dtype}, but must be torch.bool: True for a token, False for padding"
        )
    if padding_mask.shape != (batch_size, n_keys):
        raise ValueError(
            f"padding_mask has the shape {tuple(padding_mask.shape)}, but must have that of the tokens, "
            f"{(batch_size, n_keys)}: True for a token, False for padding"
        )


def _add_bias(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Merge a bool mask and a bias (H, T, S) or (B, H, T, S) into one tensor."""
    if bias is None:
        return mask
    bias = bias if bias.ndim == 4 else bias.unsqueeze(0)
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def _for_all_heads(key_mask: Tensor | None) -> Tensor | None:
    """(B, S) -> (B, 1, 1, S): the same for all heads and queries."""
    return None if key_mask is None else key_mask[:, None, None, :]
