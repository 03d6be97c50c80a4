"""Models small enough for a test of milliseconds, with weights large enough to matter."""

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from folio.data.token_file import TokenFileInfo
from folio.distributed.devices import Device
from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig
from folio.models.attention_maps import AttentionMap, record_attention
from folio.models.blocks import CrossAttention, SelfAttention
from folio.objectives.evaluation import Validation, ValidationPart
from folio.objectives.metrics import Metrics

TINY = TransformerConfig(vocab_size=61, context_length=16, n_layers=3, n_heads=4, d_model=32)

OTHER_CHOICES: dict[str, Any] = {
    "norm_position": "post",
    "norm": "rms_norm",
    "activation": "swiglu",
    "qk_norm": True,
    "bias": False,
    "init": "xavier",
}
"""As far from the defaults as a model can be."""

CONDITIONINGS = ("hidden_cache", "cross_attention")

FAMILY_OF = {GPT: "decoder", Encoder: "encoder", EncoderDecoder: "encoder_decoder"}

AnyModel = TypeVar("AnyModel", GPT, Encoder, EncoderDecoder)
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def lively(module: AnyModule) -> AnyModule:
    """In float64, where two ways to one number agree to many digits, and with all weights drawn anew, norms' and
    biases' too: an initial model is nearly indifferent to its input."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.double().eval().parameters():
            parameter.normal_(std=0.3, generator=generator)
    return module


def build(kind: type[AnyModel], **changes: Any) -> AnyModel:
    """A tiny lively model: build(GPT, positional_encoding="rotary")."""
    return lively(kind(replace(TINY, family=FAMILY_OF[kind], **changes)))


def random_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(TINY.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def with_another_token(tokens: Tensor, place: int, shift: int = 1) -> Tensor:
    """The same but for what stands at one place of every row."""
    other = tokens.clone()
    other[:, place] = (tokens[:, place] + shift) % TINY.vocab_size
    return other


def attention_map_of(layer: SelfAttention | CrossAttention, *inputs: Any) -> AttentionMap:
    """The map of an attention layer when it reads these inputs."""
    with record_attention(layer, type(layer)) as maps:
        layer(*inputs)
    return maps[0]


def differs(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B, T, D) twice -> (B, T): where two outputs are not the same."""
    return ~torch.isclose(ours, theirs).all(dim=-1)


CPU = Device(accelerator="cpu", precision="32-true", name="CPU")


def validation_of(*parts: tuple[str, TokenFileInfo | None], baseline: Metrics | None = None) -> Validation:
    """A validation of corpora (name, info) whose batches a test passes to the module itself."""
    named = parts or (("", None),)
    measured = tuple(ValidationPart(name, info, DataLoader([]), None) for name, info in named)
    return Validation(named[0][1], measured, baseline or {})
