"""The size, shape and architecture of a transformer, and the rules that they obey. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Family = Literal["decoder", "encoder", "encoder_decoder"]
Conditioning = Literal["hidden_cache", "cross_attention"]
NormPosition = Literal["pre", "post"]
Norm = Literal["layer_norm", "rms_norm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "swiglu"]
Init = Literal["gpt2", "xavier"]
PostNormDropout = Literal["input", "output"]
PositionInit = Literal["normal", "zeros"]

BOUNDED_POSITIONS = ("learned", "concatenated")
"""The positional encodings with one trained vector per position: they end at context_length."""

MAX_SIZE = 2**24
"""Far above any real model. A larger number is a mistake, or a file made to exhaust the memory."""
MAX_LAYERS = 10_000


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options that a run's config has in its `model` section as well. Each is declared only here.

    A config or checkpoint that is older than an option lacks it and gets the default, so the default of a new option
    must leave the model as it was.

        >>> ModelOptions(context_length=8, n_layers=1, n_heads=2, d_model=4).norm
        'layer_norm'
    """

    family: Family = "decoder"
    """decoder: causal; encoder: bidirectional; encoder_decoder: the encoder reads, the decoder continues."""
    context_length: int
    """Longest sequence in training (T). Learned and concatenated positions end there."""
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
    feed_forward_dropout: float = 0.0
    """Dropout probability inside the feed-forward layer, after its activation. GPT-2 has none there."""
    bias: bool = True
    """Give linear layers and layer norms a bias."""
    attention_bias: bool | None = None
    """Give the projections of attention a bias; `bias` when None."""
    output_bias: bool = False
    """Give the output layer a bias."""
    tie_weights: bool | None = None
    """Use the token embedding as the weight of the output layer (Press and Wolf 2017). When None, do so unless their
    widths differ, as with concatenated positions."""
    scale_embedding: bool | None = None
    """Multiply the token embedding by sqrt(d_model) (Vaswani et al. 2017, section 3.4). When None, do so only with
    sinusoidal positions, whose unit amplitude would drown embeddings that start small."""
    norm_position: NormPosition = "pre"
    """pre: x + dropout(sublayer(norm(x))), as in GPT-2; post: the norm follows the sum, see post_norm_dropout."""
    post_norm_dropout: PostNormDropout = "input"
    """With norm_position=post, input: norm(x + sublayer(dropout(x))); output: norm(x + dropout(sublayer(x))), as in
    Vaswani et al. 2017, section 5.4."""
    final_norm: bool | None = None
    """Normalize after the last block. When None, only with norm_position=pre, where nothing else scales the sum of
    what the blocks have added."""
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

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> config.d_head, config.feed_forward_width
        (2, 16)
    """

    vocab_size: int
    """Number of rows of the token embedding; token ids are below it."""
    positional_encoding: str = "learned"
    """A key of `folio.models.positional.POSITIONAL_ENCODINGS`."""
    positional_base: float = 10_000.0
    """Base of the wavelengths of sinusoidal and rotary encodings; a larger base suits longer contexts."""
    positional_init: PositionInit = "normal"
    """Initial vectors of learned and concatenated positions. normal: as those of the tokens; zeros: at first, all
    positions look the same."""
    positional_width: int | None = None
    """Width of the position vectors in concatenated positions; the tokens have the rest of d_model. Half when None."""
    conditioning: Conditioning | None = None
    """The way in which the decoder of an encoder-decoder reads the encoder; see `folio.models.encoder_decoder`."""

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_choices()
        self._check_positions()
        self._check_concatenated()
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
        for name in ("dropout", "attention_dropout", "feed_forward_dropout"):
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

    def _check_concatenated(self) -> None:
        if self.positional_encoding != "concatenated":
            if self.positional_width is not None:
                raise ValueError(
                    f"positional_width={self.positional_width} has no effect with "
                    f"positional_encoding={self.positional_encoding}; only concatenated positions have it: leave it out"
                )
            return
        if self.d_model < 2:
            raise ValueError(
                f"d_model={self.d_model} must be 2 or more with positional_encoding=concatenated, "
                "which divides it between token and position"
            )
        if self.positional_width is not None and not 0 < self.positional_width < self.d_model:
            raise ValueError(
                f"positional_width={self.positional_width} must be at least 1 and below d_model={self.d_model}, "
                f"of which the tokens have the rest; try positional_width={self.d_model // 2}"
            )
        if self.tie_weights:
            raise ValueError(
                "tie_weights=True does not fit positional_encoding=concatenated, whose token embedding is narrower "
                "than the output layer; leave it out, or set it to false"
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
    def attention_has_bias(self) -> bool:
        """Whether the projections of attention have a bias."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def has_final_norm(self) -> bool:
        """Whether a norm follows the last block."""
        return self.norm_position == "pre" if self.final_norm is None else self.final_norm

    @property
    def position_width(self) -> int:
        """Width of the position vectors that are joined to those of the tokens; 0 if none are."""
        if self.positional_encoding != "concatenated":
            return 0
        return self.d_model // 2 if self.positional_width is None else self.positional_width

    @property
    def token_width(self) -> int:
        """Width of the token embedding."""
        return self.d_model - self.position_width

    @property
    def ties_weights(self) -> bool:
        """Whether the token embedding is also the weight of the output layer."""
        return self.token_width == self.d_model if self.tie_weights is None else self.tie_weights

    @property
    def embedding_scale(self) -> float | None:
        """Factor on the token embedding; None if there is none."""
        scales = self.positional_encoding == "sinusoidal" if self.scale_embedding is None else self.scale_embedding
        return self.d_model**0.5 if scales else None

    @property
    def max_positions(self) -> int | None:
        """Number of positions that the model can tell apart; None if its positional encoding has no end."""
        return self.context_length if self.positional_encoding in BOUNDED_POSITIONS else None


_CHOICES: dict[str, Any] = {
    "family": Family,
    "norm_position": NormPosition,
    "post_norm_dropout": PostNormDropout,
    "positional_init": PositionInit,
    "norm": Norm,
    "activation": Activation,
    "init": Init,
}
