"""Check the words of a command that a file holds: they may say what to train, and nothing else.

Sweep folders are shared between people, and Hydra trusts its command line: an option may be a path to any YAML file,
which may name functions to call; `${oc.env:NAME}` reads the environment. A word of a file therefore is one of

- `group=option`, where option is the plain name of a file in conf/ of this checkout,
- `key=value`, where key is one of the schema, which names no code,
- `-m`, `hydra/launcher=name` or `hydra.launcher.n_jobs=n`.

Nothing here calls Hydra: what these patterns do not match, Hydra never sees.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from folio.config.run import RunConfig
from folio.config.section import PLUGIN_GROUPS, TARGET, dotted_keys
from folio.runtime.commands import CHECKOUT
from folio.runtime.untrusted import MAX_DIGITS, shown

MULTIRUN = ("-m", "--multirun")

MAX_WORDS, MAX_CHARACTERS = 500, 20_000
"""Limits for a stored command, which Hydra parses in less than a second."""

MAX_BRACKETS = 200
"""Limit for the brackets of a word: Hydra's parser calls itself for each."""

LAUNCHER = re.compile(r"hydra/launcher=[a-z_]{1,40}|hydra\.launcher\.n_jobs=-?[0-9]{1,6}")
"""How many jobs run in parallel, and with which of Hydra's launchers."""

OVERRIDE = re.compile(r"(?P<sign>|\+|\+\+|~)(?P<key>[A-Za-z_][A-Za-z0-9_.]{0,200})(?:=(?P<value>.*))?", re.DOTALL)
OPTIONS = re.compile(r"[A-Za-z0-9_-]+(?:,[ ]?[A-Za-z0-9_-]+)*")
FUNCTION = re.compile(r"(?:choice|shuffle|sort)\((.*)\)")
GLOB = re.compile(r"glob\([A-Za-z0-9_*?\[\]=, -]*\)")
"""Hydra matches these patterns with the names of the files in conf/ alone."""

OF_THE_COMMAND = ("sweep", "resume", "repeat")
"""Keys that say which folder the command itself works in."""


def check_words(words: Sequence[str]) -> str | None:
    """Return what is wrong with the words of a stored command; None if nothing is."""
    if len(words) > MAX_WORDS or sum(map(len, words)) > MAX_CHARACTERS:
        return f"its command has {len(words):,} words of {sum(map(len, words)):,} characters"
    return next((f"{shown(word)} {reason}" for word in words if (reason := reason_not_to_read(word))), None)


def is_launcher(word: str) -> bool:
    """Return whether a word only says how many jobs run in parallel, and with which launcher."""
    return LAUNCHER.fullmatch(word) is not None


@cache
def reason_not_to_read(word: str) -> str | None:
    """Return why a word is not taken from a file; None if it only says what to train."""
    if word in MULTIRUN or is_launcher(word):
        return None
    if len(word) > MAX_CHARACTERS or sum(map(word.count, "([{")) > MAX_BRACKETS:
        return "is too long"
    if word.lstrip("+~").startswith(("-", "hydra.", "hydra/", "hydra@")):
        return "is Hydra's own"
    match = OVERRIDE.fullmatch(word)
    if match is None:
        return "is not key=value"
    if "{" in word.partition("$")[2]:  # Hydra's grammar removes quotes and backslashes between the two
        return "refers to other values"
    if re.search(rf"[0-9_]{{{MAX_DIGITS}}}", word):
        return "is too long a number"
    key, value = match["key"], match["value"]
    if value is None and match["sign"] != "~":
        return "has no value"
    if key in _options_by_group():
        return None if value is None else _reason_not_to_choose(key, value)
    if key in OF_THE_COMMAND:
        return "names a folder to work in"
    if key.startswith("hparams_search.space") and value != "null":
        return "holds overrides of its own"
    return None if _is_key(key) else "is neither a group nor a key of the config"


def _reason_not_to_choose(group: str, value: str) -> str | None:
    if GLOB.fullmatch(value):
        return None
    while function := FUNCTION.fullmatch(value):
        value = function[1]
    if group in PLUGIN_GROUPS:  # lists of options
        value = re.sub(r"[\[\]]", "", value)
    names = re.split(r",[ ]?", value) if OPTIONS.fullmatch(value) else None
    if names is None or not {*names} <= {*_options_by_group()[group], "null"}:
        return f"names no file of conf/{group}/"
    return None


@cache
def _options_by_group() -> dict[str, frozenset[str]]:
    return {
        folder.name: frozenset(file.stem for file in folder.glob("*.yaml"))
        for folder in Path(CHECKOUT, "conf").iterdir()
        if folder.is_dir() and folder.name != "hydra"
    }


def _is_key(key: str) -> bool:
    """Return whether the schema has a key, or a section that holds any names; never one that names a class."""
    group, _, rest = key.partition(".")
    of_option = group in PLUGIN_GROUPS and rest.partition(".")[0] in _options_by_group()[group]
    return key in _keys() or key.startswith("data.parts.") or (of_option and TARGET not in key)


@cache
def _keys() -> frozenset[str]:
    return frozenset(dotted_keys(RunConfig))
