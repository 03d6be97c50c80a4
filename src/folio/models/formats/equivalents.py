"""Models of another kind that compute the same, in the form that a format has.

Each of them is exact up to rounding. `folio.models.formats.choice` applies the ones that a format needs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from folio.models.transformer_config import MUP_BASE_D_MODEL, TransformerConfig

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
"""The parameters of a model by name, each a tensor of its own."""

EMBEDDING = "token_embedding.weight"
POSITIONS = "positional_encoding.embedding.weight"


@dataclass(frozen=True)
class Equivalent:
    """A model in another form.

    Example:

        >>> config = TransformerConfig(vocab_size=5, context_length=8, n_layers=1, n_heads=1, d_model=2, bias=False)
        >>> CENTERED.applies(config), CENTERED.config(config).norm
        (True, 'rms_norm')
    """

    description: str
    applies: Callable[[TransformerConfig], bool]
    config: Callable[[TransformerConfig], TransformerConfig]
    """The config of the other form."""
    weights: Callable[[TransformerConfig, State], State]
    """The weights of the other form, from the config and the weights of the first, which may be changed in place."""


# Maximal update parametrization as the standard one


def _standard(config: TransformerConfig) -> TransformerConfig:
    scale = False if config.embedding_scale is None else config.embedding_scale
    standard = {"parametrization": "standard", "mup_base_d_model": MUP_BASE_D_MODEL}
    return replace(config, scale_embedding=scale, **standard)  # type: ignore[arg-type]


def _fold(config: TransformerConfig, state: State) -> State:
    """Multiply the last norm by config.output_scale, and the queries by what their scale is more than 1 / sqrt(K)."""
    changed: State = {}
    if config.output_scale is not None:
        for name in ("final_norm.weight", "final_norm.bias"):
            if name in state:
                changed[name] = state[name] * config.output_scale
    if config.attention_scale is not None:
        factor = config.attention_scale * config.head_width**0.5
        for name, rows in _queries(config, state):
            changed[name] = state[name].clone()
            changed[name][:rows] *= factor
    return state | changed


def _queries(config: TransformerConfig, state: State) -> Iterator[tuple[str, int]]:
    """Yield the parameters that decide how large queries are, and how many of their rows do."""
    for layer in range(config.n_layers):
        if config.qk_norm:
            yield f"blocks.{layer}.attention.q_norm.weight", config.head_width
            continue
        for kind in ("weight", "bias"):
            name = f"blocks.{layer}.attention.qkv_projection.{kind}"
            if name in state:
                yield name, config.n_heads * config.head_width


FOLDED = Equivalent(
    "the factors of parametrization=mup as part of the last norm and of the queries",
    lambda config: config.parametrization == "mup" and config.has_final_norm,
    _standard,
    _fold,
)
"""Both factors multiply a linear function of a weight, so the weight can have them. For decoders and encoders."""


# A LayerNorm without a bias as an RMSNorm


def _has_plain_layer_norm(config: TransformerConfig) -> bool:
    first = config.norm == "layer_norm" and not config.bias
    return first and config.norm_position == "pre" and config.has_final_norm


def _center(config: TransformerConfig, state: State) -> State:
    """Subtract the mean over D from everything that is written into the residual stream."""
    for name in (EMBEDDING, POSITIONS):
        if name in state:
            state[name] = state[name] - state[name].mean(dim=1, keepdim=True)  # (V, D)
    for name in _written(config, state):
        state[name] = state[name] - state[name].mean(dim=0, keepdim=True)  # (D, F) or (D,)
    return state


def _written(config: TransformerConfig, state: State) -> Iterator[str]:
    for layer in range(config.n_layers):
        for part in ("attention", "feed_forward"):
            for kind in ("weight", "bias"):
                name = f"blocks.{layer}.{part}.out_projection.{kind}"
                if name in state:
                    yield name


CENTERED = Equivalent(
    "LayerNorm without bias as RMSNorm: everything written into the residual stream is centered",
    _has_plain_layer_norm,
    lambda config: replace(config, norm="rms_norm", tie_weights=False),
    _center,
)
"""LayerNorm subtracts the mean over D, and RMSNorm does not. But every block reads the residual stream through a norm,
and the mean of a sum is the sum of the means. So if the embeddings and the output of every sublayer lose their mean
beforehand, the stream always has mean 0, and the two norms are one. The output layer reads the norm, not the stream: it
keeps the embedding as it was, and so is no longer tied to it. (Noted for instance by Ashkboos et al. 2024, SliceGPT,
section 3.2.)"""


# A factor on the embedding


def _scale(config: TransformerConfig, state: State) -> State:
    assert config.embedding_scale is not None
    return state | {EMBEDDING: state[EMBEDDING] * config.embedding_scale}


SCALED = Equivalent(
    "the factor sqrt(d_model) as part of the embedding",
    lambda config: config.embedding_scale is not None,
    lambda config: replace(config, scale_embedding=False, tie_weights=False),
    _scale,
)


# Other absolute positions as learned ones


def _tabulate(config: TransformerConfig, state: State) -> State:
    import torch

    from folio.models.positional import sinusoids

    if config.positional_encoding == "none":
        table = torch.zeros(config.context_length, config.d_model)
    else:
        table = sinusoids(torch.arange(config.context_length), config.d_model, config.positional_base)
    return state | {POSITIONS: table}


TABULATED = Equivalent(
    "sinusoidal or no positions as a table of learned ones",
    lambda config: config.positional_encoding in ("sinusoidal", "none"),
    lambda config: replace(config, positional_encoding="learned"),
    _tabulate,
)


def _widen(config: TransformerConfig, state: State) -> State:
    from torch.nn.functional import pad

    tokens, positions = state[EMBEDDING], state[POSITIONS]
    widened = {EMBEDDING: pad(tokens, (0, config.position_width)), POSITIONS: pad(positions, (config.token_width, 0))}
    return state | widened


WIDENED = Equivalent(
    "concatenated positions as added ones: each vector has zeros where the other stands",
    lambda config: config.positional_encoding == "concatenated",
    lambda config: replace(config, positional_encoding="learned", positional_width=None, tie_weights=False),
    _widen,
)
