"""Which keys a query may see, as bool tensors: True is seen."""

import torch
from torch import Tensor


def causal_mask(n_queries: int, n_keys: int, n_prefix: int = 0, device: torch.device | None = None) -> Tensor:
    """(T, S): the queries are the last T of the S keys, and each sees itself and the keys before it.

    The first n_open keys are seen by every query, as the prefix of a prefix LM is (Raffel et al. 2020, section 3.2.1).
    """
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)
    mask[:, :n_prefix] = True
    return mask


def padding_mask(lengths: Tensor, n_keys: int) -> Tensor:
    """(B, S) from the number of tokens in each row, lengths (B,): what follows them is padding.

    Raises: ValueError where a length is below 1 or above n_keys. Lengths on a GPU are not looked at: that would
    make the CPU wait for it.
    """
    if lengths.device.type == "cpu" and lengths.numel() and not (lengths.min() >= 1 and lengths.max() <= n_keys):
        raise ValueError(f"lengths={lengths.tolist()} must be at least 1 and at most the {n_keys} tokens of a row")
    return torch.arange(n_keys, device=lengths.device) < lengths[:, None]


def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """What all of the masks that are given let be seen; None, everything, where none is.

    A query that could see no key, as the padding in front of a prompt, sees the first one: a softmax over nothing
    would be NaN, and NaN times a weight of 0 is NaN everywhere. Shapes: broadcastable to (..., T, S).
    """
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    combined = given[0]
    for mask in given[1:]:
        combined = combined & mask
    sees_nothing = ~combined.any(dim=-1, keepdim=True)
    first = torch.zeros(combined.size(-1), dtype=torch.bool, device=combined.device)
    first[:1] = True
    return combined | (sees_nothing & first)
