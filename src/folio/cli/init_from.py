"""init_from: a run that begins with the weights of Hugging Face's GPT-2. Needs no torch but for old .bin files.

The folder decides size, vocabulary, biases, tying and activation; model.context_length may crop it, and everything
else is the config's. What somebody chose is never put aside in silence: it agrees with the folder or is refused.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from folio.config.model import ModelConfig
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.models import TransformerConfig
from folio.models.gpt2_folder import check_gpt2_folder
from folio.models.gpt2_format import GPT2_KIND, GPT2FormatError

FROM_FOLDER = ("vocab_size", "n_layers", "n_heads", "d_model", "d_ff", "bias", "tie_weights", "activation")


def apply_init_from(config: RunConfig, chosen: dict[str, str], say: Callable[[str], None]) -> RunConfig:
    """The config with the folder's model in place of its own; `say` gets one line of what it is.

    chosen: what `explicit_model_keys` found. Raises: ConfigError.
    """
    assert config.init_from is not None
    if not config.init_from:  # as in a recipe that cannot know the folder
        raise ConfigError("init_from must be given: add init_from=<a folder of Hugging Face's GPT-2>")
    begins = f"init_from={config.init_from}"
    try:
        folder = check_gpt2_folder(Path(config.init_from))
    except GPT2FormatError as error:
        raise ConfigError(f"{begins}: {error}") from None
    _check_kind(config)
    for key in FROM_FOLDER:
        if key in chosen and not _agrees(config.model, folder, key):
            raise ConfigError(
                f"{_as_typed(config, key, chosen)} contradicts {begins}, which has {_shown(getattr(folder, key))}; "
                "leave it out, the folder decides"
            )
    context_length = min(config.model.context_length, folder.context_length)
    if context_length < config.model.context_length and "context_length" in chosen:
        raise ConfigError(
            f"{_as_typed(config, 'context_length', chosen)} is longer than the {folder.context_length} positions of "
            f"{begins}; add model.context_length={folder.context_length}, or less"
        )
    say(
        f"{begins}: {folder.n_layers} layers, {folder.n_heads} heads, d_model {folder.d_model}, "
        f"{folder.vocab_size:,} symbols; context {context_length:,} of {folder.context_length:,} positions "
        f"(model.context_length), dropout {config.model.dropout:g} (model.dropout)"
    )
    values = {key: getattr(folder, key) for key in FROM_FOLDER}
    values |= {"name": _name_of(Path(config.init_from)), "context_length": context_length}
    return config.model_copy(update={"model": config.model.model_copy(update=values)})


def _check_kind(config: RunConfig) -> None:
    """Check what GPT-2 does not leave open, and Folio's defaults agree with: what differs was chosen."""
    kind = {f"model.{key}": value for key, value in GPT2_KIND.items() if key in ModelConfig.model_fields}
    kind |= {"model.init": "gpt2", "positional_encoding.name": GPT2_KIND["positional_encoding"]}
    for key, gpt2s in kind.items():
        section, _, field = key.partition(".")
        value = getattr(getattr(config, section), field)
        if value != gpt2s:
            raise ConfigError(
                f"{key.removesuffix('.name')}={_shown(value)} does not go with init_from={config.init_from}: "
                f"GPT-2 has {_shown(gpt2s)}; leave it out"
            )


def _agrees(model: ModelConfig, folder: TransformerConfig, key: str) -> bool:
    if key == "d_ff":
        return (model.d_ff or 4 * model.d_model) == folder.feed_forward_width
    return (key == "vocab_size" and model.vocab_size is None) or getattr(model, key) == getattr(folder, key)


def _as_typed(config: RunConfig, key: str, chosen: dict[str, str]) -> str:
    value = f"model.{key}={_shown(getattr(config.model, key))}"
    return value if chosen[key].startswith("model.") else f"{value} of {chosen[key]}"


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _name_of(folder: Path) -> str:
    """For the names of run folders."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.")[:40] or "pretrained"


def explicit_model_keys(overrides: Iterable[str], conf_dir: Path) -> dict[str, str]:
    """The keys of the model section that somebody chose, each with the override that says so.

    They stand on the command line, in the model named there, or in the recipe named there; the model of train.yaml's
    defaults is nobody's choice.
    """
    chosen: dict[str, str] = {}
    for override in overrides:
        key, _, option = override.lstrip("+~").partition("=")
        if key in ("model", "experiment"):
            chosen |= dict.fromkeys(_model_keys(conf_dir, key, option), override)
        elif key.startswith("model."):
            chosen[key.removeprefix("model.")] = override.lstrip("+~")
    return chosen


def _model_keys(conf_dir: Path, group: str, option: str) -> set[str]:
    """The keys of the model section that an option's file sets, or those that its defaults name."""
    file = conf_dir / group / f"{option}.yaml"
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    keys = set(content.get("model", content if group == "model" else {}))
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            keys |= _model_keys(conf_dir, group, entry)
        elif isinstance(entry, dict) and "override /model" in entry:
            keys |= _model_keys(conf_dir, "model", entry["override /model"])
    return keys
