"""How weights begin."""

from torch import nn

from folio.models.transformer_config import TransformerConfig

EMBEDDING_STD = 0.02
"""Standard deviation of GPT-2's initial weights (Radford et al. 2018, section 4.1)."""


def initialize(model: nn.Module, config: TransformerConfig) -> None:
    """Draw all weights anew, as config.init says; biases 0, norms 1.

    gpt2: N(0, 0.02), and residual projections smaller by the root of their number. Each of them adds to the residual
    stream, whose variance would grow with their number (Radford et al. 2019, section 2.3).
    xavier: linear layers uniform with the variance 2 / (inputs + outputs) (Glorot and Bengio 2010, equation 16), the
    parts of a fused projection each on its own; embeddings as with gpt2.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if config.init == "xavier":
        _draw_xavier(model, config)
    else:
        _shrink_residual_projections(model, config.n_layers)


def _draw_xavier(model: nn.Module, config: TransformerConfig) -> None:
    fused = {"qkv_projection": 3, "kv_projection": 2, "in_projection": 2 if config.activation == "swiglu" else 1}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "output":  # which may be the embedding
            for part in module.weight.chunk(fused.get(name.rpartition(".")[2], 1)):
                nn.init.xavier_uniform_(part)


def _shrink_residual_projections(model: nn.Module, n_layers: int) -> None:
    """Of each stack of blocks by its own number of branches: two a block, three where it attends to a source too."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith("out_projection.weight"):
            block = name.rpartition(".blocks.")[0] + ".blocks.0."
            n_branches = 3 if f"{block.lstrip('.')}cross_attention.out_projection.weight" in parameters else 2
            nn.init.normal_(parameter, std=EMBEDDING_STD / (n_branches * n_layers) ** 0.5)
