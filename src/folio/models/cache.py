"""The keys and values of tokens that a model has read, so that each is computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, (B, H, S, K) each, in memory that the first use allocates once.

    Without a window there is memory for all positions. With one, new positions attend to at most `window` - 1 earlier
    ones, and the older ones are forgotten.

        >>> import torch
        >>> cache = LayerCache(capacity=8)
        >>> for n_new in (3, 1):
        ...     keys, values = cache.append(torch.zeros(1, 2, n_new, 4), torch.zeros(1, 2, n_new, 4))
        >>> keys.shape
        torch.Size([1, 2, 4, 4])
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        # A quarter more than the window, so that old keys are dropped only every so many tokens.
        self.capacity = capacity if window is None else min(capacity, window + window // 4)
        self.window = window
        self.n_keys = 0
        """Number of positions so far, forgotten ones included."""
        self.encoder_keys_values: tuple[Tensor, Tensor] | None = None
        """Keys and values of an encoder's states, for cross-attention: they never change."""
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._end = 0
        """Number of columns in use."""

    @property
    def n_kept(self) -> int:
        """Number of earlier positions that new ones attend to."""
        return self.n_keys if self.window is None else min(self.n_keys, self.window - 1)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of T new positions, (B, H, T, K) each; return the last n_kept + T, (B, H, S, K)."""
        if self._keys is None or self._values is None:
            batch, n_heads, _, d_head = keys.shape
            self._keys = keys.new_empty(batch, n_heads, self.capacity, d_head)
            self._values = values.new_empty(batch, n_heads, self.capacity, d_head)
        first, end = self._end - self.n_kept, self._end + keys.size(2)
        self.n_keys += keys.size(2)
        if end <= self.capacity:
            self._keys[:, :, self._end : end] = keys
            self._values[:, :, self._end : end] = values
            self._end = end
            return self._keys[:, :, first:end], self._values[:, :, first:end]
        assert self.window is not None, "a cache without a window holds all positions"
        keys = torch.cat((self._keys[:, :, first : self._end], keys), dim=2)
        values = torch.cat((self._values[:, :, first : self._end], values), dim=2)
        self._end = self.n_kept
        self._keys[:, :, : self._end] = keys[:, :, keys.size(2) - self._end :]
        self._values[:, :, : self._end] = values[:, :, values.size(2) - self._end :]
        return keys, values


class KeyValueCache:
    """One cache per layer, for a batch whose sequences grow together. `capacity` counts positions, padding included.

    `windows` of the layers (`TransformerConfig.layer_windows`) bound the memory of layers that attend to a window. They
    count columns, so rows may then be padded only at their start. Without them, all positions are kept.

        >>> import torch
        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> cache = KeyValueCache(n_layers=1, capacity=8)
        >>> hidden = model.hidden(torch.tensor([[1, 2, 3]]), cache=cache)
        >>> hidden = model.hidden(torch.tensor([[4]]), cache=cache)  # attends to the three as well
        >>> cache.n_keys
        4
    """

    def __init__(self, n_layers: int, capacity: int, windows: Sequence[int | None] | None = None) -> None:
        self.capacity = capacity
        self.windows = windows
        self.layers = [LayerCache(capacity, window) for window in windows or n_layers * [None]]

    @property
    def n_keys(self) -> int:
        """Number of positions so far."""
        return self.layers[0].n_keys

    def n_kept(self, window: int | None) -> int:
        """Return how many earlier positions the layers with this window still have."""
        return self.n_keys if self.windows is None or window is None else min(self.n_keys, window - 1)
