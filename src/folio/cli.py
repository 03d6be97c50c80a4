"""What the command lines share: a Hydra config made into a checked `RunConfig`, and errors of one line.

Hydra and OmegaConf are imported here and in the entry points alone; torch and lightning are not.
"""

import difflib
import functools
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from folio.config import ConfigError, RunConfig, check_alone
from folio.errors import FolioError

# Hydra would print errors in its own words and several lines; with this it lets them through to one_line_errors.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

# What may change when a run goes on: how long, how it is watched, and on which machine. The rest is the experiment.
RESUMABLE_KEYS = (
    "training.max_steps",
    "training.micro_batch_size",
    "training.validate_every_steps",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "trainer",
    "logger",
    "callbacks",
    "paths",
    "deterministic",
    "dry_run",
    "resume",
)


class Which(StrEnum):
    """Which checkpoint of a run folder."""

    BEST = "best"
    LAST = "last"


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
        except ValueError as error:
            if "Config group override" not in str(error):  # Hydra's words for model=null
                raise
            message = f"{error}; write group=option, as in model=nano"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)

    return wrapper


def load_config(cfg: DictConfig) -> RunConfig:
    """Check a composed config against the schema and itself. Raises: ConfigError."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(values, dict)
    config = validate(typing.cast(dict[str, Any], values))
    check_choices(config)
    if config.resume is None:  # else the run's own config decides, in resumed_config
        check_alone(config)
    return config


def validate(values: dict[str, Any]) -> RunConfig:
    """The typed config of plain values, as composed or as read from a run folder. Raises: ConfigError."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain_first(error, values)) from None


def check_choices(config: RunConfig) -> None:
    """Check names whose list is open: a positional encoding is whatever has a file in its config group."""
    name = config.positional_encoding.name
    options = sorted(path.stem for path in (conf_dir() / "positional_encoding").glob("*.yaml"))
    if name not in options:
        raise ConfigError(f"positional_encoding.name={name} is not one of {', '.join(options)}{_hint(name, options)}")


def conf_dir() -> Path:
    """The folder of the YAML files: beside the entry point that Hydra runs."""
    sources = HydraConfig.get().runtime.config_sources
    return Path(next(source.path for source in sources if source.provider == "main"))


def sweep_folder() -> Path | None:
    """The folder that a sweep gives this job; None outside a sweep, where the run makes its own."""
    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode is not None and hydra.mode.name == "MULTIRUN" else None


def resumed_config(config: RunConfig, folder: Path) -> RunConfig:
    """The run's own config with what the command line changes of it. Raises: ConfigError for what must stay."""
    values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
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


def check_same_text(folder: Path, text_sha256: str) -> None:
    """Raises: ConfigError where a run would go on with another text than it began with.

    Its tokens could mean something else by now, and its curves would not compare.
    """
    file = folder / "preflight.json"
    began_with = json.loads(file.read_text(encoding="utf-8"))["text_sha256"] if file.is_file() else text_sha256
    if began_with != text_sha256:
        raise ConfigError(
            f"resume={folder}: the text of data.path has changed since the run began; bring the old one back, "
            "or start a new run"
        )


def explain(error: Exception) -> str:
    """One line for what Hydra, OmegaConf or the YAML reader has to say."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        return f"{group}={option} is not one of {', '.join(options)}{_hint(option, options)}"
    text = str(error)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return _explain_unknown(unknown[1])
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}; write key=value, and quote values with special signs"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{_shown(mark.name)}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} must be given: add {missing[1]}=..."
    return " ".join(text.split())


def _explain_first(error: ValidationError, values: dict[str, Any]) -> str:
    # A misspelt key first: the right one is missing for no other reason.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    n_more = sum(other["type"] == problem["type"] for other in problems[1:])
    more = f" (and {n_more} more such)" if n_more else ""
    path = _path_in(values, problem["loc"])
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{_explain_unknown(key)}{_file_with(path)}{more}"
    if problem["type"] == "union_tag_invalid":
        path.append("name")
        key += ".name"
    if problem["type"] == "missing":
        return f"{key} is missing: add {key}=...{more}"
    value = _lookup(values, path)
    shown = "null" if value is None else value
    context = problem.get("ctx", {})
    literals = re.findall(r"'([^']*)'", str(context.get("expected", context.get("expected_tags", ""))))
    rule = f"is not one of {', '.join(literals)}" if literals else re.sub(r"^\w+ should", "must", problem["msg"])
    return f"{key}={shown} {rule}{_hint(str(value), literals)}{more}"


def _explain_unknown(key: str) -> str:
    known = list(_known_keys(RunConfig))
    leaves = {leaf: full for full in known if (leaf := full.rpartition(".")[2])}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1)]
    if near == [key]:
        group = key.partition(".")[0]
        return f"{key} is a key of another {group}, not of the chosen one; leave it out or choose that {group}"
    hint = f"; did you mean {near[0]}?" if near else "; `python train.py --cfg job` prints all keys"
    return f"{key} is not a key of the config{hint}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a schema, sections included."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_of(field.annotation):
            yield from _known_keys(inner, f"{prefix}{name}.")


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _path_in(values: dict[str, Any], location: tuple[int | str, ...]) -> list[str]:
    """A pydantic location without the tags of unions, which are no keys: ('optimizer', 'adamw', 'eps')."""
    path: list[str] = []
    node: Any = values
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, dict) and (part in node or last):
            path.append(str(part))
            node = node.get(part)
        elif isinstance(node, list):
            path.append(str(part))
    return path


def _lookup(values: Any, path: list[str]) -> Any:
    for part in path:
        values = values[int(part)] if isinstance(values, list) else values.get(part)
    return values


def _file_with(path: list[str]) -> str:
    """Which of the chosen YAML files holds a key, as a bracketed remark; empty if it came from the command line."""
    if not HydraConfig.initialized():
        return ""
    choices = HydraConfig.get().runtime.choices
    files = {("",): conf_dir() / "train.yaml"}
    files |= {(str(g),): conf_dir() / f"{g}/{option}.yaml" for g, option in choices.items() if option}
    for (group,), file in files.items():
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        inner = path[1:] if path[0] == group else path
        if _holds(content, path) or (inner != path and _holds(content, inner)):
            return f" (in {_shown(file)})"
    return ""


def _holds(content: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _shown(file: str | Path) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _hint(value: str, options: list[str]) -> str:
    near = difflib.get_close_matches(value.lower(), options, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
