"""model.parametrization=mup: at the base width it is standard; beyond it, what a step changes stays the same."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, TINY, each_family, lively, random_tokens
from torch import Tensor

from folio.config.optimizer import AdamConfig, MuonConfig, OptimizerConfig
from folio.config.run import RunConfig
from folio.export.page.weights import in_page_form
from folio.figures.coordinate_check import PARTS, check_coordinates
from folio.models import GPT, EncoderDecoder, Model, TransformerConfig, build_model
from folio.models.formats.choice import choose_format
from folio.models.formats.equivalents import FOLDED
from folio.optim.optimizers import LR_SCALE, build_optimizer, set_learning_rate

DECAY = 0.1
ADAMW = AdamConfig(name="adamw", learning_rate=3e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=DECAY)
MUON = MuonConfig(
    name="muon",
    learning_rate=3e-3,
    adamw_learning_rate=None,
    momentum=0.95,
    nesterov=True,
    split_fused=False,
    betas=[0.9, 0.95],
    eps=1e-8,
    weight_decay=DECAY,
)
each_optimizer = pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])


def model_of(**changes: Any) -> Model:
    torch.manual_seed(0)
    return build_model(replace(TINY, **changes))


def logits_of(model: Model) -> Tensor:
    tokens = random_tokens(2, 12)
    return model(tokens, random_tokens(2, 5, seed=1)) if isinstance(model, EncoderDecoder) else model(tokens)


def train(model: Model, config: OptimizerConfig, n_steps: int = 3) -> None:
    optimizer = build_optimizer(model, config, fused=False)
    targets = random_tokens(2, 12, seed=2)
    for _ in range(n_steps):
        set_learning_rate(optimizer, config.learning_rate)
        optimizer.zero_grad()
        F.cross_entropy(logits_of(model).flatten(end_dim=1), targets.flatten()).backward()
        optimizer.step()


@each_optimizer
@each_family
def test_at_the_base_width_mup_is_the_standard_parametrization_to_the_last_bit(
    family: dict[str, Any], optimizer: OptimizerConfig
) -> None:
    standard, mup = model_of(**family), model_of(parametrization="mup", mup_base_d_model=TINY.d_model, **family)
    for model in (standard, mup):
        train(model, optimizer)
    assert torch.equal(logits_of(standard), logits_of(mup))


MULTIPLIER = 4


def is_hidden(name: str, parameter: Tensor) -> bool:
    return "blocks" in name.split(".") and parameter.ndim == 2


@each_family
def test_only_matrices_of_the_blocks_have_another_variance(family: dict[str, Any]) -> None:
    mup = {"parametrization": "mup", "mup_base_d_model": TINY.d_model // MULTIPLIER}
    standard = dict(model_of(**family).named_parameters())
    for name, parameter in model_of(**mup, **family).named_parameters():
        factor = MULTIPLIER**-0.5 if is_hidden(name, parameter) else 1.0
        torch.testing.assert_close(parameter, standard[name] * factor)
    xavier = [model_of(init="xavier", **changes, **family) for changes in ({}, mup)]  # which has this variance already
    assert all(map(torch.equal, *(model.parameters() for model in xavier)))


@each_optimizer
@each_family
def test_only_matrices_of_the_blocks_have_another_rate_and_all_decay_as_before(
    family: dict[str, Any], optimizer: OptimizerConfig
) -> None:
    model = model_of(parametrization="mup", mup_base_d_model=TINY.d_model // MULTIPLIER, **family)
    names = {parameter: name for name, parameter in model.named_parameters()}
    hidden_scale = 1 / MULTIPLIER if optimizer.name == "adamw" else MULTIPLIER**-0.5
    grouped = []
    for group in build_optimizer(model, optimizer, fused=False).param_groups:
        for parameter in group["params"]:
            scale = group.get(LR_SCALE, 1.0)
            assert scale == (hidden_scale if is_hidden(names[parameter], parameter) else 1.0), names[parameter]
            assert scale * group["weight_decay"] == pytest.approx(DECAY if parameter.ndim == 2 else 0.0)
            grouped.append(names[parameter])
    assert sorted(grouped) == sorted(names.values())


def test_scores_fall_with_the_width_of_a_head_and_logits_with_that_of_the_model() -> None:
    config = replace(TINY, parametrization="mup", mup_base_d_model=8)  # heads of 8, and of 2 at the base width
    assert config.attention_scale == pytest.approx(math.sqrt(2) / 8)
    assert replace(config, d_head=8).attention_scale is None  # a wider model has more of such heads
    assert config.output_scale == 1 / 4
    model = lively(GPT(config))
    (first, *_) = model.attention_maps(random_tokens(1, 6))
    expected = (first.scores * math.sqrt(2) / 8).masked_fill(~first.mask, -math.inf).softmax(dim=-1)
    torch.testing.assert_close(first.weights, expected)
    hidden = model.hidden(random_tokens(1, 6))
    torch.testing.assert_close(model.output(hidden * 4), model(random_tokens(1, 6)) * 4)


def test_the_factor_on_embeddings_is_that_of_the_base_width() -> None:
    config = replace(TINY, scale_embedding=True, parametrization="mup", mup_base_d_model=4)
    assert config.embedding_scale == 2.0
    assert replace(TINY, scale_embedding=True).embedding_scale == math.sqrt(TINY.d_model)


def test_an_encoder_of_a_decoder_passes_on_its_states_unscaled() -> None:
    model = model_of(parametrization="mup", mup_base_d_model=8, **FAMILIES["cross_attention"])
    assert isinstance(model, EncoderDecoder)
    states = model.encode(random_tokens(2, 5)).states
    torch.testing.assert_close(states.square().mean(dim=-1).sqrt(), torch.ones(2, 5), atol=0.05, rtol=0.0)


options = st.fixed_dictionaries(
    {
        "family": st.sampled_from(["decoder", "encoder"]),
        "mup_base_d_model": st.sampled_from([4, 32, 96]),
        "qk_norm": st.booleans(),
        "bias": st.booleans(),
        "attention_bias": st.booleans(),
        "tie_weights": st.booleans(),
        "output_bias": st.booleans(),
        "n_kv_heads": st.sampled_from([None, 2]),
        "d_head": st.sampled_from([None, 6]),
        "logit_softcap": st.sampled_from([None, 3.0]),
        "scale_embedding": st.sampled_from([None, True, 3.0]),
        "positional_encoding": st.sampled_from(["learned", "sinusoidal", "rotary"]),
        "norm": st.sampled_from(["layer_norm", "rms_norm"]),
    }
)


@given(options)
@settings(max_examples=25, deadline=None)
def test_the_standard_form_computes_the_same(changes: dict[str, Any]) -> None:
    model = lively(build_model(replace(TINY, parametrization="mup", **changes)))
    folded = in_page_form(model)
    assert folded.config.parametrization == "standard"
    assert folded.config.ties_weights == model.config.ties_weights
    with torch.no_grad():
        torch.testing.assert_close(logits_of(folded.double()), logits_of(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("format_name", "changes"),
    [
        ("GPT-2", {}),
        ("GPT-NeoX", {"positional_encoding": "rotary", "bias": True}),
        ("Llama", {"positional_encoding": "rotary", "norm": "rms_norm", "bias": False, "activation": "swiglu"}),
    ],
)
def test_a_format_holds_the_standard_form(format_name: str, changes: dict[str, Any]) -> None:
    plan = choose_format(replace(TINY, parametrization="mup", mup_base_d_model=8, **changes))
    assert plan.format.name == format_name
    assert FOLDED in plan.steps


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_what_a_few_steps_change_grows_with_the_width_except_with_mup(optimizer: OptimizerConfig) -> None:
    """The coordinate check (Yang et al. 2022, appendix D.1). Embeddings do not depend on the width in either."""
    widths = (64, 128, 256)
    standard, mup = (check_coordinates(name, optimizer, widths) for name in ("standard", "mup"))
    for part in PARTS:
        assert abs(mup.growth(part)) < 0.25, part
        assert standard.growth(part) > 0.4 or part == "embeddings", part


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer=sgd"], "optimizer=sgd has no rule for model.parametrization=mup; use optimizer=adam or "),
        (["optimizer=adam", "optimizer.weight_decay=0.1"], "optimizer.weight_decay=0.1 of optimizer=adam passes"),
        (["schedule=noam"], "schedule=noam lowers the learning rate with the width by itself"),
        (["model.mup_base_d_model=0"], "model.mup_base_d_model=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    overrides: list[str], message: str, refuse: Callable[..., str]
) -> None:
    assert message in refuse("model.parametrization=mup", *overrides)


def test_the_base_width_without_mup_is_refused(refuse: Callable[..., str]) -> None:
    line = refuse("model.mup_base_d_model=64")
    assert "model.mup_base_d_model=64 has no effect with model.parametrization=standard" in line


def test_a_run_has_the_parametrization_of_its_config(compose: Callable[..., RunConfig]) -> None:
    config = compose("model.parametrization=mup", "model.d_model=256").transformer_config(vocab_size=65)
    assert isinstance(config, TransformerConfig)
    assert config.width_multiplier == 2.0
