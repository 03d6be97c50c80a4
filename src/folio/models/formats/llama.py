"""Llama and its relatives Mistral and Qwen3, which differ in a few keys and two norms.

Sources: `transformers`, configuration_*.py and modeling_*.py in models/llama, models/mistral and models/qwen3.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from folio.models.formats.equivalents import CENTERED, FOLDED, SCALED
from folio.models.formats.fields import Field, Flag, Number, OneOf, Problem, Size
from folio.models.formats.format import LM_HEAD, Format, Weight
from folio.models.formats.rope import Rope
from folio.models.formats.windows import LayerWindows, Window
from folio.models.transformer_config import TransformerConfig

ACTIVATIONS = {"silu": "swiglu", "relu": "relu_squared"}
"""hidden_act in config.json -> Folio's name. The gate of a ReLU that is equal to what it opens is a squared ReLU:
max(0, x) * x."""


def llama_weights(config: TransformerConfig) -> Iterator[Weight]:
    """Yield every tensor of such a model."""
    d_model, width = config.d_model, config.feed_forward_width
    yield Weight("embed_tokens.weight", "token_embedding.weight", (config.vocab_size, d_model))
    for layer in range(config.n_layers):
        theirs, ours = f"layers.{layer}", f"blocks.{layer}"
        yield Weight(f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.weight", (d_model,))
        yield from _attention(f"{theirs}.self_attn", f"{ours}.attention", config)
        yield Weight(f"{theirs}.post_attention_layernorm.weight", f"{ours}.feed_forward_norm.weight", (d_model,))
        is_gated = config.activation == "swiglu"
        for part, rows in (("gate", slice(0, width)), ("up", slice(width, 2 * width))):
            rows = rows if is_gated else slice(0, width)
            parameter = f"{ours}.feed_forward.in_projection"
            yield from _linear(f"{theirs}.mlp.{part}_proj", parameter, (width, d_model), rows, config.bias)
        parameter = f"{ours}.feed_forward.out_projection"
        yield from _linear(f"{theirs}.mlp.down_proj", parameter, (d_model, width), slice(None), config.bias)
    yield Weight("norm.weight", "final_norm.weight", (d_model,))
    if not config.ties_weights:
        yield Weight(LM_HEAD, "output.weight", (config.vocab_size, d_model))


def _attention(theirs: str, ours: str, config: TransformerConfig) -> Iterator[Weight]:
    d_model, bias = config.d_model, config.attention_has_bias
    end = 0
    for part, n_heads in (("q", config.n_heads), ("k", config.key_value_heads), ("v", config.key_value_heads)):
        start, end = end, end + n_heads * config.head_width
        shape, rows = (end - start, d_model), slice(start, end)
        yield from _linear(f"{theirs}.{part}_proj", f"{ours}.qkv_projection", shape, rows, bias)
    shape = (d_model, config.n_heads * config.head_width)
    yield from _linear(f"{theirs}.o_proj", f"{ours}.out_projection", shape, slice(None), bias)
    if config.qk_norm:
        for part in ("q", "k"):
            yield Weight(f"{theirs}.{part}_norm.weight", f"{ours}.{part}_norm.weight", (config.head_width,))


def _linear(name: str, parameter: str, shape: tuple[int, int], rows: slice, bias: bool) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", shape, rows)
    if bias:
        yield Weight(f"{name}.bias", f"{parameter}.bias", shape[:1], rows)


class DivisibleWidth(Field):
    """No keys: transformers requires of a Llama that its heads divide its width, even if head_dim is given."""

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {}

    def problems(self, config: TransformerConfig) -> Iterator[Problem]:
        if config.d_model % config.n_heads:
            yield Problem("n_heads", config.n_heads, "a divisor of d_model")


def _format(
    name: str, *own_fields: Field, vocab_size: int, d_ff: int, context_length: int, qk_norm: bool = False
) -> Format:
    """Return a format with the keys that all have, of which some have other defaults, and some of its own."""
    return Format(
        name=name,
        model_type=name.lower(),
        architecture=f"{name}ForCausalLM",
        fields=(
            Size("vocab_size", "vocab_size", vocab_size),
            Size("context_length", "max_position_embeddings", context_length),
            Size("n_layers", "num_hidden_layers", 32),
            Size("n_heads", "num_attention_heads", 32),
            Size("d_model", "hidden_size", 4096),
            Size("d_ff", "intermediate_size", d_ff),
            OneOf("activation", "hidden_act", "silu", ACTIVATIONS),
            Flag("tie_weights", "tie_word_embeddings", False),
            Number("norm_eps", "rms_norm_eps", 1e-6),
            Rope(),
            *own_fields,
        ),
        required={"bias": False, "norm": "rms_norm", "positional_encoding": "rotary", "qk_norm": qk_norm},
        absorbed=frozenset(),
        weights=llama_weights,
        prefix="model.",
        ignored=re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
        embedding="embed_tokens.weight",
        equivalents=(FOLDED, SCALED, CENTERED),
        dropout_keys={"attention_dropout": "attention_dropout"},
    )


LLAMA = _format(
    "Llama",
    Size("n_kv_heads", "num_key_value_heads", nullable=True),
    Size("d_head", "head_dim", nullable=True),
    Flag("attention_bias", "attention_bias", False),
    Flag("bias", "mlp_bias", False),
    DivisibleWidth(),
    vocab_size=32_000,
    d_ff=11_008,
    context_length=2048,
)
MISTRAL = _format(
    "Mistral",
    Size("n_kv_heads", "num_key_value_heads", 8, nullable=True),
    Size("d_head", "head_dim", nullable=True),
    Window(),
    vocab_size=32_000,
    d_ff=14_336,
    context_length=131_072,
)
QWEN3 = _format(
    "Qwen3",
    Size("n_kv_heads", "num_key_value_heads", 32, nullable=True),
    Size("d_head", "head_dim", 128),
    Flag("attention_bias", "attention_bias", False),
    LayerWindows(),
    vocab_size=151_936,
    d_ff=22_016,
    context_length=32_768,
    qk_norm=True,
)
