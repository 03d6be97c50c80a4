"""What the command lines share: a Hydra config made into a checked `RunConfig`, and errors of one line.

Hydra and OmegaConf are imported here and in the entry points alone; torch and lightning are not.
"""

import os
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from folio.cli.explain import explain, explain_invalid
from folio.cli.init_from import apply_init_from, explicit_model_keys
from folio.config.checks import check_config
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runtime.terminal import did_you_mean

# Hydra would print errors in its own words and several lines; with this it lets them through to one_line_errors.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


def load_config(cfg: DictConfig, say: Callable[[str], None] = print) -> RunConfig:
    """Check a composed config against the schema and itself. Raises: ConfigError."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(values, dict)
    overrides = HydraConfig.get().overrides.task
    values = drop_replaced_keys(typing.cast(dict[str, Any], values), overrides, say)
    config = validate(values)
    check_choices(config)
    if not is_sweep():
        for key, value in (("sweep", config.sweep), ("hparams_search", config.hparams_search)):
            if value is not None:
                raise ConfigError(f"{key} is for a sweep of many runs; add -m, as in python train.py -m {key}=...")
    if config.resume is None:  # else the run's own config decides, in resumed_config
        if config.init_from is not None:
            config = apply_init_from(config, explicit_model_keys(overrides, conf_dir()), say)
        check_config(config)
    return config


def drop_replaced_keys(values: dict[str, Any], overrides: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """The values without those that a recipe has for an option that the command line replaced by one without them.

    `experiment=nanogpt_shakespeare_char schedule=noam` is that recipe with noam, which has no min_learning_rate.
    Only keys of the group's other options are left out, and `say` gets a line: what is misspelt stays, to be refused.
    """
    typed = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    for group, option in typed:
        files = {path.stem: path for path in (conf_dir() / group).glob("*.yaml")}
        if group not in ("optimizer", "schedule") or option not in files:
            continue
        keys = {name: set(yaml.safe_load(path.read_text(encoding="utf-8"))) for name, path in files.items()}
        strangers = set(values[group]) & set().union(*keys.values()) - keys[option]
        left_out = sorted(key for key in strangers if f"{group}.{key}" not in dict(typed))
        if left_out:
            say(f"{group}={option} has no {', '.join(left_out)}: what the recipe has for another {group} is left out")
            values = values | {group: {key: value for key, value in values[group].items() if key not in left_out}}
    return values


def validate(values: dict[str, Any]) -> RunConfig:
    """The typed config of plain values, as composed or as read from a run folder. Raises: ConfigError."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_invalid(error, values, composed_files())) from None


def check_choices(config: RunConfig) -> None:
    """Check names whose list is open: a positional encoding is whatever has a file in its config group.

    Hydra would merge the options of a list; no group here means more than one. Raises: ConfigError.
    """
    for override in HydraConfig.get().overrides.task:
        group, _, chosen = override.partition("=")
        if chosen.startswith("[") and (conf_dir() / group).is_dir():
            raise ConfigError(f"{override} names a list, and {group} has one option; write {group}=option")
    name = config.positional_encoding.name
    options = sorted(path.stem for path in (conf_dir() / "positional_encoding").glob("*.yaml"))
    if name not in options:
        raise ConfigError(
            f"positional_encoding.name={name} is not one of {', '.join(options)}{did_you_mean(name, options)}"
        )


def conf_dir() -> Path:
    """The folder of the YAML files: beside the entry point that Hydra runs."""
    sources = HydraConfig.get().runtime.config_sources
    return Path(next(source.path for source in sources if source.provider == "main"))


def composed_files() -> dict[str, Path]:
    """The YAML files that Hydra chose, by their group; empty where no command line was composed."""
    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    files = {str(group): conf_dir() / f"{group}/{option}.yaml" for group, option in choices.items() if option}
    return {"": conf_dir() / "train.yaml"} | files


def is_sweep() -> bool:
    """Whether the command line has -m."""
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def job_folder() -> Path | None:
    """The folder that a sweep gives this job; None outside a sweep, where the run makes its own."""
    if not is_sweep():
        return None
    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))  # as short as the folders of single runs


def task_overrides() -> list[str]:
    """What was typed of this run's own config, in the order of typing."""
    return list(HydraConfig.get().overrides.task)
