"""The size, shape and architecture of a transformer, and the rules that they obey. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from folio.models.attention_window import windows_of_layers
from folio.models.rotary_scaling import RotaryScaling

Family = Literal["decoder", "encoder", "encoder_decoder"]
Conditioning = Literal["hidden_cache", "cross_attention"]
NormPosition = Literal["pre", "post"]
Norm = Literal["layer_norm", "rms_norm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "swiglu"]
Init = Literal["gpt2", "xavier"]
Parametrization = Literal["standard", "mup"]
PostNormDropout = Literal["input", "output"]
PositionInit = Literal["normal", "zeros"]

BOUNDED_POSITIONS = ("learned", "concatenated")
"""The positional encodings with one trained vector per position: they end at context_length."""

MUP_BASE_D_MODEL = 128
"""The width of model=nano, at which the recipes were tuned."""

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
    """Number of attention heads; without d_head they divide d_model."""
    d_model: int
    """Width of the residual stream."""
    d_head: int | None = None
    """Width of one attention head (K); d_model / n_heads when None. Qwen3 has wider heads."""
    n_kv_heads: int | None = None
    """Number of heads of keys and values, which divide n_heads: each serves several heads of queries (Ainslie et al.
    2023, GQA); 1 is multi-query attention (Shazeer 2019). n_heads when None."""
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
    scale_embedding: bool | float | None = None
    """Multiply the token embedding by a number, or if True by sqrt(d_model) (Vaswani et al. 2017, section 3.4; Gemma).
    When None, do so only with sinusoidal positions, whose unit amplitude would drown embeddings that start small."""
    value_embeddings: int = 0
    """Number n of tables of more token embeddings, which the values of attention in the first n and the last n layers
    read; see `folio.models.value_embeddings`."""
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
    norm_eps: float = 1e-5
    """Number added to the variance in every norm. GPT-2 and Llama have 1e-5, Qwen3 1e-6."""
    activation: Activation = "gelu_tanh"
    """Activation of the feed-forward layer."""
    qk_norm: bool = False
    """Normalize queries and keys before their product (Henry et al. 2020), each head by an RMS norm as in Qwen3."""
    attention_window: int | str | None = None
    """Number of positions that a position attends to, its own included (Beltagy et al. 2020, section 3.1), or a pattern
    that is repeated over the layers: SSSL:256 has windows of 256 in three of four layers, and none in the fourth. An S
    without a number is half of context_length. A bidirectional layer has such a window to either side."""
    logit_softcap: float | None = None
    """Keep the logits between -c and c, by c tanh(logits / c) (Bello et al. 2016; Gemma 2, section 2)."""
    init: Init = "gpt2"
    """Distribution of the initial weights; see `folio.models.initialization`."""
    zero_init_residual: bool = False
    """Start the layers that write into the residual stream at 0, so that each block at first passes on what it reads
    (Goyal et al. 2017, section 5.1; Zhang et al. 2019, Fixup)."""
    parametrization: Parametrization = "standard"
    """The way in which initial weights, learning rates and two factors in the model depend on the width. mup: maximal
    update parametrization (Yang et al. 2022), in which one learning rate serves all widths; see docs/models.md."""
    mup_base_d_model: int = MUP_BASE_D_MODEL
    """The d_model at which mup is the standard parametrization: where the learning rate was tuned."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelOptions):
    """Everything that decides which parameters a model has and what it computes. The defaults are GPT-2's choices.

    Raises: ValueError naming the field, its value, the rule and a value that obeys it.

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> config.head_width, config.feed_forward_width
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
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that rotary positions rotate, the first ones; GPT-NeoX has 0.25."""
    rotary_scaling: RotaryScaling | None = None
    """The way in which rotary positions are stretched to a longer context."""
    conditioning: Conditioning | None = None
    """The way in which the decoder of an encoder-decoder reads the encoder; see `folio.models.encoder_decoder`."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """Return the config that `dataclasses.asdict` has made these values of. Raises: TypeError, ValueError."""
        scaling = values.get("rotary_scaling")
        return cls(**{**values, "rotary_scaling": None if scaling is None else RotaryScaling(**scaling)})

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_choices()
        self._check_parametrization()
        self._check_attention()
        self._check_positions()
        self._check_rotary()
        self._check_concatenated()
        self._check_conditioning()

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model", "d_head", "n_kv_heads", "d_ff"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
            largest = MAX_LAYERS if name == "n_layers" else MAX_SIZE
            if value is not None and value > largest:
                raise ValueError(f"{name}={value} must be {largest} or less")
        if self.d_head is None and self.d_model % self.n_heads:
            nearest = self.n_heads * max(1, round(self.d_model / self.n_heads))
            raise ValueError(
                f"d_model={self.d_model} must be divisible by n_heads={self.n_heads}; "
                f"the nearest that works is d_model={nearest}"
            )
        for name in ("dropout", "attention_dropout", "feed_forward_dropout"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"{name}={value} must be at least 0 and below 1")
        if not 0.0 < self.norm_eps < 1.0:
            raise ValueError(f"norm_eps={self.norm_eps} must be above 0 and below 1; 1e-5 and 1e-6 are usual")
        if self.logit_softcap is not None and not 0.0 < self.logit_softcap < math.inf:
            raise ValueError(f"logit_softcap={self.logit_softcap} must be above 0; 15 and 30 are usual")
        if not isinstance(self.scale_embedding, bool | None) and not 0.0 < self.scale_embedding < math.inf:
            raise ValueError(
                f"scale_embedding={self.scale_embedding} must be a factor above 0, or true for sqrt(d_model)"
            )
        self._check_value_embeddings()

    def _check_value_embeddings(self) -> None:
        number = self.value_embeddings
        if not 0 <= 2 * number <= self.n_layers:
            raise ValueError(
                f"value_embeddings={number} must be at least 0 and at most {self.n_layers // 2}, half of "
                f"n_layers={self.n_layers}: the first and the last layers share them"
            )
        if number and self.family == "encoder_decoder":
            raise ValueError(
                f"value_embeddings={number} does not fit family=encoder_decoder, whose decoder also attends to states "
                "that are no tokens; leave it out"
            )

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}={getattr(self, name)} is not one of {', '.join(get_args(choices))}")

    def _check_parametrization(self) -> None:
        if not 1 <= self.mup_base_d_model <= MAX_SIZE:
            raise ValueError(f"mup_base_d_model={self.mup_base_d_model} must be at least 1 and at most {MAX_SIZE}")
        if self.parametrization == "standard" and self.mup_base_d_model != MUP_BASE_D_MODEL:
            raise ValueError(
                f"mup_base_d_model={self.mup_base_d_model} has no effect with parametrization=standard; leave it out, "
                "or add parametrization=mup"
            )

    def _check_attention(self) -> None:
        if self.n_heads % self.key_value_heads:
            divisors = (number for number in range(1, self.n_heads + 1) if self.n_heads % number == 0)
            nearest = min(divisors, key=lambda divisor: abs(divisor - self.key_value_heads))
            raise ValueError(
                f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}; "
                f"the nearest that works is n_kv_heads={nearest}"
            )
        windows_of_layers(self.attention_window, self.n_layers, self.context_length)
        if self.attention_window is not None and self.conditioning == "hidden_cache":
            raise ValueError(
                f"attention_window={self.attention_window} does not fit conditioning=hidden_cache, where each position "
                "attends to the whole prefix; leave it out, or choose conditioning=cross_attention"
            )

    def _check_positions(self) -> None:
        if not self.positional_base > 1.0:  # written so that it refuses NaN too
            raise ValueError(f"positional_base={self.positional_base} must be above 1; 10000 is usual")
        if self.positional_encoding == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} must be even with positional_encoding=sinusoidal, "
                f"which pairs a sine with a cosine; try d_model={self.d_model + self.n_heads}"
            )

    def _check_rotary(self) -> None:
        if self.positional_encoding != "rotary":
            for name, default in (("rotary_fraction", 1.0), ("rotary_scaling", None)):
                value = getattr(self, name)
                if value != default:
                    shown = value.name if isinstance(value, RotaryScaling) else value
                    raise ValueError(
                        f"{name}={shown} has no effect with positional_encoding={self.positional_encoding}; "
                        f"only rotary positions have it: leave it out, or set it to {default}"
                    )
            return
        pairs = "positional_encoding=rotary rotates dimensions in pairs, so their number must be even"
        if self.head_width % 2 and self.d_head is not None:
            raise ValueError(f"d_head={self.d_head}: {pairs}; try d_head={self.d_head + 1}")
        if self.head_width % 2:
            raise ValueError(
                f"d_model={self.d_model} gives heads of {self.head_width} dimensions, and {pairs}; "
                f"try d_model={self.d_model + self.n_heads}"
            )
        if not 0.0 < self.rotary_fraction <= 1.0:
            raise ValueError(f"rotary_fraction={self.rotary_fraction} must be above 0 and at most 1; 1 rotates all")
        rotated = self.rotary_fraction * self.head_width
        if not math.isclose(rotated, self.rotary_width) or self.rotary_width < 2:
            nearest = max(2, self.rotary_width) / self.head_width
            raise ValueError(
                f"rotary_fraction={self.rotary_fraction} would rotate {rotated:g} of the {self.head_width} dimensions "
                f"of a head, and {pairs}; try rotary_fraction={nearest:g}"
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
    def width_multiplier(self) -> float:
        """How many times as wide as the base width the model is, as far as its parametrization asks: 1 for standard."""
        return self.d_model / self.mup_base_d_model if self.parametrization == "mup" else 1.0

    @property
    def output_scale(self) -> float | None:
        """Factor on what the output layer reads; None for 1 (Yang et al. 2022, table 8)."""
        return None if self.width_multiplier == 1.0 else 1.0 / self.width_multiplier

    @property
    def attention_scale(self) -> float | None:
        """Factor on the scores of attention; None for 1 / sqrt(K).

        With mup it falls with 1 / K from the base width on (Yang et al. 2022, definition 4.1), where heads are wider
        in a wider model. With d_head, a wider model has more heads instead, and the factor stays.
        """
        if self.width_multiplier == 1.0 or self.d_head is not None:
            return None
        return (self.width_multiplier * self.head_width) ** -0.5  # sqrt(base K) / K, with base K = K / multiplier

    @property
    def head_width(self) -> int:
        """Width of one attention head (K)."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def key_value_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """Number of positions that a position attends to in each layer, its own included; None for all."""
        return windows_of_layers(self.attention_window, self.n_layers, self.context_length)

    @property
    def rotary_width(self) -> int:
        """Number of dimensions of each head that rotary positions rotate."""
        return 2 * round(self.rotary_fraction * self.head_width / 2)

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
        """Factor on the token embedding; None if there is none. With mup that of the base width, whatever the width."""
        scales = self.positional_encoding == "sinusoidal" if self.scale_embedding is None else self.scale_embedding
        if not isinstance(scales, bool):
            return float(scales)
        return (self.d_model / self.width_multiplier) ** 0.5 if scales else None

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
    "parametrization": Parametrization,
}
