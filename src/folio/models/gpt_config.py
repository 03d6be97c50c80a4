"""The size and shape of a GPT, and the rules that they obey. Imports no torch: see `folio.models`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Everything that decides which parameters a `GPT` has and what it computes.

    Raises: ValueError naming the field, its value, the rule and a value that obeys it.
    """

    vocab_size: int
    """Number of rows of the token embedding; ids are below it."""
    context_length: int
    """The most tokens that the model sees at once (T)."""
    n_layers: int
    n_heads: int
    d_model: int
    d_ff: int | None = None
    """Width of the feed-forward layer; 4 d_model when None, as in GPT-2."""
    dropout: float = 0.0
    """Probability of dropping an activation: of the embedding, of attention weights, of each residual branch."""
    bias: bool = True
    """Whether linear layers and layer norms have a bias."""
    tie_weights: bool = True
    """Whether the output layer is the token embedding (Press and Wolf 2017)."""
    positional_encoding: str = "learned"
    """A key of `folio.models.positional.POSITIONAL_ENCODINGS`."""
    positional_base: float = 10_000.0
    """Base of the wavelengths of a sinusoidal encoding."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model", "d_ff"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        if self.d_model % self.n_heads:
            nearest = self.n_heads * max(1, round(self.d_model / self.n_heads))
            raise ValueError(
                f"d_model={self.d_model} must be divisible by n_heads={self.n_heads}; "
                f"the nearest that works is d_model={nearest}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if not self.positional_base > 1.0:  # so written, NaN is refused too
            raise ValueError(f"positional_base={self.positional_base} must be above 1; 10000 is usual")
        if self.positional_encoding == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} must be even with positional_encoding=sinusoidal, "
                f"whose dimensions are pairs of a sine and a cosine; try d_model={self.d_model + self.n_heads}"
            )

    @property
    def d_head(self) -> int:
        """Width of one attention head (K)."""
        return self.d_model // self.n_heads

    @property
    def feed_forward_width(self) -> int:
        """Width of the feed-forward layer (F): d_ff, or GPT-2's 4 d_model where it is not given."""
        return self.d_ff if self.d_ff is not None else 4 * self.d_model
