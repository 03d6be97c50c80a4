"""Keys and values of the tokens that a model has read, so that each is computed once."""

from torch import Tensor


class LayerCache:
    """Of one layer: keys and values (B, H, S, K), in memory for `capacity` positions that is taken at first use."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_keys = 0
        self.source: tuple[Tensor, Tensor] | None = None
        """Keys and values of an encoder's states, for cross-attention: they never change."""
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new positions, (B, H, T, K) each; returns all so far, (B, H, S, K)."""
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
    """Of all layers, for a batch whose sequences grow together. `capacity` counts positions, padding included."""

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.layers = [LayerCache(capacity) for _ in range(n_layers)]

    @property
    def n_keys(self) -> int:
        """How many positions it holds."""
        return self.layers[0].n_keys
