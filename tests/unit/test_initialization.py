"""Initial weights are distributed as the papers say, and a new model knows nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import FAMILIES, FAMILY_OF, each_family
from torch import Tensor, nn

from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig, build_model
from folio.models.positional import POSITIONAL_ENCODINGS

WIDE = TransformerConfig(vocab_size=500, context_length=100, n_layers=3, n_heads=4, d_model=128)
"""Wide enough to measure deviations: each weight has at least 100 x 128 values, a standard error of 0.7 %."""

each_init = pytest.mark.parametrize("init", ["gpt2", "xavier"])


def new_model(seed: int = 0, **changes: Any) -> GPT | Encoder | EncoderDecoder:
    torch.manual_seed(seed)
    return build_model(replace(WIDE, **changes))


def test_each_family_is_built_by_its_name() -> None:
    for kind, name in FAMILY_OF.items():
        conditioning = "hidden_cache" if name == "encoder_decoder" else None
        assert type(new_model(family=name, conditioning=conditioning, n_layers=1)) is kind


@each_init
@each_family
def test_norms_start_at_1_and_biases_at_0(family: dict[str, Any], init: str) -> None:
    for name, parameter in new_model(init=init, qk_norm=True, **family).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the matrices, without norms and biases."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 2}


@pytest.mark.parametrize("tie_weights", [True, False])
@each_family
def test_gpt2_weights_have_gpt2s_standard_deviations(family: dict[str, Any], tie_weights: bool) -> None:
    model = new_model(tie_weights=tie_weights, **family)
    for name, weight in weights_of(model).items():
        # A block with cross-attention has three branches that write into the residual stream.
        crosses = family.get("conditioning") == "cross_attention" and name.startswith("decoder.")
        n_branches = (3 if crosses else 2) * WIDE.n_layers
        std = 0.02 / math.sqrt(n_branches) if "out_projection" in name else 0.02
        assert weight.std().item() == pytest.approx(std, rel=0.03), name
        assert abs(weight.mean().item()) < 0.05 * std, name


def test_only_projections_into_the_residual_stream_are_smaller() -> None:
    small = {
        name for name, weight in weights_of(new_model(**FAMILIES["cross_attention"])).items() if weight.std() < 0.015
    }
    assert small == {
        *(
            f"encoder.blocks.{i}.{part}.out_projection.weight"
            for i in range(3)
            for part in ("attention", "feed_forward")
        ),
        *(
            f"decoder.blocks.{i}.{part}.out_projection.weight"
            for i in range(3)
            for part in ("attention", "cross_attention", "feed_forward")
        ),
    }


FUSED = {"qkv_projection": 3, "kv_projection": 2}


@pytest.mark.parametrize("activation", ["gelu_tanh", "swiglu"])
@each_family
def test_xavier_weights_are_uniform_within_the_papers_bound_part_by_part(
    family: dict[str, Any], activation: str
) -> None:
    model = new_model(init="xavier", activation=activation, **family)
    fused = FUSED | ({"in_projection": 2} if activation == "swiglu" else {})
    for name, weight in weights_of(model).items():
        if "embedding" in name:
            continue
        for part in weight.chunk(fused.get(name.split(".")[-2], 1)):
            n_outputs, n_inputs = part.shape
            bound = math.sqrt(6 / (n_inputs + n_outputs))
            assert 0.99 * bound < part.abs().max().item() <= bound, name
            assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name
            assert part.requires_grad
            assert abs(part.mean().item()) < 0.03 * bound, name


@pytest.mark.parametrize("tie_weights", [True, False])
@each_family
def test_xavier_initializes_embeddings_and_the_output_like_gpt2(family: dict[str, Any], tie_weights: bool) -> None:
    weights = weights_of(new_model(init="xavier", tie_weights=tie_weights, **family))
    tables = {name: weight for name, weight in weights.items() if "embedding" in name or name == "output.weight"}
    assert ("output.weight" in tables) is not tie_weights
    for name, weight in tables.items():
        assert weight.std().item() == pytest.approx(0.02, rel=0.03), name


def initial_loss(model: GPT | Encoder | EncoderDecoder) -> Tensor:
    """Return the loss for random targets."""
    tokens, targets, prefix = torch.randint(WIDE.vocab_size, (3, 8, 16), generator=torch.Generator().manual_seed(1))
    logits = model(tokens, prefix) if isinstance(model, EncoderDecoder) else model(tokens)
    return F.cross_entropy(logits.flatten(end_dim=1), targets.flatten())


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@each_init
@each_family
def test_the_initial_loss_is_that_of_guessing(family: dict[str, Any], init: str, norm_position: str) -> None:
    model = new_model(d_model=32, init=init, norm_position=norm_position, **family)
    assert initial_loss(model).item() == pytest.approx(math.log(WIDE.vocab_size), abs=0.1)


@pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
def test_the_initial_loss_is_that_of_guessing_with_each_encoding(encoding: str) -> None:
    model = new_model(d_model=32, positional_encoding=encoding)
    assert initial_loss(model).item() == pytest.approx(math.log(WIDE.vocab_size), abs=0.1)


@each_init
@each_family
def test_every_weight_of_a_new_model_gets_a_gradient(family: dict[str, Any], init: str) -> None:
    model = new_model(d_model=32, init=init, activation="swiglu", **family)
    initial_loss(model).backward()
    for name, parameter in model.named_parameters():
        assert parameter.is_leaf, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each_init
def test_the_seed_determines_the_weights(init: str) -> None:
    first, again, other = (new_model(seed, init=init, n_layers=1).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["blocks.0.attention.qkv_projection.weight"], other["blocks.0.attention.qkv_projection.weight"]
    )
