"""What the command lines share: a Hydra config made into a checked `RunConfig`, and errors of one line.

Hydra and OmegaConf are imported here and in the entry points alone; torch and lightning are not.
"""

import errno
import functools
import json
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from folio.config import ConfigError, MaskedLMConfig, RunConfig, TrainerConfig, check_against_data, check_alone
from folio.data.prepare import PreparedData, prepare
from folio.data.tokenizers import TokenizerChoice
from folio.errors import FolioError
from folio.explain import explain, explain_invalid, hint
from folio.init_from import begin_with_folder, chosen_keys
from folio.processes import Place, check_processes, place_from_environment
from folio.runs import read_config
from folio.upgrade import later_keys, upgraded
from folio.visible import visible

# Hydra would print errors in its own words and several lines; with this it lets them through to one_line_errors.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

# What may change when a run goes on: how long, how it is watched, and on which machine. The rest is the experiment.
RESUMABLE_KEYS = (
    "training.max_steps",
    "training.micro_batch_size",
    "training.validate_every_steps",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.on_nan",
    "training.max_nan_steps",
    "trainer",
    "logger",
    "callbacks",
    "paths",
    "deterministic",
    "dry_run",
    "resume",
)


OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.EIO,
}
"""Trouble with files that is no bug: a full disk, a quota, permissions, a folder that has gone."""

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let `command` end with one line and exit code 2 for what its user can mend; our bugs keep their traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except FolioError as error:
            message = str(error)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            message = explain(error)
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror}; mend that, and type the same again"
        except ValueError as error:
            if "Config group override" not in str(error):  # Hydra's words for model=null
                raise
            message = f"{error}; write group=option, as in model=nano"
        print(f"error: {visible(message, keep='')}", file=sys.stderr)
        raise SystemExit(2)

    return wrapper


def load_config(cfg: DictConfig) -> RunConfig:
    """Check a composed config against the schema and itself. Raises: ConfigError."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(values, dict)
    overrides = HydraConfig.get().overrides.task
    values = leave_out_replaced(typing.cast(dict[str, Any], values), overrides, say=print)
    config = validate(values)
    check_choices(config)
    if config.resume is None:  # else the run's own config decides, in resumed_config
        if config.init_from is not None:
            config = begin_with_folder(config, chosen_keys(overrides, conf_dir()), say=print)
        check_alone(config)
    return config


def leave_out_replaced(values: dict[str, Any], overrides: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
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
        raise ConfigError(f"positional_encoding.name={name} is not one of {', '.join(options)}{hint(name, options)}")


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


def prepared_data(config: RunConfig, data_dir: Path | None = None) -> PreparedData:
    """The corpus that a config names, from `data_dir` in place of its own where one is given. Raises: FolioError."""
    text = Path(config.data.path) if config.data.path else None
    tokenizer = TokenizerChoice(**config.tokenizer.model_dump())
    return prepare(config.data.name, text, tokenizer, data_dir or Path(config.paths.data_dir), say=print)


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Whether both splits hold what the objective reads. Raises: FolioError."""
    check_against_data(config, data.train.info.n_tokens, data.val.info.n_tokens)
    if isinstance(config.objective, MaskedLMConfig):
        newlines = data.tokenizer.newline_ids()
        for file in (data.train, data.val):
            if not file.holds_other_than(newlines):
                raise FolioError(
                    f"the {file.info.split} split of {file.info.n_tokens} tokens holds newlines alone, and "
                    "objective=masked_lm reads the lines between them; use a text with words at its end"
                )


def sweep_folder() -> Path | None:
    """The folder that a sweep gives this job; None outside a sweep, where the run makes its own."""
    hydra = HydraConfig.get()
    if hydra.mode is None or hydra.mode.name != "MULTIRUN":
        return None
    return Path(os.path.relpath(hydra.runtime.output_dir))  # as short as the folders of single runs


def resumed_config(config: RunConfig, folder: Path) -> RunConfig:
    """The run's own config with what the command line changes of it. Raises: ConfigError for what must stay."""
    values = read_config(folder)
    if later := later_keys(values):
        print(f"{folder} was begun by an older Folio; what came later is as it was then: {', '.join(later)}")
    values = upgraded(values)
    composed = config.model_dump(mode="python")
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0].lstrip("+~")
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE_KEYS):
            raise ConfigError(
                f"{override}: a resumed run keeps its experiment; only {', '.join(RESUMABLE_KEYS[:-1])} may change"
            )
        *parents, leaf = key.split(".")
        source, target = composed, values
        for parent in parents:
            source, target = source[parent], target[parent]
        target[leaf] = source[leaf]
    # Of this start and not of the run, whose config.yaml repeats it from the beginning.
    values["resume"], values["dry_run"] = None, config.dry_run
    resumed = validate(values)
    check_alone(resumed)
    return resumed


def requeued_config(config: RunConfig, folder: Path) -> RunConfig:
    """The config of a run whose job a scheduler has started anew, with the same words. Raises: ConfigError."""
    print(f"the job was started again: going on in {folder}")
    again = validate(upgraded(read_config(folder)) | {"dry_run": config.dry_run})
    check_alone(again)
    return again


def started_processes(trainer: TrainerConfig) -> Place | None:
    """Where this process stands among those that torchrun or srun have started; None where it was started alone.

    Raises: ConfigError where they are not those that the config asks for, or would each go through a whole sweep.
    """
    place = place_from_environment()
    check_processes(trainer, place)
    if place is not None and sweep_folder() is not None and "SUBMITIT_EXECUTOR" not in os.environ:
        raise ConfigError(
            f"-m under {place.started_by}: each of its {place.size} processes would go through the whole sweep; leave "
            f"{place.started_by} out, and each job starts its own processes"
        )
    return place


def check_same_text(folder: Path, text_sha256: str) -> None:
    """Raises: ConfigError where a run would go on with another text than it began with.

    Its tokens could mean something else by now, and its curves would not compare.
    """
    file = folder / "preflight.json"
    try:
        began_with = json.loads(file.read_text(encoding="utf-8"))["text_sha256"] if file.is_file() else text_sha256
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ConfigError(f"resume={folder}: {file} is damaged; move it away, or start a new run") from None
    if began_with != text_sha256:
        raise ConfigError(
            f"resume={folder}: the text of data.path has changed since the run began; bring the old one back, "
            "or start a new run"
        )
