"""Value embeddings: tables of more token embeddings, which the values of some layers read directly."""

import torch
from torch import Tensor, nn

from folio.models.transformer_config import TransformerConfig


class ValueEmbeddings(nn.Module):
    """n tables (V, G K): layers i and L - n + i add table i's row of the token to their values, times a weight each.

    The values of layer l become v + w_l E_i[token]. The last layers so get back what a token is, which they would
    otherwise have to carry through the residual stream.

    Source: modded-nanogpt (Jordan et al. 2024), after Zhou et al. 2024, "Value residual learning". There v has a
    learned weight of its own, which the projection of the values can absorb. As there, each w_l starts at 1/2.

    Shapes: tokens (B, T) -> for each layer (B, T, G K), or None.

        >>> sizes = {"vocab_size": 65, "context_length": 8, "n_layers": 3, "n_heads": 2, "d_model": 4}
        >>> embeddings = ValueEmbeddings(TransformerConfig(value_embeddings=1, **sizes))
        >>> [None if layer is None else layer.shape for layer in embeddings(torch.tensor([[1, 2]]))]
        [torch.Size([1, 2, 4]), None, torch.Size([1, 2, 4])]
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_layers, n_tables = config.n_layers, config.value_embeddings
        width = config.key_value_heads * config.head_width
        self.tables = nn.ModuleList(nn.Embedding(config.vocab_size, width) for _ in range(n_tables))
        self.weights = nn.Parameter(torch.full((2, n_tables), 0.5))
        """(2, n): those of the first layers, and those of the last."""

    def forward(self, tokens: Tensor) -> list[Tensor | None]:
        rows = [table(tokens) for table in self.tables]
        first, last = ([weight * row for weight, row in zip(weights, rows, strict=True)] for weights in self.weights)
        return [*first, *((self.n_layers - 2 * len(rows)) * [None]), *last]
