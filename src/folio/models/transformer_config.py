"""The size, shape and kind of a transformer, and the rules that they obey. Imports no torch: see `folio.models`."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Family = Literal["decoder", "encoder", "encoder_decoder"]
Conditioning = Literal["hidden_cache", "cross_attention"]
NormPosition = Literal["pre", "post"]
Norm = Literal["layer_norm", "rms_norm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "swiglu"]
Init = Literal["gpt2", "xavier"]

LARGEST_SIZE = 2**24
"""Far above any model; a larger number is a mistake, or somebody's file that is to exhaust the memory."""
MOST_LAYERS = 10_000


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Everything that decides which parameters a model has and what it computes. Defaults are GPT-2's choices.

    Raises: ValueError naming the field, its value, the rule and a value that obeys it.
    """

    vocab_size: int
    """Number of rows of the token embedding; ids are below it."""
    context_length: int
    """The most tokens that the model sees at once in training (T), and the most that learned positions allow."""
    n_layers: int
    """Of an encoder-decoder: of each of the two."""
    n_heads: int
    d_model: int
    d_ff: int | None = None
    """Width of the feed-forward layer; 4 d_model when None, as in GPT-2."""
    dropout: float = 0.0
    """Probability of dropping an activation: of the embedding, of attention weights, of each residual branch."""
    attention_dropout: float | None = None
    """That of attention weights; `dropout` when None. With 0, attention on a CPU keeps its fused kernel."""
    bias: bool = True
    """Whether linear layers and layer norms have a bias."""
    tie_weights: bool = True
    """Whether the output layer is the token embedding (Press and Wolf 2017)."""
    positional_encoding: str = "learned"
    """A key of `folio.models.positional.POSITIONAL_ENCODINGS`."""
    positional_base: float = 10_000.0
    """Base of the wavelengths of sinusoidal and rotary encodings; a larger one suits longer contexts."""
    family: Family = "decoder"
    """decoder: causal; encoder: sees both sides; encoder_decoder: the first reads, the second continues."""
    conditioning: Conditioning | None = None
    """How the decoder of an encoder-decoder reads the encoder; see `folio.models.encoder_decoder`."""
    norm_position: NormPosition = "pre"
    """pre: x + dropout(sublayer(norm(x))), as in GPT-2; post: norm(x + sublayer(dropout(x)))."""
    norm: Norm = "layer_norm"
    activation: Activation = "gelu_tanh"
    """Of the feed-forward layer; see `folio.models.blocks`."""
    qk_norm: bool = False
    """Whether queries and keys are normalised before their product (Henry et al. 2020)."""
    init: Init = "gpt2"
    """How the weights begin; see `folio.models.initialization`."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model", "d_ff"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
            largest = MOST_LAYERS if name == "n_layers" else LARGEST_SIZE
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
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)} is not one of {', '.join(get_args(kind))}")
        self._check_positions()
        self._check_conditioning()

    def _check_positions(self) -> None:
        if not self.positional_base > 1.0:  # so written, NaN is refused too
            raise ValueError(f"positional_base={self.positional_base} must be above 1; 10000 is usual")
        if self.positional_encoding == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} must be even with positional_encoding=sinusoidal, "
                f"whose dimensions are pairs of a sine and a cosine; try d_model={self.d_model + self.n_heads}"
            )
        if self.positional_encoding == "rotary" and self.d_head % 2:
            raise ValueError(
                f"d_model={self.d_model} makes heads of {self.d_head} dimensions, and positional_encoding=rotary turns "
                f"them in pairs, so they must be even; try d_model={self.d_model + self.n_heads}"
            )

    def _check_conditioning(self) -> None:
        choices = " or ".join(get_args(Conditioning))
        if self.family != "encoder_decoder" and self.conditioning is not None:
            raise ValueError(
                f"conditioning={self.conditioning} has no effect with family={self.family}; "
                "it is for an encoder-decoder: leave it out"
            )
        if self.family == "encoder_decoder" and self.conditioning not in get_args(Conditioning):
            raise ValueError(f"conditioning={self.conditioning} does not say how to condition; give {choices}")

    @property
    def d_head(self) -> int:
        """Width of one attention head (K)."""
        return self.d_model // self.n_heads

    @property
    def feed_forward_width(self) -> int:
        """Width of the feed-forward layer (F): d_ff, or GPT-2's 4 d_model where it is not given."""
        return self.d_ff if self.d_ff is not None else 4 * self.d_model

    @property
    def attention_dropout_rate(self) -> float:
        """The probability of dropping an attention weight."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout


_CHOICES: dict[str, Any] = {
    "family": Family,
    "norm_position": NormPosition,
    "norm": Norm,
    "activation": Activation,
    "init": Init,
}
