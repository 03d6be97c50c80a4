"""Optional callbacks and loggers: any class of Lightning's or the user's, which a file of conf/ names.

conf/callbacks/early_stopping.yaml holds `_target_`, the class, and its arguments. Only such a file of this checkout may
name a class. The config, and so a run folder or a checkpoint, holds the name of the file and the arguments.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from folio.cli.config_files import option_names, read_keys
from folio.cli.other_names import ADVICE
from folio.config.callbacks import CallbacksConfig
from folio.config.run import RunConfig
from folio.config.section import PLUGIN_GROUPS, TARGET, ConfigError
from folio.runtime.terminal import did_you_mean


def complete_options(cfg: DictConfig, conf: Path) -> None:
    """Give each option of the composed config the arguments of its file.

    `callbacks.ema.decay=0.99` alone chooses conf/callbacks/ema.yaml, whose other arguments Hydra has not read then.
    """
    for group in PLUGIN_GROUPS:
        options = cfg.get(group)
        for name in list(_option_names(options)):
            given, file = options[name], option_file(conf, group, name)
            if isinstance(given, DictConfig) and TARGET not in given:
                with open_dict(cfg):
                    options[name] = OmegaConf.merge(_content(file), given)


def without_targets(values: dict[str, Any], conf: Path) -> dict[str, Any]:
    """Return composed values that name no class. Raises: ConfigError if one is not named by the file of its option."""
    for group in PLUGIN_GROUPS:
        options = values.get(group, {})
        for name in list(_option_names(options)):
            arguments, target = options[name], find_target(conf, group, name)
            if not isinstance(arguments, dict):
                raise ConfigError(
                    f"{group}.{name}={arguments} must hold the arguments of {target}; set them one by one, or leave it "
                    f"out with {group}.{name}=null"
                )
            if arguments.pop(TARGET, target) != target:
                raise ConfigError(
                    f"{group}.{name}.{TARGET}: only a file may name a class; write it in a new file of conf/{group}/"
                )
            if key := _nested_target(arguments):
                raise ConfigError(f"{group}.{name}.{key}: an argument cannot name a class; create it in your own class")
    return values


def plugin_targets(config: RunConfig, conf: Path) -> dict[str, str]:
    """Return the class of each optional callback and logger of a run, by the dotted key of its option.

    Raises: ConfigError if this checkout lacks one, as when a run comes from another.
    """
    targets = {}
    for group, options in (("callbacks", config.callbacks.options), ("logger", config.logger)):
        for name, arguments in options.items():
            targets[f"{group}.{name}"] = find_target(conf, group, name)
            if key := _nested_target(arguments):
                raise ConfigError(f"{group}.{name}.{key}: a run cannot name a class; remove it from config.yaml")
    return targets


def find_target(conf: Path, group: str, name: str) -> str:
    """Return the class that the file of an option names. Raises: ConfigError."""
    file = option_file(conf, group, name)
    target = _content(file).get(TARGET)
    if not isinstance(target, str):
        raise ConfigError(f"conf/{group}/{name}.yaml must name a class, as in `{TARGET}: my_package.MyClass`")
    return target


def option_file(conf: Path, group: str, name: str) -> Path:
    """Return the file of an option. Raises: ConfigError if this checkout has none."""
    file = conf / group / f"{name}.yaml"
    if not file.is_file():
        options = option_names(conf, group)
        raise ConfigError(
            f"{group}.{name}: this checkout has no conf/{group}/{name}.yaml; add it, or leave the option out with "
            f"{group}.{name}=null{f'; {ADVICE[name]}' if name in ADVICE else did_you_mean(name, options)}"
        )
    return file


def _option_names(options: Any) -> Iterator[str]:
    """Yield the names of the options of a group, without the sections that the schema declares."""
    if isinstance(options, Mapping | DictConfig):
        for name, value in options.items():
            if value is not None and name not in CallbacksConfig.model_fields:
                yield str(name)


def _content(file: Path) -> dict[str, Any]:
    """Return the class and the arguments in a file, which may repeat the name of the option above them."""
    content = read_keys(file)
    inner = content.get(file.stem)
    return inner if TARGET not in content and isinstance(inner, dict) else content


def _nested_target(value: Any) -> str | None:
    """Return the dotted key of a class that an argument names."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        if key == TARGET:
            return TARGET
        if found := _nested_target(inner):
            return f"{key}.{found}"
    return None
