"""GPT-2 (Radford et al. 2019).

Source: `transformers`, models/gpt2/configuration_gpt2.py and modeling_gpt2.py.
"""

import re
from collections.abc import Iterator

from folio.models.formats.equivalents import FOLDED, SCALED, TABULATED, WIDENED
from folio.models.formats.fields import Fixed, Flag, Number, OneOf, Size, UsualHeads
from folio.models.formats.format import LM_HEAD, Format, Weight
from folio.models.transformer_config import TransformerConfig

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
}
"""activation_function in config.json -> Folio's name."""


def gpt2_weights(config: TransformerConfig) -> Iterator[Weight]:
    """Yield every tensor of a GPT-2 of this size."""
    d_model, d_ff = config.d_model, config.feed_forward_width
    yield Weight("wte.weight", "token_embedding.weight", (config.vocab_size, d_model))
    yield Weight("wpe.weight", "positional_encoding.embedding.weight", (config.context_length, d_model))
    for layer in range(config.n_layers):
        theirs, ours = f"h.{layer}", f"blocks.{layer}"
        yield from _norm(f"{theirs}.ln_1", f"{ours}.attention_norm", d_model)
        yield from _linear(f"{theirs}.attn.c_attn", f"{ours}.attention.qkv_projection", d_model, 3 * d_model)
        yield from _linear(f"{theirs}.attn.c_proj", f"{ours}.attention.out_projection", d_model, d_model)
        yield from _norm(f"{theirs}.ln_2", f"{ours}.feed_forward_norm", d_model)
        yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}.feed_forward.in_projection", d_model, d_ff)
        yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}.feed_forward.out_projection", d_ff, d_model)
    yield from _norm("ln_f", "final_norm", d_model)
    if not config.ties_weights:
        yield Weight(LM_HEAD, "output.weight", (config.vocab_size, d_model))


def _norm(name: str, parameter: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", (width,))
    yield Weight(f"{name}.bias", f"{parameter}.bias", (width,))


def _linear(name: str, parameter: str, n_inputs: int, n_outputs: int) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", (n_inputs, n_outputs), transposed=True)
    yield Weight(f"{name}.bias", f"{parameter}.bias", (n_outputs,))


GPT2 = Format(
    name="GPT-2",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    fields=(
        Size("vocab_size", "vocab_size", 50_257),
        Size("context_length", "n_positions", 1024),
        Size("n_layers", "n_layer", 12),
        Size("n_heads", "n_head", 12),
        Size("d_model", "n_embd", 768),
        Size("d_ff", "n_inner", nullable=True),
        OneOf("activation", "activation_function", "gelu_new", ACTIVATIONS),
        Flag("tie_weights", "tie_word_embeddings", True),
        Number("norm_eps", "layer_norm_epsilon", 1e-5),
        UsualHeads(),
        Fixed("scale_attn_weights", True),
        Fixed("scale_attn_by_inverse_layer_idx", False),
        Fixed("add_cross_attention", False),
    ),
    required={"bias": True},
    absorbed=frozenset({"bias", "attention_bias"}),
    weights=gpt2_weights,
    prefix="transformer.",
    ignored=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),  # causal masks
    embedding="wte.weight",
    equivalents=(FOLDED, SCALED, TABULATED, WIDENED),
    dropout_keys={"embd_pdrop": "dropout", "resid_pdrop": "dropout", "attn_pdrop": "attention_dropout"},
)
