"""Which models a page can hold, and what its script is told of each. The check imports no torch."""

from dataclasses import MISSING, fields
from typing import Any, Literal, NoReturn, get_args

from folio.data.tokenizers.rank_files import ENCODINGS
from folio.models import TransformerConfig
from folio.models.formats.equivalents import FOLDED
from folio.models.transformer_config import Activation, Norm, NormPosition
from folio.runtime.errors import FolioError

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

MAX_WEIGHT_BYTES = 512 * 2**20
"""Limit for the weights in a page. A browser holds them a few times over while it opens one."""

ANY = None
"""All values of an option."""

ONLY_TRAINING = (
    *("dropout", "attention_dropout", "feed_forward_dropout", "post_norm_dropout"),
    *("init", "positional_init", "zero_init_residual"),
)
"""Options that a trained model no longer depends on."""

SUPPORTED: dict[str, Any] = {
    # What js/model.js computes: the values of each option, or ANY.
    "family": ("decoder", "encoder"),
    "positional_encoding": ("learned", "sinusoidal", "concatenated", "rotary", "alibi", "none"),
    "norm_position": get_args(NormPosition),
    "norm": get_args(Norm),
    "activation": get_args(Activation),
    **dict.fromkeys(
        (
            *("vocab_size", "context_length", "n_layers", "n_heads", "d_model", "d_ff", "positional_width"),
            *("positional_base", "bias", "attention_bias", "output_bias", "tie_weights", "scale_embedding"),
            *("final_norm", "qk_norm", "conditioning", "d_head", "n_kv_heads", "norm_eps", "attention_window"),
            *("logit_softcap", "rotary_fraction", "rotary_scaling", "value_embeddings"),
            *("parametrization", "mup_base_d_model"),
            *ONLY_TRAINING,
        ),
        ANY,
    ),
}

TOKENIZERS = {"char": "char", "byte": "byte", "word": "word", **dict.fromkeys(("bpe", *ENCODINGS), "ranks")}
"""Tokenizer -> its class in js/tokenizers.js."""


def check_page(config: TransformerConfig, tokenizer: str) -> None:
    """Raises: FolioError if a page cannot compute what such a model computes.

    An option that a page does not know must have its default: a model that has it would otherwise be shown wrongly.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in SUPPORTED:
            choices = SUPPORTED[field.name]
            if choices is not ANY and value not in choices:
                refuse(f"model.{field.name}={value}", f"shows only {', '.join(choices)}")
        elif field.default is MISSING or value != field.default:
            refuse(f"model.{field.name}={value}", "cannot show that")
    if config.parametrization == "mup" and not FOLDED.applies(config):
        refuse("model.parametrization=mup", "shows that only with model.final_norm=true")
    if tokenizer not in TOKENIZERS:
        refuse(f"tokenizer={tokenizer}", f"knows only {', '.join(TOKENIZERS)}")


def check_page_size(n_parameters: int, precision: Precision) -> None:
    """Raises: FolioError if the weights of all models are too large for a page."""
    size = n_parameters * {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    if size > MAX_WEIGHT_BYTES:
        smaller = {"fp32": "--weights fp16 or int8, or ", "fp16": "--weights int8, or ", "int8": ""}[precision]
        raise FolioError(
            f"--format page: {n_parameters:,} parameters in {precision} take {size / 2**20:,.0f} MiB, and a browser "
            f"opens a page of up to {MAX_WEIGHT_BYTES // 2**20}; use {smaller}a smaller model or fewer checkpoints"
        )


def refuse(option: str, ability: str) -> NoReturn:
    """Raises: FolioError."""
    raise FolioError(f"--format page: the run has {option}, and a page {ability}; export another run")


def page_shape(config: TransformerConfig) -> dict[str, Any]:
    """Return what js/model.js needs of a config, with everything that the config leaves open decided."""
    import torch

    from folio.models.positional import alibi_slopes, angles

    def frequencies(width: int, divisors: list[float] | None = None) -> list[float]:
        """Return the angles at position 1, which all others are multiples of."""
        at_one: list[float] = angles(torch.ones(1), width, config.positional_base, divisors)[0].tolist()
        return at_one

    encoding, width, scaling = config.positional_encoding, config.rotary_width, config.rotary_scaling
    divisors = scaling.divisors(width, config.positional_base) if scaling else None
    return {
        "family": config.family,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.key_value_heads,
        "d_model": config.d_model,
        "d_head": config.head_width,
        "d_ff": config.feed_forward_width,
        "token_width": config.token_width,
        "embedding_scale": config.embedding_scale,
        "norm": config.norm,
        "norm_eps": config.norm_eps,
        "norm_position": config.norm_position,
        "final_norm": config.has_final_norm,
        "activation": config.activation,
        "qk_norm": config.qk_norm,
        "value_embeddings": config.value_embeddings,
        "windows": config.layer_windows,
        # As in `DecodingBatch`: with a window in every layer a text has no end.
        "text_window": None
        if None not in config.layer_windows and config.max_positions is None
        else config.context_length,
        "logit_softcap": config.logit_softcap,
        "positional_encoding": encoding,
        "sinusoid_frequencies": frequencies(config.d_model) if encoding == "sinusoidal" else None,
        "rotary_frequencies": frequencies(width, divisors) if encoding == "rotary" else None,
        "rotary_amplitude": scaling.amplitude if scaling else 1.0,
        "alibi_slopes": alibi_slopes(config.n_heads) if encoding == "alibi" else None,
    }
