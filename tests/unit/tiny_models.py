"""Models small enough for tests of milliseconds, with weights large enough to matter."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers.base import Tokenizer
from folio.distributed.devices import Device
from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig
from folio.models.attention_maps import AttentionMap, record_attention
from folio.models.blocks import CrossAttention, SelfAttention
from folio.objectives.evaluation import Validation, ValidationPart
from folio.objectives.metrics import Metrics
from folio.serve.models import ServedModel

TINY = TransformerConfig(vocab_size=61, context_length=16, n_layers=3, n_heads=4, d_model=32)

OTHER_CHOICES: dict[str, Any] = {
    "norm_position": "post",
    "norm": "rms_norm",
    "activation": "swiglu",
    "qk_norm": True,
    "bias": False,
    "attention_bias": True,
    "output_bias": True,
    "scale_embedding": True,
    "final_norm": True,
    "init": "xavier",
    "d_head": 12,
    "n_kv_heads": 2,
    "norm_eps": 1e-3,
    "logit_softcap": 5.0,
}
"""Another value than the default for every option that all families have."""

CONDITIONINGS = ("hidden_cache", "cross_attention")

FAMILIES: dict[str, dict[str, Any]] = {
    "decoder": {},
    "encoder": {"family": "encoder"},
    "hidden_cache": {"family": "encoder_decoder", "conditioning": "hidden_cache"},
    "cross_attention": {"family": "encoder_decoder", "conditioning": "cross_attention"},
}
"""The options of every kind of model."""

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)

FAMILY_OF = {GPT: "decoder", Encoder: "encoder", EncoderDecoder: "encoder_decoder"}

AnyModel = TypeVar("AnyModel", GPT, Encoder, EncoderDecoder)
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def lively(module: AnyModule) -> AnyModule:
    """Convert to float64, in which two ways to compute a number agree to many digits, and draw all weights.

    Norms and biases are drawn too. The output of a newly initialized model would hardly depend on its input.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.double().eval().parameters():
            parameter.normal_(std=0.3, generator=generator)
    return module


def build(kind: type[AnyModel], **changes: Any) -> AnyModel:
    """Build a tiny model with such weights: build(GPT, positional_encoding="rotary")."""
    return lively(kind(replace(TINY, family=FAMILY_OF[kind], **changes)))


def served(tokenizer: Tokenizer, name: str = "tiny", **changes: Any) -> ServedModel:
    """Return a tiny decoder as a server offers it, with three rows for no symbol."""
    model = build(GPT, vocab_size=tokenizer.vocab_size + 3, **changes)
    return ServedModel(
        id=name,
        model=model,
        tokenizer=tokenizer,
        path=Path("best.ckpt"),
        step=20,
        n_parameters=model.n_parameters,
        created=1_700_000_000,
        sample_prompt="a",
    )


def random_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(TINY.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def with_another_token(tokens: Tensor, place: int, shift: int = 1) -> Tensor:
    """Return tokens that differ at one position of every row."""
    other = tokens.clone()
    other[:, place] = (tokens[:, place] + shift) % TINY.vocab_size
    return other


def attention_map_of(layer: SelfAttention | CrossAttention, *inputs: Any) -> AttentionMap:
    """Return the map of an attention layer that reads these inputs."""
    with record_attention(layer, type(layer)) as maps:
        layer(*inputs)
    return maps[0]


def differs(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return where two outputs (B, T, D) are not the same: (B, T)."""
    return ~torch.isclose(ours, theirs).all(dim=-1)


CPU = Device(accelerator="cpu", precision="32-true", name="CPU")


def validation_of(*parts: tuple[str, TokenFileInfo | None], baseline: Metrics | None = None) -> Validation:
    """Return a validation of corpora (name, info); a test passes the batches to the module itself."""
    named = parts or (("", None),)
    measured = tuple(ValidationPart(name, info, DataLoader([]), None) for name, info in named)
    return Validation(named[0][1], measured, baseline or {})
