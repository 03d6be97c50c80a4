"""Import the classes of optional callbacks and loggers, check their arguments, and create them."""

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.prepared import PreparedData
from folio.runtime.terminal import did_you_mean
from folio.runtime.untrusted import shown
from folio.training.callbacks.monitored import check_monitored
from folio.training.callbacks.unsuitable import check_combination, check_suitable
from folio.training.loggers.base import RunLogger
from folio.training.loggers.guard import GuardedLogger, warn_of_failure
from folio.training.loggers.lightning import LightningLogger

SAVE_DIR = "save_dir"
"""The argument of Lightning's loggers that is the run folder unless it is given."""

IN_EXTRA = ("wandb", "mlflow", "sqlalchemy", "alembic", "psutil")
"""Packages of the extra `loggers`, which is installed with pip install '.[loggers]'."""

_COLLECTING = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def check_plugins(config: RunConfig, targets: Mapping[str, str], data: PreparedData | None = None) -> None:
    """Check the optional callbacks and loggers of a run before it begins.

    Args:
        targets: the class of each, by the dotted key of its option.
        data: the prepared text, by which it is known what metrics a run will have.

    Raises: ConfigError.
    """
    callbacks = build_callbacks(config, targets, Path())
    if data is not None:
        keys = (f"callbacks.{name}" for name in config.callbacks.options)
        check_monitored(config, dict(zip(keys, callbacks, strict=True)), data)
    for name, arguments in config.logger.items():  # not created: a logger may write files, or connect to a server
        load_class(f"logger.{name}", targets[f"logger.{name}"], arguments, Logger)


def build_callbacks(config: RunConfig, targets: Mapping[str, str], folder: Path) -> list[Callback]:
    """Return the optional callbacks of a run, in the order in which they were chosen. Raises: ConfigError.

    A ModelCheckpoint writes to a folder of its own in the run folder unless its file says otherwise.
    """
    callbacks: dict[str, Callback] = {}
    for name, arguments in config.callbacks.options.items():
        key = f"callbacks.{name}"
        cls = load_class(key, targets[key], arguments, Callback)
        check_suitable(key, cls)
        default = {"dirpath": str(folder / name)} if issubclass(cls, ModelCheckpoint) else {}
        try:
            callbacks[key] = cls(**default | arguments)
        except Exception as error:  # whatever a class of the user's raises
            raise _refusal(key, targets[key], error) from error
    check_combination(callbacks)
    return list(callbacks.values())


def build_loggers(
    config: RunConfig, targets: Mapping[str, str], folder: Path, resumed_at: int | None
) -> list[RunLogger]:
    """Return the loggers of a run, opened. One that cannot be created, as without its server, costs a warning.

    Raises: ConfigError.
    """
    loggers: list[RunLogger] = []
    for name, arguments in config.logger.items():
        key = f"logger.{name}"
        cls = load_class(key, targets[key], arguments, Logger)
        default = {SAVE_DIR: str(folder)} if SAVE_DIR in _parameters(cls) else {}
        try:
            logger = cls(**default | arguments)
        except (TypeError, ValueError, ModuleNotFoundError, MisconfigurationException) as error:
            raise _refusal(key, targets[key], error) from error
        except Exception as error:  # its server cannot be reached
            warn_of_failure(name, error)
            continue
        loggers.append(GuardedLogger(logger if isinstance(logger, RunLogger) else LightningLogger(logger)))
        loggers[-1].open(name, folder, resumed_at)
    return loggers


def load_class(key: str, target: str, arguments: Mapping[str, Any], base: type[Any]) -> type[Any]:
    """Import a class and check the arguments by its signature. Raises: ConfigError."""
    try:
        cls = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        if (package := _missing_package(target)) in IN_EXTRA:
            raise ConfigError(f"{key} needs the package {package}; install it with: pip install '.[loggers]'") from None
        raise ConfigError(f"{key}: {target} cannot be imported ({shown(error)}); {_remedy(key)}") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{key}: {target} is no {base.__name__} of Lightning; {_remedy(key)}")
    _check_arguments(key, target, arguments, cls)
    return cls


def _missing_package(target: str) -> str | None:
    """Return the package that the module of a class fails to import, which `resolve_name` does not say."""
    try:
        importlib.import_module(target.rpartition(".")[0])
    except ModuleNotFoundError as error:
        return (error.name or "").partition(".")[0]
    except (ImportError, ValueError, TypeError):
        pass
    return None


def _refusal(key: str, target: str, error: Exception) -> ConfigError:
    if isinstance(error, ModuleNotFoundError):
        return ConfigError(f"{key}: {target} needs a package that is not installed ({shown(error)}); install it")
    return ConfigError(f"{key}: {target} refuses its arguments ({shown(error)}); correct them")


def _check_arguments(key: str, target: str, arguments: Mapping[str, Any], cls: type[Any]) -> None:
    parameters = _parameters(cls)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [name for name, parameter in parameters.items() if parameter.kind not in _COLLECTING]
    try:
        types = typing.get_type_hints(cls.__init__)
    except Exception:  # names that exist for type checkers alone
        types = {}
    for name, value in arguments.items():
        if name not in names and not takes_any:
            raise ConfigError(
                f"{key}.{name}: {target} takes no {name}{did_you_mean(name, names)}; it takes {', '.join(names)}"
            )
        if name in types and (problem := _type_problem(types[name], value)):
            raise ConfigError(f"{key}.{name}={shown(value)} {problem}")
    for name in names:
        parameter = parameters[name]
        if parameter.default is parameter.empty and name not in arguments and name != SAVE_DIR:
            raise ConfigError(f"{key}.{name} is missing: {target} needs it; add {key}.{name}=...")


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(cls).parameters)
    except ValueError:  # a class written in C
        return {}


def _type_problem(annotation: Any, value: Any) -> str | None:
    """Return the rule of a parameter's type that a value breaks; None if there is none that can be checked."""
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"].replace("Input should", "must").replace("Value error, ", "")
    except (PydanticUserError, TypeError, NameError):
        return None
    return None


def _remedy(key: str) -> str:
    group, _, name = key.partition(".")
    return f"correct `_target_` in conf/{group}/{name}.yaml"
