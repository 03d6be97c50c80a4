"""Paths as people type them: `~` is the home folder, on the command line and in conf/, and names are UTF-8."""

import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from folio.cli.config_files import read_config_file
from folio.config.section import ConfigError
from folio.runtime.commands import CHECKOUT, quote_for_hydra
from folio.runtime.errors import FolioError
from folio.runtime.files import expand_home
from folio.runtime.untrusted import shown

PATH_KEYS = (
    "paths.data_dir",
    "paths.output_dir",
    "data.path",
    "tokenizer.path",
    "init_from",
    "resume",
    "repeat",
    "sweep",
)
"""Keys of the config that hold a path. The parts of a mixture have paths, too, as names or as `path`."""

QUOTED_OR_HOME = re.compile(
    r"""
    (?P<quote>["']) (?P<quoted> (?: \\. | (?!(?P=quote)). )*) (?P=quote)
    | (?<= [=,\[{(:\s]) (?P<home> ~ [^,\[\]{}():\s]*)
    """,
    re.VERBOSE,
)
"""A quoted text of Hydra's grammar, or one that begins with `~`, which the grammar cannot read without quotes."""


def expand_word(word: str) -> str:
    """Return a word of the command line in which Hydra can read each path that begins with `~`.

    Raises: ConfigError if the word is not UTF-8, which a config cannot hold.
    """
    _check_encoding(word, word)
    key, equals, value = word.partition("=")

    def expand(match: re.Match[str]) -> str:
        if match["home"]:
            return quote_for_hydra(_expand(key, match["home"]))
        if key.lstrip("+") in PATH_KEYS and match["quoted"].startswith("~") and "\\" not in match["quoted"]:
            return quote_for_hydra(_expand(key, match["quoted"]))
        return match[0]

    return key + QUOTED_OR_HOME.sub(expand, equals + value)


def own_data_dir() -> Path:
    """Return paths.data_dir of this checkout's conf/train.yaml: scripts read no other config of the command line.

    Raises: ConfigError.
    """
    file = CHECKOUT / "conf" / "train.yaml"
    try:
        content, _ = read_config_file(file, group=".")
        return Path(_expand("paths.data_dir", str(OmegaConf.select(content, "paths.data_dir", throw_on_missing=True))))
    except (OSError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file}: paths.data_dir cannot be read ({shown(error)}); give --data-dir") from None


def note_other_data_dir(known: str, used: Path, option: str) -> None:
    """Say where a run had its prepared data, if that is not the folder that is used now, and how to use it."""
    folder = Path(known)
    if folder.resolve() != used.resolve() and folder.is_dir():
        print(f"the run had its data in {known}, and now uses {used}; add {option} to use that", file=sys.stderr)


def expand_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a config with `~` replaced in each path. Raises: ConfigError if one is not UTF-8."""
    for key in PATH_KEYS:
        *sections, name = key.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part)
            if not isinstance(section, dict):
                break
        else:
            if isinstance(section.get(name), str):
                section[name] = _expand(key, section[name])
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("parts"), dict):
        data["parts"] = {_expand("data.parts", name): _expand_part(part) for name, part in data["parts"].items()}
    return values


def _expand_part(part: Any) -> Any:
    if isinstance(part, dict) and isinstance(part.get("path"), str):
        return part | {"path": _expand("data.parts", part["path"])}
    return part


def _expand(key: str, path: Any) -> Any:
    if not isinstance(path, str):  # which the schema refuses
        return path
    _check_encoding(path, f"{key}={path}")
    try:
        return expand_home(path)
    except FolioError as error:
        raise ConfigError(f"{key}={error}") from None


def _check_encoding(text: str, given: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{given}: the name is not UTF-8, so no config can hold it; rename the file or folder, or give a link to it"
        ) from None
