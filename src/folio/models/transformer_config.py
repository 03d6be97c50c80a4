"""The size, shape and architecture of a transformer, and the rules that they obey. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Family = Literal["decoder", "encoder", "encoder_decoder"]
Conditioning = Literal["hidden_cache", "cross_attention"]
NormPosition = Literal["pre", "post"]
Norm = Literal["layer_norm", "rms_norm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "swiglu"]
Init = Literal["gpt2", "xavier"]

MAX_SIZE = 2**24
"""Far above any real model. A larger number is a mistake, or a file made to exhaust the memory."""
MAX_LAYERS = 10_000


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options that a run's config has in its `model` section as well. Each is declared only here.

    A config or checkpoint that is older than an option lacks it and gets the default, so the default of a new option
    must leave the model as it was.
    """

    family: Family = "decoder"
    """decoder: causal; encoder: bidirectional; encoder_decoder: the encoder reads, the decoder continues."""
    context_length: int
    """Longest sequence in training (T). Learned positions end there."""
    n_layers: int
    """Number of blocks; in an encoder-decoder, of each of the two."""
    n_heads: int
    """Number of attention heads, which divide d_model."""
    d_model: int
    """Width of the residual stream."""
    d_ff: int | None = None
    """Width of the feed-forward layer; 4 d_model when None, as in GPT-2."""
    dropout: float = 0.0
    """Dropout probability for the embedding, the attention weights and each residual branch."""
    attention_dropout: float | None = None
    """Dropout probability for the attention weights; `dropout` when None. Only at 0 is CPU attention fused."""
    bias: bool = True
    """Give linear layers and layer norms a bias."""
    tie_weights: bool = True
    """Use the token embedding as the weight of the output layer (Press and Wolf 2017)."""
    norm_position: NormPosition = "pre"
    """pre: x + dropout(sublayer(norm(x))), as in GPT-2; post: norm(x + sublayer(dropout(x)))."""
    norm: Norm = "layer_norm"
    """Kind of the norms: layer_norm, or rms_norm, which does not subtract the mean (Zhang and Sennrich 2019)."""
    activation: Activation = "gelu_tanh"
    """Activation of the feed-forward layer."""
    qk_norm: bool = False
    """Normalize queries and keys before their product (Henry et al. 2020)."""
    init: Init = "gpt2"
    """Distribution of the initial weights; see `folio.models.initialization`."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelOptions):
    """Everything that decides which parameters a model has and what it computes. The defaults are GPT-2's choices.

    Raises: ValueError naming the field, its value, the rule and a value that obeys it.
    """

    vocab_size: int
    """Number of rows of the token embedding; token ids are below it."""
    positional_encoding: str = "learned"
    """A key of `folio.models.positional.POSITIONAL_ENCODINGS`."""
    positional_base: float = 10_000.0
    """Base of the wavelengths of sinusoidal and rotary encodings; a larger base suits longer contexts."""
    conditioning: Conditioning | None = None
    """The way in which the decoder of an encoder-decoder reads the encoder; see `folio.models.encoder_decoder`."""

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_choices()
        self._check_positions()
        self._check_conditioning()

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model", "d_ff"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
            largest = MAX_LAYERS if name == "n_layers" else MAX_SIZE
            if value is not None and value > largest:
                raise ValueError(f"{name}={value} must be {largest} or less")
        if self.d_model % self.n_heads:
            nearest = self.n_heads * max(1, round(self.d_model / self.n_heads))
            raise ValueError(
                f"d_model={self.d_model} must be divisible by n_heads={self.n_heads}; "
                f"the nearest that works is d_model={nearest}"
            )
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"{name}={value} must be at least 0 and below 1")

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}={getattr(self, name)} is not one of {', '.join(get_args(choices))}")

    def _check_positions(self) -> None:
        if not self.positional_base > 1.0:  # written so that it refuses NaN too
            raise ValueError(f"positional_base={self.positional_base} must be above 1; 10000 is usual")
        if self.positional_encoding == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} must be even with positional_encoding=sinusoidal, "
                f"which pairs a sine with a cosine; try d_model={self.d_model + self.n_heads}"
            )
        if self.positional_encoding == "rotary" and self.d_head % 2:
            raise ValueError(
                f"d_model={self.d_model} gives heads of {self.d_head} dimensions, and positional_encoding=rotary "
                f"rotates dimensions in pairs, so their number must be even; try d_model={self.d_model + self.n_heads}"
            )

    def _check_conditioning(self) -> None:
        choices = " or ".join(get_args(Conditioning))
        if self.family != "encoder_decoder" and self.conditioning is not None:
            raise ValueError(
                f"conditioning={self.conditioning} has no effect with family={self.family}; "
                "only an encoder-decoder has it: leave it out"
            )
        if self.family == "encoder_decoder" and self.conditioning not in get_args(Conditioning):
            raise ValueError(
                f"conditioning={self.conditioning} is not a way for a decoder to read its encoder; give {choices}"
            )

    @property
    def d_head(self) -> int:
        """Width of one attention head (K)."""
        return self.d_model // self.n_heads

    @property
    def feed_forward_width(self) -> int:
        """Width of the feed-forward layer (F)."""
        return self.d_ff if self.d_ff is not None else 4 * self.d_model

    @property
    def attention_dropout_rate(self) -> float:
        """Dropout probability for the attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def max_positions(self) -> int | None:
        """Number of positions that the model can tell apart; None if its positional encoding has no end."""
        return self.context_length if self.positional_encoding == "learned" else None


_CHOICES: dict[str, Any] = {
    "family": Family,
    "norm_position": NormPosition,
    "norm": Norm,
    "activation": Activation,
    "init": Init,
}
