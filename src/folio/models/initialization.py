"""The initial weights of a model."""

from torch import nn

from folio.models.blocks import FusedLinear
from folio.models.positional import LearnedPositions
from folio.models.transformer_config import TransformerConfig

EMBEDDING_STD = 0.02
"""Standard deviation of GPT-2's initial weights (Radford et al. 2018, section 4.1)."""


def initialize(model: nn.Module, config: TransformerConfig) -> None:
    """Draw all weights as config.init says; biases are 0 and norms 1.

    Afterwards config.positional_init may set positions to 0, and config.zero_init_residual the residual projections.

    gpt2: N(0, 0.02), but residual projections are smaller by the square root of their number. Each of them adds to the
    residual stream, whose variance would otherwise grow with their number (Radford et al. 2019, section 2.3).
    xavier: linear layers are uniform with variance 2 / (inputs + outputs) (Glorot and Bengio 2010, equation 16), each
    part of a fused projection by itself; embeddings are as in gpt2.

    With config.parametrization=mup, the variance of the blocks' matrices falls with 1 / width (Yang et al. 2022, table
    8): gpt2's by a factor, xavier's already does.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, LearnedPositions) and config.positional_init == "zeros":
            nn.init.zeros_(module.embedding.weight)
    if config.init == "xavier":
        _draw_xavier(model)
    else:
        _shrink_residual_projections(model, config.n_layers)
        if config.width_multiplier != 1.0:
            _scale_hidden_matrices(model, config.width_multiplier**-0.5)
    if config.zero_init_residual:
        for name, parameter in model.named_parameters():
            if name.endswith("out_projection.weight"):
                nn.init.zeros_(parameter)


def parameters_of_blocks(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all blocks. Of their matrices, both the inputs and the outputs grow with the width."""
    return [parameter for name, parameter in model.named_parameters() if "blocks." in name]


def _draw_xavier(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "output":  # whose weight may be the embedding's
            sizes = module.sizes if isinstance(module, FusedLinear) else (module.out_features,)
            for part in module.weight.split(sizes):
                nn.init.xavier_uniform_(part)


def _scale_hidden_matrices(model: nn.Module, factor: float) -> None:
    for parameter in parameters_of_blocks(model):
        if parameter.ndim == 2:
            parameter.data *= factor


def _shrink_residual_projections(model: nn.Module, n_layers: int) -> None:
    """Scale each stack by its own number of residual branches: two per block, three with cross-attention."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith("out_projection.weight"):
            block = name.rpartition(".blocks.")[0] + ".blocks.0."
            n_branches = 3 if f"{block.lstrip('.')}cross_attention.out_projection.weight" in parameters else 2
            nn.init.normal_(parameter, std=EMBEDDING_STD / (n_branches * n_layers) ** 0.5)
