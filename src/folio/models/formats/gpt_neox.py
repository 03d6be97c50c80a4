"""GPT-NeoX (Black et al. 2022), without its parallel residual: GPT-2 with rotary positions.

Source: `transformers`, models/gpt_neox/configuration_gpt_neox.py and modeling_gpt_neox.py.
"""

import re
from collections.abc import Iterator

from folio.models.formats.equivalents import FOLDED, SCALED
from folio.models.formats.fields import Fixed, Flag, Number, OneOf, Size, UsualHeads
from folio.models.formats.format import Format, Weight
from folio.models.formats.gpt2 import ACTIVATIONS as GPT2_ACTIVATIONS
from folio.models.formats.rope import PartialRope
from folio.models.transformer_config import TransformerConfig

ACTIVATIONS = GPT2_ACTIVATIONS | {"gelu_fast": "gelu_tanh"}
"""hidden_act in config.json -> Folio's name."""

OUTPUT = "embed_out.weight"
"""Name of the output layer in files; transformers 5 calls it lm_head, and reads both."""


def gpt_neox_weights(config: TransformerConfig) -> Iterator[Weight]:
    """Yield every tensor of such a model."""
    d_model, d_ff = config.d_model, config.feed_forward_width
    yield Weight("embed_in.weight", "token_embedding.weight", (config.vocab_size, d_model))
    for layer in range(config.n_layers):
        theirs, ours = f"layers.{layer}", f"blocks.{layer}"
        yield from _norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm", d_model)
        qkv, rows = f"{ours}.attention.qkv_projection", interleaved_rows(config)
        yield from _linear(f"{theirs}.attention.query_key_value", qkv, (3 * d_model, d_model), rows)
        yield from _linear(f"{theirs}.attention.dense", f"{ours}.attention.out_projection", (d_model, d_model))
        yield from _norm(f"{theirs}.post_attention_layernorm", f"{ours}.feed_forward_norm", d_model)
        yield from _linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.feed_forward.in_projection", (d_ff, d_model))
        yield from _linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.feed_forward.out_projection", (d_model, d_ff))
    yield from _norm("final_layer_norm", "final_norm", d_model)
    if not config.ties_weights:
        yield Weight(OUTPUT, "output.weight", (config.vocab_size, d_model))


def interleaved_rows(config: TransformerConfig) -> list[int]:
    """Return Folio's rows of the fused projection in this format's order: q, k and v of each head, head by head.

    Example:

        >>> interleaved_rows(TransformerConfig(vocab_size=5, context_length=8, n_layers=1, n_heads=2, d_model=2))
        [0, 2, 4, 1, 3, 5]
    """
    heads, width = config.n_heads, config.head_width
    return [(part * heads + head) * width + row for head in range(heads) for part in range(3) for row in range(width)]


def _norm(name: str, parameter: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", (width,))
    yield Weight(f"{name}.bias", f"{parameter}.bias", (width,))


def _linear(
    name: str, parameter: str, shape: tuple[int, int], rows: slice | list[int] = slice(None)
) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", shape, rows)
    yield Weight(f"{name}.bias", f"{parameter}.bias", shape[:1], rows)


GPT_NEOX = Format(
    name="GPT-NeoX",
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    fields=(
        Size("vocab_size", "vocab_size", 50_432),
        Size("context_length", "max_position_embeddings", 2048),
        Size("n_layers", "num_hidden_layers", 44),
        Size("n_heads", "num_attention_heads", 64),
        Size("d_model", "hidden_size", 6144),
        Size("d_ff", "intermediate_size", 24_576),
        OneOf("activation", "hidden_act", "gelu", ACTIVATIONS),
        Flag("tie_weights", "tie_word_embeddings", False),
        Fixed("use_parallel_residual", False, may_be_missing=False),
        Fixed("attention_bias", True),
        Number("norm_eps", "layer_norm_eps", 1e-5),
        UsualHeads(),
        PartialRope(),
    ),
    required={"bias": True, "positional_encoding": "rotary"},
    absorbed=frozenset({"bias", "attention_bias"}),
    weights=gpt_neox_weights,
    prefix="gpt_neox.",
    ignored=re.compile(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"),  # masks, angles
    embedding="embed_in.weight",
    equivalents=(FOLDED, SCALED),
    output=OUTPUT,
    dropout_keys={"hidden_dropout": "dropout", "attention_dropout": "attention_dropout"},
)
