"""Explain mistakes in a config in one line, with the closest valid key or value."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException, OverrideParseException
from pydantic import ValidationError

from folio.cli.config_files import last_read, read_keys, relative
from folio.cli.other_names import ADVICE, KEYS, OPTIONS, WHOLE_NAMES
from folio.config.run import RunConfig
from folio.config.section import dotted_keys
from folio.runtime.commands import CHECKOUT
from folio.runtime.terminal import did_you_mean

LONGEST_SHOWN = 200
"""Number of characters of a value that a message shows."""


def explain_hydra_error(error: Exception) -> str:
    """Return one line for an error of Hydra, OmegaConf or the YAML parser."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        # Hydra's own groups have two parts, as in hydra/launcher, and the option may be a path.
        named = re.match(r"((?:hydra/)?[^/]*)/?", error.missing_cfg_file)
        assert named is not None
        group, option = named[1], error.missing_cfg_file[named.end() :]
        options = list(error.options or [])
        return f"{group}={option} is not one of {', '.join(options)}{_closest_option(group, option, options)}"
    text = str(error)
    if not text and error.__cause__ is not None:  # an interpolation that is not closed
        reason = str(error.__cause__).partition("\n")[0]
        return f"cannot read the value of an override ({reason}); write a backslash before ${{ for the text itself"
    if unknown := re.search(r"Could not override '([^']+)'", text):
        inner = re.search(rf"full_key: ({re.escape(unknown[1])}\.\S+)", str(error.__cause__))  # training={bogus: 1}
        return _explain_unknown_key(inner[1] if inner else unknown[1])
    if isinstance(error, OverrideParseException):
        remedy = "write key=value, and quote values with special characters twice, as in 'key=\"a value\"'"
        if str(error.override).lstrip("+").startswith("data.parts="):
            # Hydra's grammar has no quotes for the keys of a dictionary.
            remedy = (
                "a key cannot be quoted, so give a path with special characters under a name: "
                "data.parts='{mine: {weight: 0.5, name: text_file, path: \"a path\"}}'"
            )
        return f"cannot read the override {error.override!r}; {remedy}"
    if existing := re.search(r"An item is already at '([^']+)'", text):
        return f"+{existing[1]}: {existing[1]} is already a key of the config; remove the plus"
    if repeated := re.search(r"Multiple values for (\S+)\.|^(\S+) appears more than once", text):
        group = repeated[1] or repeated[2]
        return f"+{group}: {group} already has an option; write {group}=option without the plus"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{relative(mark.name)}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} must be given: add {missing[1]}=..."
    reason, _, location = text.partition("\n    full_key: ")
    key = location.partition("\n")[0]
    return " ".join(f"{key}: {reason}".split() if key else text.split())


def explain_composing_error(error: Exception) -> str:
    """Return one line for any other error with which Hydra ends while it composes the config."""
    file = f"{relative(last_read[0])}: " if last_read else ""
    if isinstance(error, RecursionError):
        return f"{file}the defaults lists lead back to the file itself, or are nested too deeply"
    return f"cannot compose the config: {str(error).strip() or type(error).__name__}; check the overrides"


def explain_python_error(error: AttributeError | ValueError, arguments: Sequence[str]) -> str | None:
    """Return one line for a Python error with which Hydra rejects an argument; None if the error is a bug."""
    text = str(error)
    if "Config group override" in text:  # model=null
        words = [word for word in arguments if re.search(r"=(null|true|false|[\d.]+|\{.*)$", word, re.IGNORECASE)]
        words = [word for word in words if (CHECKOUT / "conf" / word.partition("=")[0]).is_dir()]
        return f"{' '.join(words) or text}: a group takes the name of an option; write group=option, as in model=nano"
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
    path = _key_path(values, problem["loc"], problem["type"])
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
    message = re.sub(r"^\w+ should", "must", problem["msg"]).removeprefix("Value error, ")
    rule = f"is not one of {', '.join(literals)}" if literals else message.replace(" after validation", "")
    shown = "null" if value is None else _shorten(str(value))
    return f"{key}={shown} {rule}{did_you_mean(str(value), literals)}{more}"


def _shorten(value: str) -> str:
    return value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}..."


def explain_name(name: str) -> str:
    """Return a remedy for the name of a key, which may be another project's; empty if none is close."""
    known = list(dotted_keys(RunConfig))
    if name in known:
        return ""
    *sections, last = name.split(".")
    key = None
    for part in (last, *reversed(sections)):  # callbacks.ema.decay is about ema
        if part in ADVICE and part not in RunConfig.model_fields and (part == last or part not in WHOLE_NAMES):
            return ADVICE[part]
        if key := KEYS.get(part):
            break
    key = key or _closest_key(name, known)
    return f"did you mean {key}?" if key else ""


def _closest_key(name: str, known: Sequence[str]) -> str | None:
    """Return the key that a misspelt one means: in another section, in the same one, or with a misspelt section."""
    section, _, last = name.rpartition(".")
    same_name = list(dict.fromkeys(full for full in known if full.rpartition(".")[2] == last))
    if same_name:
        near = difflib.get_close_matches(name, same_name, n=1, cutoff=0.0)
        return near[0] if section or len(same_name) == 1 else None
    siblings = {full.rpartition(".")[2]: full for full in known if full.rpartition(".")[0] == section}
    for names in (siblings, {full.rpartition(".")[2]: full for full in known}):
        if close := difflib.get_close_matches(last, names, n=1, cutoff=0.75):
            return names[close[0]]
    return None


def _closest_option(group: str, option: str, options: list[str]) -> str:
    """Return the end of a sentence that suggests an option of a group; empty if none is close."""
    meant = OPTIONS.get(group, {}).get(option.lower())
    return f"; did you mean {meant}?" if meant in options else did_you_mean(option, options)


def _explain_unknown_key(key: str) -> str:
    if key in RunConfig.model_fields:
        return f"{key}={{...}} cannot replace the section {key}; set its keys one by one, as in {key}.<key>=<value>"
    if key in dotted_keys(RunConfig):
        group = key.partition(".")[0]
        if group == "debug":
            return f"{key} belongs to a debugging mode; choose one as well, as in debug=limit"
        parent, _, last = key.rpartition(".")
        if parent != group:  # OmegaConf finds no keys in null
            return f"{key}: {parent} is null or missing; set all of its keys, as in '{parent}={{{last}: ...}}'"
        return f"{key} is a key of another {group}, not of the chosen one; leave it out or choose that {group}"
    return f"{key} is not a key of the config; {explain_name(key) or '`python train.py --cfg job` prints all keys'}"


def _key_path(values: dict[str, Any], location: tuple[int | str, ...], problem: str) -> list[str]:
    """Return a pydantic location, such as ('optimizer', 'adamw', 'eps'), without the tags and types of unions."""
    path: list[str] = []
    node: Any = values
    for index, part in enumerate(location):
        is_missing = problem == "missing" and index == len(location) - 1
        if isinstance(node, dict) and (part in node or is_missing):
            path.append(str(part))
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            path.append(str(part))
    return path


def _lookup(values: Any, path: list[str]) -> Any:
    for part in path:
        values = values[int(part)] if isinstance(values, list) else values.get(part)
    return values


def _file_with(path: list[str], files: dict[str, Path]) -> str:
    """Return the file that holds a key, in brackets; empty if the key is from the command line."""
    for group, file in files.items():
        content = read_keys(file)
        inner = path[1:] if path[0] == group else path
        if _holds(content, path) or (inner != path and _holds(content, inner)):
            return f" (in {relative(file)})"
    return ""


def _holds(content: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
