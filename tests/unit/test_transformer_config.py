"""A model's options are declared once, and each is checked with a message that names a remedy."""

import math
import re
from dataclasses import MISSING, Field, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TINY

from folio.config.model import ModelConfig
from folio.models import GPT, EncoderDecoder, GPTConfig, TransformerConfig
from folio.models.transformer_config import ModelOptions

CONF = Path(__file__).parents[2] / "conf"

OPTIONS: dict[str, Field[Any]] = {field.name: field for field in fields(ModelOptions)}
DEFAULTS = {name: field.default for name, field in OPTIONS.items() if field.default is not MISSING}


# Declared once


def test_the_model_section_has_the_options_of_the_model_with_their_types_and_defaults() -> None:
    section = ModelConfig.model_fields
    assert section.keys() == OPTIONS.keys() | {"name", "vocab_size"}
    for name, option in OPTIONS.items():
        assert section[name].annotation == option.type
        assert section[name].is_required() is (name not in DEFAULTS)
        if name in DEFAULTS:
            assert section[name].default == DEFAULTS[name]


def test_train_yaml_shows_every_option_with_the_default_of_the_model() -> None:
    stated = yaml.safe_load((CONF / "train.yaml").read_text())["model"]
    size = yaml.safe_load((CONF / "model" / "nano.yaml").read_text())
    assert stated.keys() | size.keys() == ModelConfig.model_fields.keys()
    assert {name: value for name, value in stated.items() if name in DEFAULTS} == {
        name: DEFAULTS[name] for name in stated.keys() & DEFAULTS.keys()
    }


def test_a_stored_config_or_checkpoint_from_before_an_option_existed_gets_its_default() -> None:
    stored = asdict(TINY)
    section = {name: stored[name] for name in OPTIONS} | {"name": "tiny", "vocab_size": None}
    for name in DEFAULTS:
        assert TransformerConfig(**{key: value for key, value in stored.items() if key != name}) == TINY
        older = {key: value for key, value in section.items() if key != name}
        assert ModelConfig.model_validate(older) == ModelConfig.model_validate(section)


# Checked


def test_the_defaults_are_gpt2s_choices() -> None:
    config = TransformerConfig(vocab_size=50_257, context_length=1024, n_layers=12, n_heads=12, d_model=768)
    assert GPTConfig is TransformerConfig
    assert (config.feed_forward_width, config.head_width) == (4 * 768, 64)
    assert (config.norm_position, config.norm, config.activation) == ("pre", "layer_norm", "gelu_tanh")
    assert (config.positional_encoding, config.bias, config.ties_weights) == ("learned", True, True)
    assert (config.qk_norm, config.init, config.family) == (False, "gpt2", "decoder")


@pytest.mark.parametrize(
    ("changes", "value", "remedy"),
    [
        ({"vocab_size": 0}, "vocab_size=0", "1 or more"),
        ({"context_length": -3}, "context_length=-3", "1 or more"),
        ({"n_layers": 0}, "n_layers=0", "1 or more"),
        ({"n_heads": 0}, "n_heads=0", "1 or more"),
        ({"d_model": 0}, "d_model=0", "1 or more"),
        ({"d_ff": 0}, "d_ff=0", "1 or more"),
        ({"d_model": 30}, "d_model=30", "the nearest that works is d_model=32"),
        ({"d_model": 1}, "d_model=1", "the nearest that works is d_model=4"),
        ({"dropout": 1.0}, "dropout=1.0", "below 1"),
        ({"dropout": -0.1}, "dropout=-0.1", "at least 0"),
        ({"dropout": math.nan}, "dropout=nan", "below 1"),
        ({"attention_dropout": 1.0}, "attention_dropout=1.0", "below 1"),
        ({"attention_dropout": math.nan}, "attention_dropout=nan", "below 1"),
        ({"positional_base": 1.0}, "positional_base=1.0", "10000 is usual"),
        ({"positional_base": math.nan}, "positional_base=nan", "10000 is usual"),
        ({"positional_encoding": "sinusoidal", "d_model": 33, "n_heads": 3}, "d_model=33", "try d_model=36"),
        ({"positional_encoding": "rotary", "d_model": 12}, "d_model=12", "try d_model=16"),
        ({"positional_encoding": "concatenated", "d_model": 1, "n_heads": 1}, "d_model=1", "must be 2 or more"),
        ({"positional_encoding": "concatenated", "positional_width": 32}, "positional_width=32", "positional_width=16"),
        ({"positional_encoding": "concatenated", "positional_width": 0}, "positional_width=0", "at least 1"),
        ({"positional_width": 8}, "positional_width=8", "leave it out"),
        ({"positional_encoding": "concatenated", "tie_weights": True}, "tie_weights=True", "leave it out"),
        ({"positional_init": "ones"}, "positional_init=ones", "normal, zeros"),
        ({"post_norm_dropout": "both"}, "post_norm_dropout=both", "input, output"),
        ({"feed_forward_dropout": 1.0}, "feed_forward_dropout=1.0", "below 1"),
        ({"family": "decodr"}, "family=decodr", "decoder, encoder, encoder_decoder"),
        ({"norm_position": "mid"}, "norm_position=mid", "pre, post"),
        ({"norm": "rmsnorm"}, "norm=rmsnorm", "layer_norm, rms_norm"),
        ({"activation": "swish"}, "activation=swish", "gelu, gelu_tanh, relu, relu_squared, swiglu"),
        ({"init": "normal"}, "init=normal", "gpt2, xavier"),
        ({"conditioning": "cross_attention"}, "conditioning=cross_attention", "leave it out"),
        ({"family": "encoder", "conditioning": "hidden_cache"}, "conditioning=hidden_cache", "leave it out"),
        ({"family": "encoder_decoder"}, "conditioning=None", "give hidden_cache or cross_attention"),
        (
            {"family": "encoder_decoder", "conditioning": "prefix"},
            "conditioning=prefix",
            "give hidden_cache or cross_attention",
        ),
    ],
    ids=str,
)
def test_an_invalid_value_is_refused_with_the_value_and_a_remedy(
    changes: dict[str, Any], value: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(value)} .*{re.escape(remedy)}"):
        replace(TINY, **changes)


def test_an_unknown_positional_encoding_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match="positional_encoding=lerned is not one of learned, sinusoidal"):
        GPT(replace(TINY, positional_encoding="lerned"))


@pytest.mark.parametrize("conditioning", ["hidden_cache", "cross_attention"])
def test_the_conditionings_that_a_message_suggests_are_accepted(conditioning: str) -> None:
    config = replace(TINY, family="encoder_decoder", conditioning=conditioning)
    assert EncoderDecoder(config).config.conditioning == conditioning


@given(
    d_model=st.integers(1, 300),
    n_heads=st.integers(1, 300),
    encoding=st.sampled_from(["learned", "sinusoidal", "rotary"]),
)
def test_the_d_model_that_a_message_suggests_is_accepted(d_model: int, n_heads: int, encoding: str) -> None:
    shape = {"n_heads": n_heads, "positional_encoding": encoding}
    for _ in range(2):  # two messages may follow each other: divisible, then even
        try:
            replace(TINY, d_model=d_model, **shape)
        except ValueError as error:
            d_model = int(re.findall(r"d_model=(\d+)", str(error))[-1])
    assert replace(TINY, d_model=d_model, **shape).head_width * n_heads == d_model
