"""Every shipped YAML file gives a config that can run, and the checks refuse every config that cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from folio.cli.debug import fit_schedule
from folio.config.checks import check_config, check_split_lengths
from folio.config.objective import PrefixLMConfig
from folio.config.run import RunConfig
from folio.config.schedule import CosineScheduleConfig
from folio.config.section import ConfigError
from folio.config.tokenizer import TOKENIZERS
from folio.config.updates import with_vocab_size
from folio.models import build_model
from folio.optim.optimizers import build_optimizer
from folio.optim.schedules import learning_rates

Compose = Callable[..., RunConfig]

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.glob("*/*.yaml"))
ALSO_NEEDED = {
    Path("data/text_file"): ["data.path=my.txt"],
    Path("data/text_files"): ["data.path=corpus/**/*.txt"],
    Path("data/huggingface"): ["data.path=roneneldan/TinyStories"],
    Path("data/prepared"): ["data.path=data/text_files/mine"],
    Path("data/token_files"): ["data.path=shards/*.bin"],
    Path("tokenizer/huggingface"): ["tokenizer.path=my_tokenizer"],
    Path("data/mixture"): ["data.parts={tiny_shakespeare: 0.7, corpus/**/*.txt: 0.3}"],
    Path("model/encoder_small"): ["objective=masked_lm"],
    Path("model/encoder_decoder_small"): ["objective=prefix_lm"],
    Path("experiment/finetune_gpt2"): ["init_from=gpt2"],
    Path("objective/masked_lm"): ["model=encoder_small"],
    Path("objective/prefix_lm"): ["model=encoder_decoder_small"],
}
MODELS = sorted(path for path in OPTIONS if path.parts[0] == "model")


def mixture_of(parts: dict[str, Any]) -> dict[str, Any]:
    return {"name": "mixture", "parts": parts, "window_order": "random", "mask_documents": False}


def part(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "weight": 1.0, **keys}


VALID: dict[str, Any] = {
    "name": None,
    "tags": [],
    "notes": None,
    "seed": 1,
    "deterministic": False,
    "dry_run": False,
    "resume": None,
    "init_from": None,
    "paths": {"data_dir": "data", "output_dir": "outputs"},
    "data": {"name": "tiny_shakespeare", "path": None, "window_order": "random", "mask_documents": False},
    "tokenizer": {"name": "char"},
    "model": {
        "name": "small",
        "family": "decoder",
        "vocab_size": None,
        "context_length": 8,
        "n_layers": 2,
        "n_heads": 2,
        "d_model": 4,
        "d_ff": None,
        "dropout": 0.0,
        "attention_dropout": None,
        "bias": False,
        "tie_weights": True,
        "norm_position": "pre",
        "norm": "layer_norm",
        "activation": "gelu_tanh",
        "qk_norm": False,
        "init": "gpt2",
    },
    "conditioning": None,
    "positional_encoding": {"name": "learned"},
    "objective": {"name": "causal_lm", "token_noise": 0.0},
    "optimizer": {"name": "adamw", "learning_rate": 0.01, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
    "schedule": {"name": "cosine", "warmup_steps": 5, "min_learning_rate": 0.001},
    "training": {
        "max_steps": 20,
        "batch_size": 12,
        "micro_batch_size": None,
        "gradient_clip_norm": 1.0,
        "validate_every_steps": 10,
        "log_every_steps": 5,
        "checkpoint_every_steps": 10,
        "on_nan": "stop",
        "max_nan_steps": 10,
        "loss_on": "all",
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "compile": False,
        "detect_anomaly": False,
    },
    "logger": {},
    "callbacks": {
        "samples": {"prompt": "A", "max_new_tokens": 3, "temperature": 1.0, "top_k": None},
        "checkpoint": {"keep_every_steps": None, "keep_every_epochs": None},
    },
}

MASKED_LM = {"name": "masked_lm", "mask_fraction": 0.15, "mask_share": 0.8, "random_share": 0.1}
PREFIX_LM = {"name": "prefix_lm", "min_prefix_length": 1, "max_prefix_length": None}
ENCODER: dict[str, Any] = {"model.family": "encoder", "objective": MASKED_LM}
ENCODER_DECODER: dict[str, Any] = {
    "model.family": "encoder_decoder",
    "conditioning": "hidden_cache",
    "objective": PREFIX_LM,
}


def changed(changes: dict[str, Any], values: dict[str, Any] = VALID) -> dict[str, Any]:
    """VALID with other values at dotted keys."""
    result = dict(values)
    for key, value in changes.items():
        first, _, rest = key.partition(".")
        result[first] = changed({rest: value}, result[first]) if rest else value
    return result


def config_of(changes: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(changed(changes))


def keys_of_errors(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(values)
    return [".".join(map(str, error["loc"])) for error in caught.value.errors()]


def test_the_options_are_found() -> None:
    groups = {"data", "tokenizer", "model", "objective", "optimizer", "schedule", "experiment"}
    assert {path.parts[0] for path in OPTIONS} >= groups
    assert OPTIONS.count(Path("model/gpt2_small")) == 1
    assert set(ALSO_NEEDED) <= set(OPTIONS)


def test_every_shipped_file_is_an_option_or_train_yaml() -> None:
    files = {path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.y*ml")}
    assert files == {Path("train"), *OPTIONS}


@pytest.mark.parametrize("option", [None, *OPTIONS], ids=str)
def test_every_shipped_option_composes_passes_the_checks_and_builds(option: Path | None, compose: Compose) -> None:
    typed = [] if option is None else ["=".join(option.parts), *ALSO_NEEDED.get(option, [])]
    config = compose(*typed)
    config = fit_schedule(config, is_typed=False, log=print)
    check_config(config)
    tokenizer_vocab_size = config.tokenizer.load_code().known_vocab_size(config.tokenizer.name) or 65
    config = with_vocab_size(config, tokenizer_vocab_size)
    assert config.model.vocab_size is not None
    with torch.device("meta"):  # shapes without memory: gpt2_xl takes no longer than nano
        model = build_model(config.transformer_config(config.model.vocab_size))
    assert model.n_parameters > 0
    optimizer = build_optimizer(model, config.optimizer, fused=False)
    updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sum(parameter.numel() for parameter in updated) == model.n_parameters
    rates = learning_rates(config)
    assert len(rates) == config.training.max_steps
    assert min(rates) >= 0.0 < max(rates) < 1.0


@pytest.mark.parametrize("group", ["optimizer", "schedule"])
def test_different_options_build_different_objects(group: str, compose: Compose) -> None:
    built = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        config = compose(f"{group}={path.stem}", "model=debug")
        model = build_model(config.transformer_config(65))
        optimizer = type(build_optimizer(model, config.optimizer, fused=False)).__name__
        built[path.stem] = optimizer if group == "optimizer" else learning_rates(config)[-1]
    assert len(set(built.values())) == len(built), built


def test_the_config_offers_the_tokenizers_of_the_code() -> None:
    options = {path.stem for path in (CONF / "tokenizer").glob("*.yaml")}
    assert options == set(TOKENIZERS)


NAMED_GROUPS = ("model", "objective", "optimizer", "schedule", "positional_encoding")


@pytest.mark.parametrize("option", [path for path in OPTIONS if path.parts[0] in NAMED_GROUPS], ids=str)
def test_options_of_a_group_are_named_like_their_files(option: Path, compose: Compose) -> None:
    config = compose("=".join(option.parts))
    assert getattr(config, option.parts[0]).name == option.name


NANOGPT = {
    # https://github.com/karpathy/nanoGPT: README, "i only have a macbook", and config/train_shakespeare_char.py
    "nanogpt_shakespeare_char_cpu": {
        "model.n_layers": 4,
        "model.n_heads": 4,
        "model.d_model": 128,
        "model.context_length": 64,
        "model.dropout": 0.0,
        "training.batch_size": 12,
        "training.max_steps": 2000,
    },
    "nanogpt_shakespeare_char": {
        "model.n_layers": 6,
        "model.n_heads": 6,
        "model.d_model": 384,
        "model.context_length": 256,
        "model.dropout": 0.2,
        "training.batch_size": 64,
        "training.max_steps": 5000,
    },
}
NANOGPT_BOTH = {
    "tokenizer.name": "char",
    "data.name": "tiny_shakespeare",
    "data.window_order": "random",
    "model.d_ff": None,
    "model.bias": False,
    "model.tie_weights": None,
    "positional_encoding.name": "learned",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
    "optimizer.betas": [0.9, 0.99],
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.1,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 100,
    "schedule.min_learning_rate": 1e-4,
    "training.gradient_clip_norm": 1.0,
    "training.micro_batch_size": None,
}


@pytest.mark.parametrize("experiment", NANOGPT)
def test_nanogpt_experiments_have_the_published_numbers(experiment: str, compose: Compose) -> None:
    config = compose(f"experiment={experiment}").model_dump()
    for key, value in (NANOGPT[experiment] | NANOGPT_BOTH).items():
        section, name = key.split(".")
        assert config[section][name] == value, key


DESCRIBED: dict[str, dict[str, Any]] = {
    "word_gpt": {
        "tokenizer.name": "word",
        "data.window_order": "shuffled",
        "optimizer.name": "adam",
        "optimizer.betas": [0.9, 0.999],
        "optimizer.learning_rate": 1e-4,
        "schedule.name": "constant",
        "training.batch_size": 32,
        "training.gradient_clip_norm": 1.0,
    },
    "lm_from_scratch_plain": {
        "model.n_layers": 6,
        "model.n_heads": 8,
        "model.d_model": 128,
        "model.norm_position": "pre",
        "model.activation": "gelu",
        "positional_encoding.name": "learned",
        "optimizer.name": "adam",
        "optimizer.betas": [0.9, 0.999],
        "optimizer.learning_rate": 3e-4,
        "optimizer.weight_decay": 0.0,
        "schedule.name": "constant",
        "schedule.warmup_steps": 0,
        "training.batch_size": 32,
        "training.max_steps": 25_000,
    },
}
"""The numbers of a book chapter and an assignment; `tests/golden/test_article_decoder.py` has those of an article."""


@pytest.mark.parametrize("experiment", DESCRIBED)
def test_the_chapters_and_the_assignments_recipes_have_their_numbers(experiment: str, compose: Compose) -> None:
    config = compose(f"experiment={experiment}").model_dump()
    found = {key: config[key.partition(".")[0]][key.partition(".")[2]] for key in DESCRIBED[experiment]}
    assert found == DESCRIBED[experiment]


@pytest.mark.parametrize(("experiment", "n_symbols"), [("speedrun_char_cpu", 65), ("speedrun_bpe_cpu", 50_257)])
def test_speedruns_stay_within_the_budget_of_nanogpts_cpu_recipe(
    experiment: str, n_symbols: int, compose: Compose
) -> None:
    ours, nanogpt = compose(f"experiment={experiment}"), compose("experiment=nanogpt_shakespeare_char_cpu")
    assert n_parameters(ours, n_symbols) <= n_parameters(nanogpt, n_symbols)
    assert ours.training.max_steps == nanogpt.training.max_steps == 2000
    assert tokens_per_step(ours) == tokens_per_step(nanogpt) == 768


def n_parameters(config: RunConfig, n_symbols: int) -> int:
    return build_model(config.transformer_config(n_symbols)).n_parameters


def tokens_per_step(config: RunConfig) -> int:
    return config.training.batch_size * config.model.context_length


def test_the_command_line_overrides_an_experiment(compose: Compose) -> None:
    config = compose("experiment=nanogpt_shakespeare_char", "training.max_steps=7", "optimizer=adam", "tokenizer=gpt2")
    assert (config.training.max_steps, config.optimizer.name, config.tokenizer.name) == (7, "adam", "gpt2")


def test_a_large_model_brings_its_recipe_which_the_command_line_overrides(compose: Compose) -> None:
    assert compose("model=gpt2_small").training.micro_batch_size == 8
    assert compose("model=gpt2_small", "training.micro_batch_size=4").training.micro_batch_size == 4


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("group", ["optimizer", "schedule"])
def test_every_model_trains_with_every_optimizer_and_schedule(model: Path, group: str, compose: Compose) -> None:
    for path in (CONF / group).glob("*.yaml"):
        check_config(compose("=".join(model.parts), *ALSO_NEEDED.get(model, []), f"{group}={path.stem}"))


@pytest.mark.parametrize("conditioning", ["hidden_cache", "cross_attention"])
def test_the_encoder_decoder_accepts_either_conditioning(conditioning: str, compose: Compose) -> None:
    config = compose("model=encoder_decoder_small", "objective=prefix_lm", f"conditioning={conditioning}")
    check_config(config)
    assert config.transformer_config(65).conditioning == conditioning


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("encoder", ["objective=masked_lm"]),
        ("encoder_decoder", ["objective=prefix_lm", "conditioning=cross_attention"]),
    ],
)
@pytest.mark.parametrize("model", ["debug", "gpt2_small"])
def test_every_size_exists_in_every_family(model: str, family: str, more: list[str], compose: Compose) -> None:
    config = compose(f"model={model}", f"model.family={family}", *more)
    check_config(config)
    assert config.transformer_config(65).family == family


def test_the_plain_config_survives_yaml() -> None:
    config = config_of({"optimizer.eps": 1e-15, "optimizer.learning_rate": 1e22, "name": "1e3"})
    again = RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump())))
    assert again == config


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config_of({}).training.max_steps = 3  # type: ignore[misc]


def test_a_run_is_named_after_its_data_and_model_unless_it_has_a_name() -> None:
    assert config_of({}).run_name == "tiny_shakespeare-small"
    assert config_of({"name": "mine"}).run_name == "mine"


@pytest.mark.parametrize("section", [key for key, value in VALID.items() if isinstance(value, dict)])
def test_every_section_refuses_an_unknown_key(section: str) -> None:
    (key,) = keys_of_errors(changed({f"{section}.stranger": 1}))
    assert key.startswith(section)
    assert key.endswith(".stranger")


@pytest.mark.parametrize("section", sorted(VALID))
def test_every_key_is_required(section: str) -> None:
    assert keys_of_errors({key: value for key, value in VALID.items() if key != section}) == [section]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "1"),
        ("seed", 1.0),
        ("seed", True),
        ("deterministic", 1),
        ("deterministic", "true"),
        ("model.n_layers", 2.0),
        ("model.bias", 0),
        ("optimizer.learning_rate", "0.1"),
        ("optimizer.learning_rate", None),
        ("optimizer.betas", 0.9),
        ("data.path", 3),
        ("callbacks.samples.prompt", None),
        ("model.qk_norm", "false"),
        ("model.activation", None),
        ("conditioning", False),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_not_converted(key: str, value: object) -> None:
    (wrong,) = keys_of_errors(changed({key: value}))
    assert wrong.startswith(key.partition(".")[0])
    assert wrong.endswith(key.rpartition(".")[2])


@pytest.mark.parametrize("key", ["optimizer.learning_rate", "optimizer.weight_decay", "model.dropout"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_must_be_finite(key: str, value: float) -> None:
    assert len(keys_of_errors(changed({key: value}))) == 1


BELOW_ONE = st.integers(max_value=0)
NEGATIVE = st.floats(max_value=0, exclude_max=True, allow_infinity=False)
NOT_POSITIVE = st.floats(max_value=0, allow_infinity=False)
NOT_A_FRACTION = NEGATIVE | st.floats(min_value=1, allow_infinity=False)

OUT_OF_RANGE = {
    "seed": st.integers(max_value=-1) | st.integers(min_value=2**32),
    "optimizer.learning_rate": NOT_POSITIVE,
    "optimizer.eps": NOT_POSITIVE,
    "optimizer.weight_decay": NEGATIVE,
    "optimizer.betas": st.tuples(NOT_A_FRACTION, st.just(0.9)).map(list) | st.just([0.9]) | st.just([0.1, 0.2, 0.3]),
    "schedule.warmup_steps": st.integers(max_value=-1),
    "schedule.min_learning_rate": NEGATIVE,
    "training.max_steps": BELOW_ONE,
    "training.batch_size": BELOW_ONE,
    "training.micro_batch_size": BELOW_ONE,
    "training.gradient_clip_norm": NOT_POSITIVE,
    "training.validate_every_steps": BELOW_ONE,
    "training.log_every_steps": BELOW_ONE,
    "training.checkpoint_every_steps": BELOW_ONE,
    "trainer.devices": BELOW_ONE,
    "callbacks.samples.max_new_tokens": st.integers(max_value=-1),
    "callbacks.samples.temperature": NEGATIVE,
    "callbacks.samples.top_k": BELOW_ONE,
    "callbacks.checkpoint.keep_every_steps": BELOW_ONE,
    "callbacks.checkpoint.keep_every_epochs": BELOW_ONE,
}


@pytest.mark.parametrize("key", OUT_OF_RANGE)
@given(data=st.data())
def test_a_number_outside_its_range_is_refused(key: str, data: st.DataObject) -> None:
    (wrong,) = keys_of_errors(changed({key: data.draw(OUT_OF_RANGE[key])}))
    assert key.rpartition(".")[2] in wrong


NOAM = {"name": "noam", "warmup_steps": 5, "scale": 1.0}
WSD = {"name": "wsd", "warmup_steps": 5, "decay_share": 0.4, "min_learning_rate": 0.0}
MUON = {
    "name": "muon",
    "learning_rate": 0.01,
    "adamw_learning_rate": None,
    "momentum": 0.95,
    "nesterov": True,
    "split_fused": False,
    "weight_decay": 0.1,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
}


@pytest.mark.parametrize(
    ("section", "values", "key", "value"),
    [
        ("schedule", NOAM, "warmup_steps", 0),
        ("schedule", NOAM, "scale", 0.0),
        ("schedule", NOAM, "scale", -1.0),
        ("schedule", NOAM, "scale", float("inf")),
        ("schedule", NOAM, "min_learning_rate", None),
        ("schedule", WSD, "warmup_steps", -1),
        ("schedule", WSD, "decay_share", 0.0),
        ("schedule", WSD, "decay_share", 1.1),
        ("schedule", WSD, "min_learning_rate", None),
        ("optimizer", MUON, "learning_rate", 0.0),
        ("optimizer", MUON, "adamw_learning_rate", 0.0),
        ("optimizer", MUON, "momentum", 1.0),
        ("optimizer", MUON, "weight_decay", -0.1),
        ("optimizer", MUON, "betas", [0.9]),
        ("optimizer", MUON, "eps", 0.0),
        ("optimizer", MUON, "ns_steps", 5),
    ],
)
def test_schedules_and_muon_refuse_invalid_values(
    section: str, values: dict[str, Any], key: str, value: object
) -> None:
    config_of({section: values})
    (wrong,) = keys_of_errors(changed({section: {**values, key: value}}))
    assert wrong == f"{section}.{values['name']}.{key}"


@pytest.mark.parametrize(
    ("values", "key", "value"),
    [
        (MASKED_LM, "mask_fraction", 0.0),
        (MASKED_LM, "mask_fraction", 1.1),
        (MASKED_LM, "mask_fraction", float("nan")),
        (MASKED_LM, "mask_share", -0.1),
        (MASKED_LM, "mask_share", 1.1),
        (MASKED_LM, "random_share", -0.1),
        (MASKED_LM, "random_share", 1.1),
        (MASKED_LM, "min_prefix_length", 1),
        (PREFIX_LM, "min_prefix_length", 0),
        (PREFIX_LM, "min_prefix_length", None),
        (PREFIX_LM, "max_prefix_length", 0),
        (PREFIX_LM, "max_prefix_length", 2.0),
        (PREFIX_LM, "mask_fraction", 0.15),
    ],
)
def test_objectives_refuse_invalid_values(values: dict[str, Any], key: str, value: object) -> None:
    config_of({"objective": values})
    (wrong,) = keys_of_errors(changed({"objective": {**values, key: value}}))
    assert wrong == f"objective.{values['name']}.{key}"


@pytest.mark.parametrize("key", ["family", "norm_position", "norm", "activation", "init"])
def test_a_choice_of_the_model_must_be_in_its_list(key: str) -> None:
    assert keys_of_errors(changed({f"model.{key}": "unheard_of"})) == [f"model.{key}"]


@pytest.mark.parametrize("size", [None, 4, 8192])
def test_the_size_of_a_word_vocabulary_may_be_null(size: int | None) -> None:
    config = config_of({"tokenizer": {"name": "word", "max_vocab_size": size}})
    assert config.model_dump()["tokenizer"] == {"name": "word", "max_vocab_size": size}


@pytest.mark.parametrize("size", [3, 0, -1, 8192.0, "8192", True])
def test_an_invalid_size_of_a_word_vocabulary_is_refused(size: object) -> None:
    wrong = keys_of_errors(changed({"tokenizer": {"name": "word", "max_vocab_size": size}}))
    assert wrong == ["tokenizer.word.max_vocab_size"]


def test_only_a_word_vocabulary_has_a_size() -> None:
    assert keys_of_errors(changed({"tokenizer.max_vocab_size": 5})) == ["tokenizer.char.max_vocab_size"]


@given(
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    beta=st.floats(min_value=0, max_value=1, exclude_max=True),
    steps=st.integers(1, 2**31 - 1),
)
def test_every_number_in_its_range_is_accepted_unchanged(
    seed: int, learning_rate: float, beta: float, steps: int
) -> None:
    config = config_of(
        {
            "seed": seed,
            "optimizer.learning_rate": learning_rate,
            "optimizer.betas": [beta, beta],
            "training.max_steps": steps,
        }
    )
    assert (config.seed, config.optimizer.learning_rate, config.training.max_steps) == (seed, learning_rate, steps)
    assert config.model_dump()["optimizer"]["betas"] == [beta, beta]


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a b", "-m", "a" * 101, "a\nb"])
def test_a_run_name_cannot_be_a_path(name: str) -> None:
    assert keys_of_errors(changed({"name": name})) == ["name"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"training.micro_batch_size": 5},
            ("training.batch_size=12", "training.micro_batch_size=5", "try training.micro_batch_size=4"),
        ),
        ({"training.micro_batch_size": 24}, ("training.batch_size=12", "training.micro_batch_size=24", "size=12")),
        (
            {"schedule.min_learning_rate": 0.02},
            ("schedule.min_learning_rate=0.02", "optimizer.learning_rate=0.01"),
        ),
        ({"schedule.warmup_steps": 20}, ("schedule.warmup_steps=20", "training.max_steps=20")),
        ({"schedule": {**WSD, "warmup_steps": 13}}, ("schedule.warmup_steps=13", "at most the 12 steps")),
        ({"schedule": {**WSD, "min_learning_rate": 0.02}}, ("schedule.min_learning_rate=0.02", "lower it")),
        ({"trainer.devices": 5}, ("training.batch_size=12", "trainer.devices=5", "try training.batch_size=15")),
        (
            {"trainer.devices": 2, "trainer.num_nodes": 4},
            ("8 processes", "trainer.devices=2 and trainer.num_nodes=4", "try training.batch_size=16"),
        ),
        (
            {"trainer.devices": 2, "training.micro_batch_size": 4},
            ("training.batch_size=12 over 2 processes, 6 sequences each", "training.micro_batch_size=4", "size=3"),
        ),
        ({"trainer.devices": 2, "trainer.accelerator": "mps"}, ("trainer.devices=2", "trainer.devices=1")),
        (
            {"trainer.strategy": "fsdp", "trainer.accelerator": "mps"},
            ("trainer.strategy=fsdp", "Apple", "trainer=fsdp_cpu"),
        ),
        (
            {"trainer.strategy": "fsdp", "trainer.accelerator": "gpu", "trainer.precision": "16-mixed"},
            ("trainer.precision=16-mixed", "trainer.strategy=fsdp", "bf16-mixed"),
        ),
        ({"data.name": "text_file"}, ("data.path=null", "data=text_file")),
        ({"data.path": "my.txt"}, ("data.path=my.txt", "data=tiny_shakespeare")),
        ({"data": mixture_of({})}, ("data.parts={}", "data=mixture needs corpora")),
        ({"data": mixture_of({"a": part("text_file")})}, ("data.parts.a.path=null must be a file",)),
        ({"data": mixture_of({"a": part("tiny_shakespeare", path="x")})}, ("data.parts.a.path=x has no effect",)),
        ({"model.d_model": 5}, ("model.d_model=5", "model.n_heads=2", "model.d_model=4")),
        (
            {"positional_encoding.name": "sinusoidal", "model.d_model": 5, "model.n_heads": 1},
            ("model.d_model=5", "positional_encoding=sinusoidal", "model.d_model=6"),
        ),
        ({"positional_encoding": {"name": "sinusoidal", "base": 1.0}}, ("positional_encoding.base=1.0",)),
        ({"model.dropout": 1.0}, ("model.dropout=1.0",)),
        ({"model.n_layers": 0}, ("model.n_layers=0",)),
        ({"model.context_length": 0}, ("model.context_length=0",)),
        ({"model.d_ff": 0}, ("model.d_ff=0",)),
        ({"model.vocab_size": -1}, ("model.vocab_size=-1",)),
        ({"model.family": "encoder"}, ("objective=causal_lm", "model=small", "encoder", "objective=masked_lm")),
        (
            {"model.family": "encoder_decoder", "conditioning": "hidden_cache"},
            ("objective=causal_lm", "model=small", "encoder_decoder", "objective=prefix_lm"),
        ),
        ({"objective": MASKED_LM}, ("objective=masked_lm", "model=small", "decoder", "objective=causal_lm")),
        ({"objective": PREFIX_LM}, ("objective=prefix_lm", "model=small", "decoder", "objective=causal_lm")),
        (ENCODER | {"objective": PREFIX_LM}, ("objective=prefix_lm", "family encoder;", "objective=masked_lm")),
        (ENCODER_DECODER | {"objective": MASKED_LM}, ("objective=masked_lm", "objective=prefix_lm")),
        ({"conditioning": "hidden_cache"}, ("conditioning=hidden_cache", "model.family=decoder", "leave it out")),
        (ENCODER | {"conditioning": "cross_attention"}, ("conditioning=cross_attention", "model.family=encoder")),
        (ENCODER_DECODER | {"conditioning": None}, ("conditioning=null", "hidden_cache or cross_attention")),
        (
            ENCODER | {"objective": {**MASKED_LM, "mask_share": 0.9, "random_share": 0.2}},
            ("objective.mask_share=0.9", "objective.random_share=0.2", "not add up to more than 1", "0.8 and 0.1"),
        ),
        (
            ENCODER_DECODER | {"objective": {**PREFIX_LM, "max_prefix_length": 9}},
            ("objective.max_prefix_length=9", "model.context_length=8", "null sets it to that"),
        ),
        (
            ENCODER_DECODER | {"objective": {**PREFIX_LM, "min_prefix_length": 9}},
            ("objective.min_prefix_length=9", "8 tokens", "lower it"),
        ),
        (
            ENCODER_DECODER | {"objective": {**PREFIX_LM, "min_prefix_length": 5, "max_prefix_length": 4}},
            ("objective.min_prefix_length=5", "4 tokens", "lower it"),
        ),
    ],
    ids=str,
)
def test_values_that_contradict_each_other_are_named_in_one_line(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(config_of(changes))
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.micro_batch_size": 4},
        {"training.micro_batch_size": 12},
        {"schedule.min_learning_rate": 0.01},
        {"schedule": {**WSD, "warmup_steps": 2, "decay_share": 0.9}},  # 20 x (1 - 0.9) is less than 2 in floats
        {"schedule.min_learning_rate": None, "optimizer.learning_rate": 1e-9},
        {"schedule.warmup_steps": 19},
        # The constant schedule may end during its warm-up, and has no lowest rate.
        {"schedule": {"name": "constant", "warmup_steps": 100}},
        {"schedule": {"name": "noam", "warmup_steps": 4000, "scale": 1.0}},
        {"data": {"name": "text_file", "path": "my.txt", "window_order": "shuffled", "mask_documents": False}},
        {"model.d_model": 5, "model.n_heads": 1},
        ENCODER,
        ENCODER | {"objective": {**MASKED_LM, "mask_fraction": 1.0, "mask_share": 1.0, "random_share": 0.0}},
        ENCODER_DECODER,
        ENCODER_DECODER | {"conditioning": "cross_attention"},
        ENCODER_DECODER | {"objective": {**PREFIX_LM, "min_prefix_length": 8, "max_prefix_length": 8}},
    ],
    ids=str,
)
def test_values_that_fit_together_pass(changes: dict[str, Any]) -> None:
    config = config_of(changes)
    check_config(config)
    assert config == config_of(changes)


def test_the_name_selects_the_schedule() -> None:
    assert isinstance(config_of({}).schedule, CosineScheduleConfig)
    wrong = keys_of_errors(changed({"schedule.name": "constant"}))
    assert wrong == ["schedule.constant.min_learning_rate"]


@pytest.mark.parametrize(("given_size", "filled"), [(None, 65), (65, 65), (100, 100), (128, 128)])
def test_the_tokenizer_decides_the_vocabulary_which_may_be_padded_to_128(given_size: int | None, filled: int) -> None:
    config = config_of({"model.vocab_size": given_size})
    assert with_vocab_size(config, 65) == config_of({"model.vocab_size": filled})


@pytest.mark.parametrize(("given_size", "filled"), [(None, 66), (66, 66), (128, 128)])
def test_the_vocabulary_of_an_encoder_has_one_more_symbol_for_the_mask(given_size: int | None, filled: int) -> None:
    config = config_of(ENCODER | {"model.vocab_size": given_size})
    assert with_vocab_size(config, 65).model.vocab_size == filled
    with pytest.raises(
        ConfigError, match=r"^model\.vocab_size=65 .*tokenizer=char .*66 symbols, including the mask; .*128"
    ):
        with_vocab_size(config_of(ENCODER | {"model.vocab_size": 65}), 65)


def test_an_encoder_decoder_needs_no_extra_symbol() -> None:
    assert with_vocab_size(config_of(ENCODER_DECODER), 65).model.vocab_size == 65


def test_the_longest_prefix_is_the_context_unless_it_is_given() -> None:
    assert PrefixLMConfig(**PREFIX_LM).prefix_lengths(8) == (1, 8)
    assert PrefixLMConfig(**PREFIX_LM | {"min_prefix_length": 2, "max_prefix_length": 5}).prefix_lengths(8) == (2, 5)


def test_a_vocabulary_of_a_multiple_of_128_is_not_padded_further() -> None:
    assert with_vocab_size(config_of({"model.vocab_size": 128}), 128).model.vocab_size == 128
    with pytest.raises(ConfigError, match="at most 128"):
        with_vocab_size(config_of({"model.vocab_size": 129}), 128)


@pytest.mark.parametrize("size", [0, 1, 64, 129, 50_304])
def test_a_vocabulary_that_does_not_match_the_tokenizer_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.vocab_size={size} .*tokenizer=char .*65 .*128"):
        with_vocab_size(config_of({"model.vocab_size": size}), 65)


@pytest.mark.parametrize(("n_train", "n_val", "split"), [(8, 100, "train"), (100, 8, "val"), (100, 0, "val")])
def test_a_split_shorter_than_a_window_is_refused(n_train: int, n_val: int, split: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^model\.context_length=8 .* {split} split of {min(n_train, n_val)} tokens"
    ):
        check_split_lengths(config_of({}), n_train, n_val)


def test_a_split_of_one_window_is_enough() -> None:
    check_split_lengths(config_of({}), 9, 9)
    with pytest.raises(ConfigError, match="use at most 7"):
        check_split_lengths(config_of({}), 9, 8)


def test_the_prefix_counts_as_part_of_a_window() -> None:
    config = config_of(ENCODER_DECODER | {"objective": {**PREFIX_LM, "max_prefix_length": 5}})
    check_split_lengths(config, 13, 13)
    with pytest.raises(
        ConfigError,
        match=r"^model\.context_length=8 .* takes 13 tokens: use at most 7",
    ):
        check_split_lengths(config, 13, 12)


def test_masked_lines_fit_into_any_split() -> None:
    check_split_lengths(config_of(ENCODER), 3, 1)
