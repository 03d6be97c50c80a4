"""What the command lines share: a Hydra config made into a checked `RunConfig`, and errors of one line.

Hydra and OmegaConf are imported here and in the entry points alone; torch and lightning are not.
"""

import errno
import functools
import json
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from folio.config import ConfigError, RunConfig, TrainerConfig, check_against_data, check_alone
from folio.corpus_of_config import prepared_corpus
from folio.data.prepared import PreparedData, holds_other_than
from folio.data.tokenizers import line_breaks
from folio.errors import FolioError
from folio.explain import explain, explain_invalid, explain_python, hint
from folio.init_from import begin_with_folder, chosen_keys
from folio.options.objectives import MaskedLMConfig
from folio.processes import Place, check_processes, place_from_environment
from folio.runs import read_config
from folio.startup import undisturbed_end
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
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EIO,
}
"""Trouble with files that is no bug: a full disk, a quota, permissions, a folder that has gone, an impossible name."""

LONG_WORD = re.compile(r"(\S{300})\S+")
"""What nobody reads to its end: a number of 5,000 digits, a name of as many letters."""

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let `command` end with one line and exit code 2 for what its user can mend; our bugs keep their traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            message = one_line(error)
            if message is None:
                raise
        refuse(message)

    return wrapper


def refuse(message: str) -> NoReturn:
    """End the program with this line (`in_line`), which says what is wrong."""
    with suppress(OSError):  # the disk on which somebody keeps what a program says may be the full one
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def run_command(command: Callable[..., None]) -> None:
    """Run a function as the command line that its annotations describe to Typer.

    What is misspelt or of a wrong type is told in one line, as everywhere, and not in a frame below the usage.
    """
    import typer  # here, because training does without

    program = typer.Typer(add_completion=False)
    program.command()(command)
    try:
        with undisturbed_end():
            code = program(standalone_mode=False)
    except typer.Abort:
        code = 1
    except Exception as error:
        # Typer's errors of usage had another base in each of its versions; this is what they have in common.
        explained = getattr(error, "format_message", None)
        if explained is None:
            raise
        refuse(in_line(f"{explained().removesuffix('.')}; {Path(sys.argv[0]).name} --help lists the options"))
    raise SystemExit(code)


def one_line(error: Exception) -> str | None:
    """What to tell the user who can mend it; None for a bug of ours."""
    if isinstance(error, FolioError):
        return in_line(str(error))
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return in_line(explain(error))
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        return in_line(f"{where}{error.strerror}; mend that, and type the same again")
    explained = explain_python(error, sys.argv[1:]) if isinstance(error, AttributeError | ValueError) else None
    return None if explained is None else in_line(explained)


def in_line(message: str) -> str:
    """As a terminal may show it: without what it would obey, and with long words cut."""
    return visible(LONG_WORD.sub(r"\1...", message), keep="")


def load_config(cfg: DictConfig, say: Callable[[str], None] = print) -> RunConfig:
    """Check a composed config against the schema and itself. Raises: ConfigError."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(values, dict)
    overrides = HydraConfig.get().overrides.task
    values = leave_out_replaced(typing.cast(dict[str, Any], values), overrides, say)
    config = validate(values)
    check_choices(config)
    if not is_sweep():
        for key, value in (("sweep", config.sweep), ("hparams_search", config.hparams_search)):
            if value is not None:
                raise ConfigError(f"{key} is for a sweep of many runs; add -m, as in python train.py -m {key}=...")
    if config.resume is None:  # else the run's own config decides, in resumed_config
        if config.init_from is not None:
            config = begin_with_folder(config, chosen_keys(overrides, conf_dir()), say)
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


def prepared_data(config: RunConfig, data_dir: Path | None = None, verify_all: bool = False) -> PreparedData:
    """The corpus that a config names, from `data_dir` in place of its own where one is given. Raises: FolioError.

    `verify_all` reads every checksum of shards that are there already.
    """
    return prepared_corpus(config, data_dir or Path(config.paths.data_dir), say=print, verify_all=verify_all)


def data_of(trained: Any, data_dir: Path | None) -> PreparedData:
    """The data that a `Trained` model was trained on. Raises: FolioError where it would not be the same tokens."""
    data = prepared_data(trained.config, data_dir)
    if data.tokenizer.state() != trained.tokenizer.state():
        raise FolioError(
            f"data.path={trained.config.data.path} gives another tokenizer than the checkpoint's: the text has changed "
            "since training; bring back the old text, or train again"
        )
    return data


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Whether both splits hold what the objective reads. Raises: FolioError."""
    for part in data.parts:
        check_against_data(config, part.train.info.n_tokens, part.val.info.n_tokens, f" of {part.name}")
    check_against_data(config, data.train.info.n_tokens, data.val.info.n_tokens)
    if isinstance(config.objective, MaskedLMConfig):
        newlines = line_breaks(data.tokenizer).tolist()
        for file in data.files:
            if not holds_other_than(file.tokens, newlines):
                raise FolioError(
                    f"the {file.info.split} split of {file.info.n_tokens} tokens holds newlines alone, and "
                    "objective=masked_lm reads the lines between them; use a text with words at its end"
                )


def is_sweep() -> bool:
    """Whether the command line has -m."""
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def sweep_folder() -> Path | None:
    """The folder that a sweep gives this job; None outside a sweep, where the run makes its own."""
    if not is_sweep():
        return None
    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))  # as short as the folders of single runs


def task_overrides() -> list[str]:
    """What was typed of this run's own config, in the order of typing."""
    return list(HydraConfig.get().overrides.task)


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
            # Of a section that the run did not have, as a callback of one's own, the parts come one by one.
            target[parent] = target.get(parent) or {}
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

    Raises: ConfigError where they are not those that the config asks for.
    """
    place = place_from_environment()
    check_processes(trainer, place)
    return place


def check_same_experiment(config: RunConfig, folder: Path) -> None:
    """Raises: ConfigError where a job of a sweep would go on as another experiment than it began as."""
    began, now = upgraded(read_config(folder)), config.model_dump(mode="python")
    for key in sorted((began.keys() | now.keys()) - set(RESUMABLE_KEYS)):
        before, after = began.get(key), now.get(key)
        if key == "training":
            before, after = _without_resumable(before), _without_resumable(after)
        if before != after:
            raise ConfigError(
                f"{folder} was begun with another {key} than this command composes; remove that folder to begin it "
                "anew, or start a new sweep"
            )


def _without_resumable(training: Any) -> dict[str, Any] | None:
    if not isinstance(training, dict):
        return None
    return {key: value for key, value in training.items() if f"training.{key}" not in RESUMABLE_KEYS}


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
