"""Llama and its relatives Mistral and Qwen3, which differ in a few keys and two norms.

Sources: `transformers`, configuration_*.py and modeling_*.py in models/llama, models/mistral and models/qwen3.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from folio.models.formats.equivalents import CENTERED, SCALED
from folio.models.formats.fields import Field, Fixed, Flag, FormatError, OneOf, Size
from folio.models.formats.format import LM_HEAD, Format, Weight
from folio.models.formats.rope import Rope
from folio.models.transformer_config import TransformerConfig
from folio.runtime.untrusted import shown

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
    for part, n_heads in (("q", config.n_heads), ("k", config.n_heads), ("v", config.n_heads)):
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


class Heads(Field):
    """The keys of the attention heads, of which `TransformerConfig` has only the usual ones."""

    def __init__(self, n_kv_heads: int | None, d_head: int | None) -> None:
        self.n_kv_heads, self.d_head = n_kv_heads, d_head

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        n_heads = values.get("num_attention_heads", 32)
        for key, default, usual in (
            ("num_key_value_heads", self.n_kv_heads, n_heads),
            ("head_dim", self.d_head, values.get("hidden_size", 4096) // n_heads),
        ):
            value = values.get(key, default)
            if value not in (None, usual):
                raise FormatError(f"{key}={shown(repr(value))} is not {usual}, all that Folio supports")
        return {}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {"num_key_value_heads": config.n_heads, "head_dim": config.head_width}


def _fields(vocab_size: int, d_ff: int, context_length: int, heads: Heads) -> tuple[Field, ...]:
    """Return the keys that all have, with these defaults."""
    return (
        heads,
        Size("vocab_size", "vocab_size", vocab_size),
        Size("context_length", "max_position_embeddings", context_length),
        Size("n_layers", "num_hidden_layers", 32),
        Size("n_heads", "num_attention_heads", 32),
        Size("d_model", "hidden_size", 4096),
        Size("d_ff", "intermediate_size", d_ff),
        OneOf("activation", "hidden_act", "silu", ACTIVATIONS),
        Flag("tie_weights", "tie_word_embeddings", False),
        Fixed("rms_norm_eps", 1e-5, may_be_missing=False),
        Rope(),
    )


def _format(name: str, model_type: str, fields: tuple[Field, ...], *, qk_norm: bool = False) -> Format:
    return Format(
        name=name,
        model_type=model_type,
        architecture=f"{name}ForCausalLM",
        fields=fields,
        required={"bias": False, "norm": "rms_norm", "positional_encoding": "rotary", "qk_norm": qk_norm},
        absorbed=frozenset(),
        weights=llama_weights,
        prefix="model.",
        ignored=re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
        embedding="embed_tokens.weight",
        equivalents=(SCALED, CENTERED),
        dropout_keys={"attention_dropout": "attention_dropout"},
    )


LLAMA = _format(
    "Llama",
    "llama",
    (
        *_fields(32_000, 11_008, 2048, Heads(None, None)),
        Flag("attention_bias", "attention_bias", False),
        Flag("bias", "mlp_bias", False),
    ),
)
QWEN3 = _format(
    "Qwen3",
    "qwen3",
    (*_fields(151_936, 22_016, 32_768, Heads(32, 128)), Flag("attention_bias", "attention_bias", False)),
    qk_norm=True,
)
