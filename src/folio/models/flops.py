"""Count the floating-point operations that training needs."""

from folio.models.encoder_decoder import EncoderDecoder
from folio.models.families import Model
from folio.models.gpt import Transformer

TABLES = ("token_embedding", "value_embeddings", "positional_encoding")
"""Modules whose weights are looked up and no part of a product, unless the output layer is one of them."""


def model_flops_per_token(*, n_parameters: int, width: int, n_keys: float) -> float:
    """Return the model FLOPs of a training step for each token: 6 N + 12 w n, where N excludes tables.

    Each weight costs 6: a product and a sum in the forward pass and for each of the two gradients. Attention adds
    two products of width w (D, or H K) for each of the n keys that a token attends to, all layers together: L T with
    whole windows. What a causal mask saves is not subtracted.
    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    return 6 * n_parameters + 12 * width * n_keys


def training_flops_per_token(model: Model, n_tokens: float) -> float:
    """Return the model FLOPs of training for each token of sequences with so many tokens.

    The prefix of an encoder-decoder counts among its tokens, and each weight for the tokens that pass it.
    The model may be on the meta device.
    """
    config = model.config
    width = config.n_heads * config.head_width
    if not isinstance(model, EncoderDecoder):
        keys = sum(min(n_tokens, window or n_tokens) for window in config.layer_windows)
        return model_flops_per_token(n_parameters=_in_products(model) + _output(model), width=width, n_keys=keys)
    n_prefix = max(n_tokens - config.context_length, 0.0)
    n_decoded = n_tokens if config.conditioning == "hidden_cache" else n_tokens - n_prefix
    encoder = model_flops_per_token(
        n_parameters=_in_products(model.encoder), width=width, n_keys=config.n_layers * n_prefix
    )
    decoder = model_flops_per_token(
        n_parameters=_in_products(model.decoder), width=width, n_keys=config.n_layers * n_tokens
    )
    output = 6 * _output(model) * (n_tokens - n_prefix)
    return (n_prefix * encoder + n_decoded * decoder + output) / n_tokens


def _in_products(model: Model | Transformer) -> int:
    """Return the number of parameters outside tables and the output layer."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not {*TABLES, "output"}.intersection(name.split("."))
    )


def _output(model: Model) -> int:
    """Return the number of parameters of the output layer, which may be those of the token embedding."""
    return sum(parameter.numel() for parameter in model.output.parameters())
