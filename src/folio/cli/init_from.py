"""init_from: start a run with the weights of Hugging Face's GPT-2. Needs no torch, except for old .bin files.

The folder decides the model's size, vocabulary, biases, weight tying and activation; model.context_length may crop it.
Everything else comes from the config. A value that the user chose is never silently replaced: it must agree with the
folder, or the run is refused.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from folio.cli.config_files import read_keys
from folio.config.model import ModelConfig
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.models import TransformerConfig
from folio.models.gpt2_format import GPT2_ARCHITECTURE, GPT2FormatError, check_gpt2_folder

FOLDER_KEYS = (
    "vocab_size",
    "n_layers",
    "n_heads",
    "d_model",
    "d_ff",
    "bias",
    "attention_bias",
    "tie_weights",
    "activation",
)
"""Keys of the model section that the folder decides."""


def apply_init_from(config: RunConfig, explicit: dict[str, str], log: Callable[[str], None]) -> RunConfig:
    """Return the config with the folder's model in place of its own, and describe that model in one line to `log`.

    `explicit` is the result of `explicit_model_keys`. Raises: ConfigError.
    """
    assert config.init_from is not None
    if not config.init_from:  # as in a recipe, which cannot know the folder
        raise ConfigError("init_from must be given: add init_from=<a folder of Hugging Face's GPT-2>")
    init_from = f"init_from={config.init_from}"
    try:
        folder = check_gpt2_folder(Path(config.init_from))
    except GPT2FormatError as error:
        raise ConfigError(f"{init_from}: {error}") from None
    _check_kind(config)
    for key in FOLDER_KEYS:
        if key in explicit and not _agrees(config.model, folder, key):
            raise ConfigError(
                f"{_as_typed(config, key, explicit)} contradicts {init_from}, which has "
                f"{_yaml(_value_in(folder, key))}; leave it out, the folder decides"
            )
    context_length = min(config.model.context_length, folder.context_length)
    if context_length < config.model.context_length and "context_length" in explicit:
        raise ConfigError(
            f"{_as_typed(config, 'context_length', explicit)} is longer than the {folder.context_length} positions of "
            f"{init_from}; use at most model.context_length={folder.context_length}"
        )
    log(
        f"{init_from}: {folder.n_layers} layers, {folder.n_heads} heads, d_model {folder.d_model}, "
        f"{folder.vocab_size:,} symbols; context {context_length:,} of {folder.context_length:,} positions "
        f"(model.context_length), dropout {config.model.dropout:g} (model.dropout)"
    )
    values = {key: getattr(folder, key) for key in FOLDER_KEYS}
    values |= dict.fromkeys(("final_norm", "scale_embedding"))  # checked: where they are given, they are GPT-2's
    values |= {"name": _model_name(Path(config.init_from)), "context_length": context_length}
    return config.model_copy(update={"model": config.model.model_copy(update=values)})


def _check_kind(config: RunConfig) -> None:
    """Raises: ConfigError for an architecture that GPT-2 does not have. Folio's defaults are GPT-2's."""
    kind = {f"model.{key}": value for key, value in GPT2_ARCHITECTURE.items() if key in ModelConfig.model_fields}
    kind |= {"model.init": "gpt2", "model.post_norm_dropout": "input"}
    kind |= {"positional_encoding.name": GPT2_ARCHITECTURE["positional_encoding"], "positional_encoding.init": "normal"}
    for key, gpt2_value in kind.items():
        section, _, field = key.partition(".")
        value = getattr(getattr(config, section), field)
        if value is not None and value != gpt2_value:
            raise ConfigError(
                f"{key.removesuffix('.name')}={_yaml(value)} does not fit init_from={config.init_from}: "
                f"GPT-2 has {_yaml(gpt2_value)}; leave it out"
            )


def _agrees(model: ModelConfig, folder: TransformerConfig, key: str) -> bool:
    if key == "d_ff":
        return (model.d_ff or 4 * model.d_model) == folder.feed_forward_width
    return getattr(model, key) is None or getattr(model, key) == _value_in(folder, key)


def _value_in(folder: TransformerConfig, key: str) -> object:
    return folder.attention_has_bias if key == "attention_bias" else getattr(folder, key)


def _as_typed(config: RunConfig, key: str, explicit: dict[str, str]) -> str:
    value = f"model.{key}={_yaml(getattr(config.model, key))}"
    return value if explicit[key].startswith("model.") else f"{value} of {explicit[key]}"


def _yaml(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _model_name(folder: Path) -> str:
    """Return a model name that fits into the names of run folders."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.")[:40] or "pretrained"


def explicit_model_keys(overrides: Iterable[str], conf_dir: Path) -> dict[str, str]:
    """Return the keys of the model section that the user chose, each with the override that sets it.

    An override sets a key itself, or by the model or the recipe that it names. The default model of train.yaml is not
    a choice of the user.
    """
    explicit: dict[str, str] = {}
    for override in overrides:
        key, _, option = override.lstrip("+~").partition("=")
        if key in ("model", "experiment"):
            explicit |= dict.fromkeys(_model_keys(conf_dir, key, option), override)
        elif key.startswith("model."):
            explicit[key.removeprefix("model.")] = override.lstrip("+~")
    return explicit


def _model_keys(conf_dir: Path, group: str, option: str) -> set[str]:
    """Return the keys of the model section that an option's file sets, directly or by its defaults list."""
    file = conf_dir / group / f"{option}.yaml"
    content = read_keys(file)
    keys = set(content.get("model", content if group == "model" else {}) or {})
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            keys |= _model_keys(conf_dir, group, entry)
        elif isinstance(entry, dict) and "override /model" in entry:
            keys |= _model_keys(conf_dir, "model", entry["override /model"])
    return keys
