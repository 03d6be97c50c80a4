"""Explain mistakes in a config in one line, with the closest valid key or value."""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException, OverrideParseException
from pydantic import BaseModel, ValidationError

from folio.config.run import RunConfig
from folio.runtime.terminal import did_you_mean

LONGEST_SHOWN = 200
"""Number of characters of a value that a message shows."""

OTHER_NAMES = {
    "attn_pdrop": "model.attention_dropout",
    "block_size": "model.context_length",
    "ckpt_path": "resume",
    "dataset": "data",
    "embd_pdrop": "model.dropout",
    "eval_interval": "training.validate_every_steps",
    "grad_clip": "training.gradient_clip_norm",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "log_interval": "training.log_every_steps",
    "lr": "optimizer.learning_rate",
    "max_epochs": "training.max_steps",
    "max_iters": "training.max_steps",
    "min_lr": "schedule.min_learning_rate",
    "n_embd": "model.d_model",
    "out_dir": "paths.output_dir",
    "resid_pdrop": "model.dropout",
    "warmup_iters": "schedule.warmup_steps",
}
"""Keys of nanoGPT, Hugging Face's GPT-2, lightning-hydra-template and others, with ours."""


def explain_hydra_error(error: Exception) -> str:
    """Return one line for an error of Hydra, OmegaConf or the YAML parser."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        # Hydra's own groups have two parts, as in hydra/launcher, and the option may be a path.
        named = re.match(r"((?:hydra/)?[^/]*)/?", error.missing_cfg_file)
        assert named is not None
        group, option = named[1], error.missing_cfg_file[named.end() :]
        options = list(error.options or [])
        return f"{group}={option} is not one of {', '.join(options)}{did_you_mean(option, options)}"
    text = str(error)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return _explain_unknown_key(unknown[1])
    if isinstance(error, OverrideParseException):
        remedy = "write key=value, and quote values with special characters twice, as in 'key=\"a value\"'"
        return f"cannot read the override {error.override!r}; {remedy}"
    if existing := re.search(r"An item is already at '([^']+)'", text):
        return f"+{existing[1]}: {existing[1]} is already a key of the config; remove the plus"
    if repeated := re.search(r"Multiple values for (\S+)\.|^(\S+) appears more than once", text):
        group = repeated[1] or repeated[2]
        return f"+{group}: {group} already has an option; write {group}=option without the plus"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{_relative(mark.name)}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} must be given: add {missing[1]}=..."
    reason, _, location = text.partition("\n    full_key: ")
    key = location.partition("\n")[0]
    return " ".join(f"{key}: {reason}".split() if key else text.split())


def explain_python_error(error: AttributeError | ValueError, arguments: Sequence[str]) -> str | None:
    """Return one line for a Python error with which Hydra rejects an argument; None if the error is a bug."""
    text = str(error)
    if "Config group override" in text:  # model=null
        return f"{text}; write group=option, as in model=nano"
    if "integer string conversion" in text:
        argument = next((argument for argument in arguments if re.search(r"\d{4301}", argument)), None)
        return f"{argument} has more digits than can be read; use a smaller number" if argument else None
    if location := re.search(r"full_key: (\S+)", text):  # OmegaConf adds the key to its errors
        key = location[1]
        return f"{key} cannot hold this value; leave it out, or set one of its entries, as in +{key}.x=1"
    return None


def explain_validation_error(error: ValidationError, values: dict[str, Any], files: dict[str, Path]) -> str:
    """Return one line for the first fault that the schema finds in `values`, composed from `files` by group."""
    # Unknown keys come first: a misspelt key also makes the right one missing.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    n_more = sum(other["type"] == problem["type"] for other in problems[1:])
    more = f" (and {n_more} more like it)" if n_more else ""
    path = _key_path(values, problem["loc"])
    if problem["type"] == "union_tag_invalid":
        path.append("name")
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{_explain_unknown_key(key)}{_file_with(path, files)}{more}"
    if problem["type"] == "missing":
        return f"{key} is missing: add {key}=...{more}"
    value = _lookup(values, path)
    context = problem.get("ctx", {})
    literals = re.findall(r"'([^']*)'", str(context.get("expected", context.get("expected_tags", ""))))
    rule = (
        f"is not one of {', '.join(literals)}"
        if literals
        else re.sub(r"^\w+ should", "must", problem["msg"]).replace(" after validation", "")
    )
    shown = "null" if value is None else _shorten(str(value))
    return f"{key}={shown} {rule}{did_you_mean(str(value), literals)}{more}"


def _shorten(value: str) -> str:
    return value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}..."


def _explain_unknown_key(key: str) -> str:
    known = list(_known_keys(RunConfig))
    full_keys = {full.rpartition(".")[2]: full for full in known}
    name = key.rpartition(".")[2]
    closest = [OTHER_NAMES[name]] if name in OTHER_NAMES else difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    closest = closest or [full_keys[match] for match in difflib.get_close_matches(name, full_keys, n=1)]
    if closest == [key]:
        group = key.partition(".")[0]
        return f"{key} is a key of another {group}, not of the chosen one; leave it out or choose that {group}"
    hint = f"did you mean {closest[0]}?" if closest else "`python train.py --cfg job` prints all keys"
    return f"{key} is not a key of the config; {hint}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a schema, including those of sections."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_of(field.annotation):
            yield from _known_keys(inner, f"{prefix}{name}.")


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _key_path(values: dict[str, Any], location: tuple[int | str, ...]) -> list[str]:
    """Return a pydantic location, such as ('optimizer', 'adamw', 'eps'), without the tags of unions."""
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


def _file_with(path: list[str], files: dict[str, Path]) -> str:
    """Return the file that holds a key, in brackets; empty if the key is from the command line."""
    for group, file in files.items():
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        inner = path[1:] if path[0] == group else path
        if _holds(content, path) or (inner != path and _holds(content, inner)):
            return f" (in {_relative(file)})"
    return ""


def _holds(content: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _relative(file: str | Path) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
