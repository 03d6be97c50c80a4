"""The keys and values of tokens that a model has read, so that each is computed once."""

from torch import Tensor


class LayerCache:
    """Keys and values of one layer, (B, H, S, K) each, in memory that the first use allocates for all positions.

    Example:

        >>> import torch
        >>> cache = LayerCache(capacity=8)
        >>> for n_new in (3, 1):
        ...     keys, values = cache.append(torch.zeros(1, 2, n_new, 4), torch.zeros(1, 2, n_new, 4))
        >>> keys.shape
        torch.Size([1, 2, 4, 4])
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_keys = 0
        self.encoder_keys_values: tuple[Tensor, Tensor] | None = None
        """Keys and values of an encoder's states, for cross-attention: they never change."""
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new positions, (B, H, T, K) each; return all so far, (B, H, S, K)."""
        if self._keys is None or self._values is None:
            batch, n_heads, _, d_head = keys.shape
            self._keys = keys.new_empty(batch, n_heads, self.capacity, d_head)
            self._values = values.new_empty(batch, n_heads, self.capacity, d_head)
        end = self.n_keys + keys.size(2)
        assert end <= self.capacity
        self._keys[:, :, self.n_keys : end] = keys
        self._values[:, :, self.n_keys : end] = values
        self.n_keys = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class KeyValueCache:
    """One cache per layer, for a batch whose sequences grow together. `capacity` counts positions, padding included.

    Example:

        >>> import torch
        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> cache = KeyValueCache(n_layers=1, capacity=8)
        >>> hidden = model.hidden(torch.tensor([[1, 2, 3]]), cache=cache)
        >>> hidden = model.hidden(torch.tensor([[4]]), cache=cache)  # attends to the three as well
        >>> cache.n_keys
        4
    """

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.layers = [LayerCache(capacity) for _ in range(n_layers)]

    @property
    def n_keys(self) -> int:
        """Number of positions in the cache."""
        return self.layers[0].n_keys
