"""Turn the config that Hydra composed into a checked `RunConfig`, and ask Hydra about the command it runs.

Only this package, the entry points and the sweeper import Hydra and OmegaConf. torch and lightning are not imported.
"""

import os
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from folio.cli.arguments import check_words
from folio.cli.config_files import install_reader, option_names, read_keys, relative
from folio.cli.debug import fit_schedule
from folio.cli.explain import explain_hydra_error, explain_validation_error
from folio.cli.init_from import apply_init_from, explicit_keys
from folio.cli.paths import expand_paths
from folio.cli.plugins import complete_options, without_targets
from folio.config.checks import check_config
from folio.config.migrations import read_stored_config
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runtime.terminal import did_you_mean

REPEATED = "repeated"
"""The place in the defaults list of conf/train.yaml for the run that `folio.cli.repeat` puts into Hydra's store."""

# Without it, Hydra prints errors itself, in several lines, instead of letting one_line_errors see them.
os.environ["HYDRA_FULL_ERROR"] = "1"
install_reader()


@contextmanager
def composed(overrides: Sequence[str], conf: Path) -> Iterator[DictConfig]:
    """Compose conf/train.yaml as `hydra.main` does, and let `load_config` and the other functions here ask about it.

    A program may use Hydra itself, even in a function of its own `hydra.main`: its state is put back at the end.
    """
    hydra, version = GlobalHydra.instance(), VersionBase.instance()
    before = hydra.hydra, HydraConfig.instance().cfg, version.version_base
    hydra.clear()
    try:
        initialize_config_dir(str(conf), job_name="train", version_base="1.3")
        cfg = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg
    finally:
        hydra.hydra, HydraConfig.instance().cfg, version.version_base = before


def load_config(cfg: DictConfig, log: Callable[[str], None] = print, *, only_prepares: bool = False) -> RunConfig:
    """Return the typed config of a composed one, checked as far as possible without the data. Raises: ConfigError."""
    complete_options(cfg, conf_dir())
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_hydra_error(error)) from None
    assert isinstance(values, dict)
    overrides = task_overrides()
    check_words(overrides, conf_dir())  # start() has checked those that were typed; a sweep makes others of them
    values = without_targets(expand_paths(typing.cast(dict[str, Any], values)), conf_dir())
    config = validate(drop_replaced_keys(values, overrides, log))
    _check_positional_encoding(config.positional_encoding.name)
    if not is_sweep():
        for key, value in (("sweep", config.sweep), ("hparams_search", config.hparams_search)):
            if value is not None:
                raise ConfigError(f"{key} is for a sweep of many runs; add -m, as in python train.py -m {key}=...")
    if config.part is not None and not only_prepares:
        raise ConfigError(f"part={config.part} prepares a part of a corpus; write python scripts/prepare_data.py ...")
    if config.repeat is not None and REPEATED not in ConfigStore.instance().repo:
        raise ConfigError(f"repeat={config.repeat} is for the command line; remove it from the file that has it")
    if config.resume is None:  # otherwise load_resumed_config takes the run's own config
        if config.init_from is not None:
            config = apply_init_from(config, explicit_keys(overrides, conf_dir()), log)
        config = fit_schedule(config, any(word.startswith("schedule") for word in overrides), log)
        check_config(config)
    return config


def validate(values: dict[str, Any], files: dict[str, Path] | None = None) -> RunConfig:
    """Return the typed config of plain values, composed or read from a run folder. Raises: ConfigError.

    `files` are those that the values are from, by group; those that Hydra composed if not given.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        files = composed_files() if files is None else files
        raise ConfigError(explain_validation_error(error, values, files)) from None


def validate_stored(values: dict[str, Any]) -> RunConfig:
    """Return the config of a run whose model is to be used; options of training may be unknown. Raises: ConfigError."""
    try:
        return read_stored_config(values)[0]
    except ValidationError as error:
        raise ConfigError(explain_validation_error(error, values, {})) from None


def drop_replaced_keys(values: dict[str, Any], overrides: Sequence[str], log: Callable[[str], None]) -> dict[str, Any]:
    """Return the values without the keys that a recipe sets for an option that the command line replaced.

    `experiment=nanogpt_shakespeare_char schedule=noam` is that recipe with noam, which has no min_learning_rate. Only
    keys that another option of the group has are dropped, and `log` is told; a misspelt key stays, to be refused.
    """
    typed = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    for group, option in typed:
        files = {path.stem: path for path in (conf_dir() / group).glob("*.yaml")}
        if group not in ("optimizer", "schedule") or option not in files:
            continue
        keys = {name: set(read_keys(path)) for name, path in files.items()}
        of_other_options = set(values[group]) & set().union(*keys.values()) - keys[option]
        dropped = sorted(key for key in of_other_options if f"{group}.{key}" not in dict(typed))
        if dropped:
            log(f"{group}={option} has no {', '.join(dropped)}: the recipe's value for another {group} is ignored")
            values = values | {group: {key: value for key, value in values[group].items() if key not in dropped}}
    return values


def _check_positional_encoding(name: str) -> None:
    """Raises: ConfigError if conf/positional_encoding or the code lacks this name; the schema allows any."""
    options = option_names(conf_dir(), "positional_encoding")
    if name not in options:
        raise ConfigError(
            f"positional_encoding.name={name} is not one of {', '.join(options)}{did_you_mean(name, options)}"
        )
    # Its table of classes would load torch. A name that its source does not hold in quotes is not in it.
    code = find_spec("folio.models.positional")
    assert code is not None
    assert code.origin is not None
    if f'"{name}"' not in Path(code.origin).read_text(encoding="utf-8"):
        raise ConfigError(
            f"positional_encoding={name}: conf/positional_encoding/{name}.yaml has no class in POSITIONAL_ENCODINGS of "
            f"{relative(code.origin)}; add it there"
        )


def conf_dir() -> Path:
    """Return the folder of the YAML files, which is beside the entry point that Hydra runs."""
    sources = HydraConfig.get().runtime.config_sources
    return Path(next(source.path for source in sources if source.provider == "main"))


def composed_files() -> dict[str, Path]:
    """Return the YAML file of each group that Hydra composed; empty if it composed none, as in a script."""
    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    files = {str(group): conf_dir() / f"{group}/{option}.yaml" for group, option in choices.items() if option}
    return {"": conf_dir() / "train.yaml"} | files


def task_overrides() -> list[str]:
    """Return the overrides of the run's own config as they were typed, in the order of the command line."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(words, list)
    return words


def is_sweep() -> bool:
    """Return whether the command line has -m."""
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def job_folder() -> Path | None:
    """Return the folder that a sweep assigned to this job; None for a single run, which creates its own."""
    if not is_sweep():
        return None
    runtime = OmegaConf.to_container(HydraConfig.get().runtime, resolve=False)  # a folder may be called ${x}
    assert isinstance(runtime, dict)
    return Path(os.path.relpath(runtime["output_dir"]))  # as short as the folders of single runs
