"""init_from: start a run with the weights of a model folder. Needs no torch, except for old .bin files.

The folder decides the architecture: all of the model section but the keys in DECIDED_BY_RUN, and the positional
encoding. Its tokenizer is taken too, unless the user chose another one. Everything else comes from the config, and so
may a scaling of rotary positions that the folder's model was trained without. A value that the user chose is never
silently replaced: it must agree with the folder, or the run is refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from folio.cli.config_files import read_keys
from folio.config.model import OPTION_KEYS, RotaryScalingConfig
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.config.tokenizer import HuggingFaceTokenizerConfig, TokenizerConfig
from folio.models import TransformerConfig
from folio.models.formats.fields import FormatError, plain, resolved
from folio.models.formats.folder import check_folder
from folio.models.rotary_scaling import RotaryScaling

DECIDED_BY_RUN = {
    f"model.{key}" for key in ("name", "context_length", "dropout", "attention_dropout", "feed_forward_dropout")
}
"""The keys of SECTIONS that the folder does not decide."""

SECTIONS = ("model", "positional_encoding")
"""The sections that the folder decides."""
CHOSEN_SECTIONS = (*SECTIONS, "tokenizer")
"""The sections whose keys may be choices of the user."""


_OF_THE_HUB = "download its folder, as with huggingface-cli download, and write init_from=FOLDER"
OF_NANOGPT = {
    "scratch": "a run starts with new weights unless it is told otherwise; leave it out",
    "resume": "write resume=latest, or resume=<a run folder>",
    **dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), _OF_THE_HUB),
}
"""Values of nanoGPT's `init_from`, and what to write here."""


def apply_init_from(config: RunConfig, explicit: Mapping[str, str], log: Callable[[str], None]) -> RunConfig:
    """Return the config with the folder's model in place of its own, and describe that model in one line to `log`.

    `explicit` is the result of `explicit_keys`. Raises: ConfigError.
    """
    assert config.init_from is not None
    if not config.init_from:  # as in a recipe, which cannot know the folder
        raise ConfigError("init_from must be given: add init_from=<a folder with config.json and model.safetensors>")
    if config.init_from in OF_NANOGPT and not Path(config.init_from).exists():
        raise ConfigError(f"init_from={config.init_from}: {OF_NANOGPT[config.init_from]}")
    init_from = f"init_from={config.init_from}"
    try:
        folder = check_folder(Path(config.init_from))
    except FormatError as error:
        raise ConfigError(f"{init_from}: {error}") from None
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for option, dotted in {"positional_encoding": "positional_encoding.name", **OPTION_KEYS}.items():
        section, _, key = dotted.partition(".")
        chosen = getattr(getattr(config, section), key)
        may_stretch = folder.positional_encoding == "rotary" and folder.rotary_scaling is None
        if dotted in DECIDED_BY_RUN or (option == "rotary_scaling" and may_stretch and dotted in explicit):
            continue
        if dotted in explicit and chosen is not None and not _equal(chosen, resolved(folder, option)):
            raise ConfigError(
                f"{_as_typed(dotted, chosen, explicit)} contradicts {init_from}, which has "
                f"{plain(resolved(folder, option))}; leave it out, the folder decides"
            )
        values[section][key] = getattr(folder, option)
    if folder.rotary_scaling is not None:
        values["positional_encoding"]["rotary_scaling"] = RotaryScalingConfig(**asdict(folder.rotary_scaling))
    context_length, tokenizer = _context_length(config, folder, explicit), _tokenizer(config, explicit)
    log(
        f"{init_from}: {folder.n_layers} layers, {folder.n_heads} heads, d_model {folder.d_model}, "
        f"{folder.vocab_size:,} symbols; context {context_length:,} of {folder.context_length:,} positions "
        f"(model.context_length), dropout {config.model.dropout:g} (model.dropout)"
        f"{'' if tokenizer is config.tokenizer else ', and its tokenizer'}"
    )
    values["model"] |= {"name": _model_name(Path(config.init_from)), "context_length": context_length}
    sections = {section: getattr(config, section).model_copy(update=values[section]) for section in SECTIONS}
    return config.model_copy(update={**sections, "tokenizer": tokenizer})


def _equal(chosen: object, stored: object) -> bool:
    """Compare an option with that of a model; a section with the values that it is made of."""
    if isinstance(chosen, RotaryScalingConfig):
        return isinstance(stored, RotaryScaling) and asdict(stored) == chosen.model_dump()
    return chosen == stored


def _context_length(config: RunConfig, folder: TransformerConfig, explicit: Mapping[str, str]) -> int:
    """Return the context of the run: the config's, or the folder's if that is shorter and the config's no choice."""
    chosen = config.model.context_length
    if "model.context_length" not in explicit:
        return min(chosen, folder.context_length)
    if folder.max_positions is not None and chosen > folder.max_positions:
        raise ConfigError(
            f"{_as_typed('model.context_length', chosen, explicit)} is longer than the {folder.max_positions} "
            f"positions of init_from={config.init_from}; use at most model.context_length={folder.max_positions}"
        )
    return chosen


def _tokenizer(config: RunConfig, explicit: Mapping[str, str]) -> TokenizerConfig:
    """Return the tokenizer of the run: the user's choice, or the folder's, or the default if the folder has none."""
    assert config.init_from is not None
    chosen = any(key.startswith("tokenizer.") for key in explicit)
    if chosen or not (Path(config.init_from) / "tokenizer.json").exists():
        return config.tokenizer
    return HuggingFaceTokenizerConfig(name="huggingface", path=config.init_from)


def _as_typed(key: str, value: object, explicit: Mapping[str, str]) -> str:
    """Return a key with its value, and the word that set it if that is another, such as a recipe."""
    value = value.name if isinstance(value, RotaryScalingConfig) else value
    word, shown = explicit[key], f"{key.removesuffix('.name')}={plain(value)}"
    return shown if word.startswith((f"{key}=", f"{shown}")) else f"{shown} of {word}"


def _model_name(folder: Path) -> str:
    """Return a model name that fits into the names of run folders."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.")[:40] or "pretrained"


def explicit_keys(overrides: Iterable[str], conf_dir: Path) -> dict[str, str]:
    """Return the keys of CHOSEN_SECTIONS that the user chose, each with the override that sets it.

    An override sets a key itself, or by the option or the recipe that it names. The default model of train.yaml is not
    a choice of the user.
    """
    explicit: dict[str, str] = {}
    for override in overrides:
        key, _, option = override.lstrip("+~").partition("=")
        if key in (*CHOSEN_SECTIONS, "experiment"):
            explicit |= dict.fromkeys(_keys_of_file(conf_dir, key, option), override)
        elif key.partition(".")[0] in CHOSEN_SECTIONS:
            explicit[key] = override.lstrip("+~")
    return explicit


def _keys_of_file(conf_dir: Path, group: str, option: str) -> set[str]:
    """Return the keys of CHOSEN_SECTIONS that an option's file sets, directly or by its defaults list."""
    content = read_keys(conf_dir / group / f"{option}.yaml")
    if group in CHOSEN_SECTIONS and group not in content:
        content = {group: content}  # a file that is not of the package _global_
    keys = {f"{section}.{key}" for section in CHOSEN_SECTIONS for key in content.get(section) or {}}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            keys |= _keys_of_file(conf_dir, group, entry)
        elif isinstance(entry, dict):
            for section in CHOSEN_SECTIONS:
                if f"override /{section}" in entry:
                    keys |= _keys_of_file(conf_dir, section, entry[f"override /{section}"])
    return keys
