"""Read the files of conf/ for Hydra: any fault becomes one line with the file and the line number.

The files are the user's own, so anchors are allowed, but not those that stand for millions of values. Hydra asks for
the files that a command selects, and no others are read.
"""

import os
import re
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from folio.config.run import RunConfig
from folio.config.section import PLUGIN_GROUPS, TARGET, ConfigError
from folio.runtime.plain_yaml import MAX_EVENTS, MAX_YAML_BYTES, SafeLoader, is_long_number
from folio.runtime.untrusted import MAX_DEPTH, read_bytes, shown

PACKAGE_LINE = re.compile(r"#\s*@package\s+(\S+)\s*$")
PACKAGE_GROUPS = ("experiment",)
"""Groups whose files set keys of the whole config, which a first line must say."""

TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}

PROVIDERS = ("hydra", "main", "schema")
"""Hydra's names for the folders that it may read: its own files, and conf/."""

last_read: list[Path] = []
"""The file that Hydra read last, for errors of composing that name no file."""


def install_reader() -> None:
    """Let Hydra read its files with `read_config_file`.

    Hydra loads its plugins as new modules, again in each job of a worker process, so their classes cannot be changed
    once and for all. Its repository is no plugin, and gives every file its source.
    """
    find = ConfigRepository._find_object_source

    def find_with_reader(*args: Any, **kwargs: Any) -> ConfigSource | None:
        source = find(*args, **kwargs)
        if source is not None and source.scheme() == "file":
            type(source).load_config = _load_config  # type: ignore[method-assign, assignment]
        return source

    ConfigRepository._find_object_source = find_with_reader  # type: ignore[method-assign]


def _load_config(source: ConfigSource, config_path: str) -> ConfigResult:
    name = config_path if config_path.endswith((".yaml", ".yml")) else f"{config_path}.yaml"
    path = Path(os.path.abspath(Path(source.path) / name))  # a link in conf/ is the user's own
    if source.provider not in PROVIDERS or not path.is_relative_to(os.path.abspath(source.path)):
        raise ConfigError(f"{relative(path)} is not in conf/, whose files alone Folio composes; copy or link it there")
    last_read[:] = [path]
    content, package = read_config_file(path, group=str(Path(name).parent).partition("/")[0])
    return ConfigResult(
        config=content, path=f"file://{source.path}", provider=source.provider, header={"package": package}
    )


def read_config_file(path: Path, group: str) -> tuple[Any, str | None]:
    """Return the content of a file of conf/ and the package that its comments name. Raises: ConfigError; OSError."""
    text = _decode(path)
    try:
        _check_events(text, path)
        node = yaml.compose(text, SafeLoader)
    except yaml.MarkedYAMLError as error:
        _refuse(path, error.problem_mark, str(error.problem or error.context))
    except yaml.YAMLError as error:
        _refuse(path, None, shown(error))
    if node is not None:
        _check_size(path, node, {})
        _check_nodes(path, node)
    package = _package(text)
    if group in PACKAGE_GROUPS and package != "_global_":
        raise ConfigError(f"{relative(path)} must begin with the line `# @package _global_`")
    if isinstance(node, yaml.MappingNode):
        _check_defaults(path, node, group)
        if package == "_global_" or group == ".":
            _check_sections(path, node)
    elif node is not None and node.tag != "tag:yaml.org,2002:null":
        _refuse(path, node.start_mark, "a config file holds keys, as in `key: value`")
    try:
        content = OmegaConf.create(text if node is not None else "{}")
        if group in PLUGIN_GROUPS and TARGET in content:
            content = OmegaConf.create({path.stem: content})
        return content, package
    except Exception as error:
        raise ConfigError(f"{relative(path)}: {shown(error)}") from None


def read_keys(path: Path) -> dict[str, Any]:
    """Return the content of a file of conf/ as plain values; empty if the file is absent, empty or unreadable."""
    try:
        text = _decode(path)
        _check_events(text, path)
        node = yaml.compose(text, SafeLoader)
        if node is not None:
            _check_size(path, node, {})
        content = yaml.load(text, SafeLoader)
    except (ConfigError, OSError, TypeError, ValueError, yaml.YAMLError):
        return {}  # the command does not select it, or Hydra has refused it
    return content if isinstance(content, dict) else {}


def option_names(conf: Path, group: str) -> list[str]:
    """Return the names of the options of a group, which are those of its files."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def relative(file: str | Path) -> str:
    """Return a path as the user would type it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _refuse(path: Path, mark: Any, problem: str) -> NoReturn:
    line = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    raise ConfigError(f"{relative(path)}{line}: {problem}")


def _decode(path: Path) -> str:
    data = read_bytes(path, MAX_YAML_BYTES)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        if encoding == "utf-8-sig":
            return data.decode(encoding)
        line = 1
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
    raise ConfigError(f"{relative(path)}, line {line}: this is not UTF-8 text; save the file as UTF-8")


def _package(text: str) -> str | None:
    """Return the package of the comments above the first key; Hydra itself reads no line below another comment."""
    for line in text.splitlines():
        if match := PACKAGE_LINE.match(line.strip()):
            return match[1]
        if line.strip() not in ("", "---") and not line.lstrip().startswith("#"):
            break
    return None


def _check_events(text: str, path: Path) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, SafeLoader)):
        if number > MAX_EVENTS:
            _refuse(path, event.start_mark, f"the file holds more than {MAX_EVENTS:,} values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            _refuse(path, event.start_mark, f"the nesting is deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent) and is_long_number(event):
            _refuse(path, event.start_mark, f"a number of {len(event.value):,} digits; use a smaller number")


def _check_size(path: Path, node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values that a node stands for once its aliases are expanded. Raises: ConfigError."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    known = sizes.get(id(node))
    if known == 0:
        _refuse(path, node.start_mark, "an anchor contains itself")
    if known is not None:
        return known
    sizes[id(node)] = 0  # until it is known
    children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1
    for child in children:
        total += _check_size(path, child, sizes)
        if total > MAX_EVENTS:
            _refuse(path, node.start_mark, f"its aliases stand for more than {MAX_EVENTS:,} values")
    sizes[id(node)] = total
    return total


def _check_nodes(path: Path, root: yaml.Node) -> None:
    """Raises: ConfigError for tags, keys and interpolations that a config cannot hold."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag not in TAGS:
            _refuse(path, node.start_mark, f"{node.tag.replace('tag:yaml.org,2002:', '!!')} is not a value of a config")
        if isinstance(node, yaml.ScalarNode):
            if "${" in node.value:
                try:
                    OmegaConf.create({"value": node.value})
                except Exception as error:
                    _refuse(path, node.start_mark, f"{node.value!r} is not an interpolation ({shown(error)})")
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:null":
                    _refuse(path, key.start_mark, "a key must be a word; quote it if it is meant")
                waiting += [key, value]
        else:
            waiting += node.value


def _check_defaults(path: Path, node: yaml.MappingNode, group: str) -> None:
    defaults = next((value for key, value in node.value if key.value == "defaults"), None)
    if defaults is None:
        return
    if not isinstance(defaults, yaml.SequenceNode):
        _refuse(path, defaults.start_mark, "`defaults:` must be a list, as in `- override /model: debug`")
    conf = path.parent if group == "." else path.parents[1]
    for entry in defaults.value:
        if isinstance(entry, yaml.ScalarNode) and entry.tag == "tag:yaml.org,2002:str" and entry.value:
            continue
        if not isinstance(entry, yaml.MappingNode) or len(entry.value) != 1:
            _refuse(path, entry.start_mark, "an entry of `defaults:` is a name, or `group: option`")
        key, value = entry.value[0]
        words = key.value.split()
        chosen = words[-1].partition("@")[0] if words else ""
        if group != "." and not chosen.startswith("/") and (conf / chosen).is_dir():
            option = value.value if isinstance(value, yaml.ScalarNode) else "option"
            _refuse(path, key.start_mark, f"write `override /{chosen}: {option}` instead of `{key.value}: {option}`")


def _check_sections(path: Path, node: yaml.MappingNode) -> None:
    """Raises: ConfigError for a dotted key, and for a section that is no mapping."""
    for key, value in node.value:
        if "." in key.value:
            first, _, rest = key.value.partition(".")
            _refuse(path, key.start_mark, f"{key.value} must be nested: write `{first}:`, and `{rest}:` below it")
        if not isinstance(value, yaml.ScalarNode) or key.value not in _sections():
            continue
        if value.tag == "tag:yaml.org,2002:null":
            _refuse(path, key.start_mark, f"`{key.value}:` is empty; write its keys below it, or remove the line")
        remedy = f"write `- override /{key.value}: {value.value}` in `defaults:`" if key.value != "hydra" else "nest it"
        _refuse(path, key.start_mark, f"{key.value} holds keys, not {value.value!r}; {remedy}")


@cache
def _sections() -> frozenset[str]:
    """Return the keys of the config that must hold a mapping."""
    scalars = (str, int, float, bool, types.NoneType)
    required = {"hydra"}
    for name, field in RunConfig.model_fields.items():
        members = typing.get_args(field.annotation) or (field.annotation,)
        if all(isinstance(member, type) and not issubclass(member, scalars) for member in members):
            required.add(name)
    return frozenset(required)
