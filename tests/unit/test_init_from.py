"""The GPT-2 folder decides the model, and a contradicting choice of the user is refused, not ignored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from folio.cli.init_from import apply_init_from, explicit_keys
from folio.config.checks import check_config
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.config.updates import with_vocab_size
from folio.data.tokenizers.bpe import BPETokenizer
from folio.export.tokenizer import export_tokenizer
from folio.models import GPT, GPTConfig
from folio.models.pretrained import load_pretrained, save_pretrained
from folio.models.rotary_scaling import RotaryScaling

CONF = Path(__file__).parents[2] / "conf"
GPT2 = GPTConfig(vocab_size=65, context_length=80, n_layers=3, n_heads=2, d_model=12, activation="relu")

Begin = Callable[..., RunConfig]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(GPT(GPT2), tmp_path / "my gpt2")
    return tmp_path / "my gpt2"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def begin(folder: Path, said: list[str], compose: Callable[..., RunConfig]) -> Begin:
    """Return a function that gives the config of init_from=<folder> with further overrides."""

    def begin(*overrides: str) -> RunConfig:
        config = compose(*overrides).model_copy(update={"init_from": str(folder)})
        return apply_init_from(config, explicit_keys(overrides, CONF), said.append)

    return begin


def refusal(begin: Begin, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        begin(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folder_decides_the_model_and_one_line_describes_it(begin: Begin, folder: Path, said: list[str]) -> None:
    config = begin()
    check_config(config)
    model = config.model
    assert (model.vocab_size, model.n_layers, model.n_heads, model.d_model, model.d_ff) == (65, 3, 2, 12, 48)
    assert (model.bias, model.tie_weights, model.activation) == (True, True, "relu")
    assert said == [
        f"init_from={folder}: 3 layers, 2 heads, d_model 12, 65 symbols; "
        "context 64 of 80 positions (model.context_length), dropout 0 (model.dropout)"
    ]


def test_a_run_is_named_after_the_folder(begin: Begin) -> None:
    assert begin().run_name == "tiny_shakespeare-my-gpt2"


@pytest.mark.parametrize(("name", "named"), [("-ä-", "pretrained"), ("gpt2 (mine)", "gpt2-mine"), ("x" * 90, "x" * 40)])
def test_a_folder_with_an_unusual_name_gives_a_valid_run_name(
    name: str, named: str, tmp_path: Path, compose: Callable[..., RunConfig]
) -> None:
    save_pretrained(GPT(GPT2), tmp_path / name)
    config = compose().model_copy(update={"init_from": str(tmp_path / name)})
    assert apply_init_from(config, {}, lambda line: None).model.name == named


def test_the_config_decides_context_length_and_dropout(begin: Begin) -> None:
    model = begin("model.context_length=16", "model.dropout=0.3").model
    assert (model.context_length, model.dropout) == (16, 0.3)


def test_the_default_context_length_is_cropped_to_the_folders(
    tmp_path: Path, compose: Callable[..., RunConfig]
) -> None:
    save_pretrained(
        GPT(GPTConfig(vocab_size=65, context_length=5, n_layers=1, n_heads=1, d_model=2)), tmp_path / "short"
    )
    config = compose().model_copy(update={"init_from": str(tmp_path / "short")})
    assert apply_init_from(config, {}, lambda line: None).model.context_length == 5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.n_layers=4",), ("model.n_layers=4 contradicts init_from=", "has 3")),
        (("++model.n_layers=4",), ("model.n_layers=4 contradicts",)),
        (("model.d_model=128",), ("model.d_model=128", "has 12")),
        (("model.bias=false",), ("model.bias=false", "has true")),
        (("model.tie_weights=false",), ("model.tie_weights=false", "has true")),
        (("model.activation=gelu_tanh",), ("model.activation=gelu_tanh", "has relu")),
        (("model.vocab_size=128",), ("model.vocab_size=128", "has 65")),
        (("model.d_ff=99",), ("model.d_ff=99", "has 48")),
        (("model=nano",), ("model.n_layers=4 of model=nano",)),
        (("model=gpt2_small",), ("model.n_layers=12 of model=gpt2_small",)),
        (("experiment=lm_from_scratch_plain",), ("model.n_layers=6 of experiment=lm_from_scratch_plain",)),
        (("experiment=nanogpt_shakespeare_char_cpu",), ("of experiment=nanogpt_shakespeare_char_cpu",)),
        (("model.context_length=81",), ("model.context_length=81", "80 positions", "model.context_length=80")),
        (("experiment=finetune_gpt2",), ("model.context_length=256 of experiment=finetune_gpt2", "80 positions")),
        (("positional_encoding=rotary",), ("positional_encoding=rotary", "learned", "leave it out")),
        (("model.norm=rms_norm",), ("model.norm=rms_norm", "layer_norm")),
        (("model.norm_position=post",), ("model.norm_position=post", "pre")),
        (("model.qk_norm=true",), ("model.qk_norm=true", "false")),
        (("model.final_norm=false",), ("model.final_norm=false", "has true")),
        (("model.scale_embedding=true",), ("model.scale_embedding=true", "has false")),
        (("model.output_bias=true",), ("model.output_bias=true", "has false")),
        (("model.attention_bias=false",), ("model.attention_bias=false contradicts init_from=", "has true")),
        (("positional_encoding.init=zeros",), ("positional_encoding.init=zeros", "has normal")),
        (("model.family=encoder",), ("model.family=encoder", "decoder")),
        (("model.init=xavier",), ("model.init=xavier", "gpt2")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and "=" in value[0] else "",
)
def test_a_choice_that_contradicts_the_folder_is_refused(
    overrides: tuple[str, ...], words: tuple[str, ...], begin: Begin
) -> None:
    message = refusal(begin, *overrides)
    assert not [word for word in words if word not in message], message
    assert "init_from=" in message


def test_a_choice_that_agrees_with_the_folder_is_accepted(begin: Begin) -> None:
    chosen = ("n_layers=3", "d_ff=48", "activation=relu", "bias=true", "vocab_size=null", "context_length=80")
    switches = ("final_norm=true", "scale_embedding=false", "attention_bias=true", "tie_weights=null")
    assert begin(*(f"model.{one}" for one in chosen + switches)).model == begin("model.context_length=80").model


def test_the_recipe_requires_a_folder(compose: Callable[..., RunConfig]) -> None:
    config = compose("experiment=finetune_gpt2")
    with pytest.raises(ConfigError, match=r"^init_from must be given: add init_from=<"):
        apply_init_from(config, {}, lambda line: None)


def test_the_recipe_crops_gpt2_and_trains_gently(tmp_path: Path, compose: Callable[..., RunConfig]) -> None:
    gpt2 = GPTConfig(vocab_size=50_257, context_length=1024, n_layers=1, n_heads=1, d_model=2)
    save_pretrained(GPT(gpt2), tmp_path / "gpt2")
    config = compose("experiment=finetune_gpt2", f"init_from={tmp_path / 'gpt2'}")
    config = apply_init_from(config, explicit_keys(["experiment=finetune_gpt2"], CONF), lambda line: None)
    check_config(config)
    assert with_vocab_size(config, 50_257).model == config.model
    assert (config.model.context_length, config.model.dropout, config.tokenizer.name) == (256, 0.1, "gpt2")
    assert config.optimizer.learning_rate <= 5e-5


def test_a_tokenizer_of_another_size_is_refused_with_both_names(begin: Begin) -> None:
    config = begin("tokenizer=gpt2")
    with pytest.raises(ConfigError) as caught:
        with_vocab_size(config, 50_257)
    message = str(caught.value)
    for word in ("tokenizer=gpt2 has 50257 symbols", f"init_from={config.init_from} has 65", "tokenizer=gpt2"):
        assert word in message
    assert with_vocab_size(config, 65).model.vocab_size == 65


def add_tokenizer(folder: Path, vocab_size: int) -> None:
    export_tokenizer(BPETokenizer.from_text("to be or not to be, that is the question " * 20, vocab_size), folder)


def test_the_tokenizer_of_the_folder_is_taken_unless_another_is_chosen(begin: Begin, folder: Path) -> None:
    assert begin().tokenizer.name == "gpt2"  # the default: the folder has none
    add_tokenizer(folder, 260)
    assert begin().tokenizer.model_dump() == {"name": "huggingface", "path": str(folder)}
    assert begin("tokenizer=char").tokenizer.name == "char"


@pytest.mark.parametrize(("n_symbols", "fits"), [(3000, True), (2860, True), (2800, False), (3001, False)])
def test_a_tokenizer_that_does_not_match_the_weights_is_refused(
    n_symbols: int, fits: bool, begin: Begin, folder: Path
) -> None:
    """Models have a few rows more than their tokenizer has symbols, Qwen3 0.2 %; many more belong to another one."""
    add_tokenizer(folder, 260)
    config = begin()
    config = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": 3000})})
    if fits:
        assert with_vocab_size(config, n_symbols).model.vocab_size == 3000
        return
    with pytest.raises(ConfigError, match=f"^tokenizer=huggingface has {n_symbols} symbols, but the model"):
        with_vocab_size(config, n_symbols)


LLAMA = GPTConfig(
    **{"vocab_size": 65, "context_length": 80, "n_layers": 2, "n_heads": 4, "d_model": 12, "bias": False, "d_ff": 20},
    n_kv_heads=2, d_head=6, norm="rms_norm", norm_eps=1e-6, activation="swiglu", positional_encoding="rotary",
    positional_base=500.0, rotary_scaling=RotaryScaling(name="llama3", factor=4.0, original_context_length=16),
)  # fmt: skip


def test_a_llama_decides_all_that_it_has(tmp_path: Path, compose: Callable[..., RunConfig]) -> None:
    save_pretrained(GPT(LLAMA), tmp_path / "llama")
    config = compose().model_copy(update={"init_from": str(tmp_path / "llama")})
    begun = apply_init_from(config, {}, lambda line: None)
    check_config(begun)
    assert begun.transformer_config(65) == load_pretrained(tmp_path / "llama", context_length=64).config
    agreeing = {"positional_encoding.rotary_scaling": "x"}
    again = apply_init_from(begun, agreeing | {"model.n_kv_heads": "model.n_kv_heads=2"}, lambda line: None)
    assert again.model == begun.model
    with pytest.raises(
        ConfigError, match=r"^positional_encoding\.base=10000\.0 of positional_encoding=rotary contradicts init_from"
    ):
        apply_init_from(config, {"positional_encoding.base": "positional_encoding=rotary"}, lambda line: None)


def test_positions_without_an_end_may_be_longer_than_the_folders(
    tmp_path: Path, compose: Callable[..., RunConfig]
) -> None:
    save_pretrained(GPT(LLAMA), tmp_path / "llama")
    config = compose("model.context_length=200").model_copy(update={"init_from": str(tmp_path / "llama")})
    begun = apply_init_from(config, explicit_keys(["model.context_length=200"], CONF), lambda line: None)
    assert begun.model.context_length == 200


def test_the_positions_of_a_folder_can_be_stretched_once(
    tmp_path: Path, folder: Path, compose: Callable[..., RunConfig]
) -> None:
    scaling = "positional_encoding.rotary_scaling={name:yarn,factor:2.0,original_context_length:80}"
    words = [f"+{scaling}", "model.context_length=160"]
    save_pretrained(GPT(replace(LLAMA, rotary_scaling=None)), tmp_path / "llama")

    def begun(folder: Path) -> RunConfig:
        config = compose(*words).model_copy(update={"init_from": str(folder)})
        return apply_init_from(config, explicit_keys(words, CONF), lambda line: None)

    yarn = RotaryScaling(name="yarn", factor=2.0, original_context_length=80)
    stretched = load_pretrained(tmp_path / "llama", context_length=160, rotary_scaling=yarn)
    assert stretched.config.rotary_scaling == yarn
    config = begun(tmp_path / "llama")
    check_config(config)
    assert config.transformer_config(65) == stretched.config
    save_pretrained(stretched, tmp_path / "stretched")
    assert begun(tmp_path / "stretched").transformer_config(65) == stretched.config
    with pytest.raises(ConfigError, match=r"^positional_encoding\.rotary_scaling=yarn.* contradicts init_from"):
        begun(folder)  # learned positions


def test_a_broken_folder_is_reported_with_the_reason(begin: Begin, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(begin).startswith(f"init_from={folder}: {folder} has none of model.safetensors")
