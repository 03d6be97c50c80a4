"""Words of a sweep's command: which of them define its experiment, and which only say where and how it runs."""

import re
from collections.abc import Collection, Iterable

from folio.cli.resume import RESUMABLE_KEYS

SEARCH_KEYS = ("hparams_search.n_trials", "hparams_search.prune", "hparams_search.n_startup_trials")
"""Keys of a search that may differ when it is resumed."""

CHANGEABLE_KEYS = (
    *(key for key in RESUMABLE_KEYS if key not in ("training.max_steps", "resume")),
    *("max_jobs", *SEARCH_KEYS),
)
"""Keys and sections that may differ when a sweep is resumed, unless it varies them.

Jobs of different lengths would not compare, so training.max_steps is not one of them.
"""

HYDRAS = ("hydra.", "hydra/")

TOKENS = re.compile(r"\\.|'(?:\\.|[^'\\])*(?:'|$)|\"(?:\\.|[^\"\\])*(?:\"|$)|[\[\]{},(]", re.DOTALL)
"""Escaped characters, quoted texts and signs of a value. None is searched twice, however the value is made up."""


def key_of(word: str) -> str:
    """Return the key or group of an override, without signs."""
    return word.lstrip("+~").partition("=")[0]


def keys_of(words: Iterable[str]) -> set[str]:
    """Return the keys and groups of overrides, without signs."""
    return set(map(key_of, words))


def is_option(word: str) -> bool:
    """Return whether a word is an option of the command, such as -m."""
    return word.startswith("-")


def is_hydras(word: str) -> bool:
    """Return whether a word configures Hydra, such as hydra/launcher=joblib."""
    return word.lstrip("+~").startswith(HYDRAS)


def is_place(word: str) -> bool:
    """Return whether a word says where files are written."""
    return key_of(word).partition(".")[0] == "paths"


def is_changeable(word: str) -> bool:
    """Return whether a word may differ when a sweep is resumed, if the sweep does not vary its key."""
    return any(key_of(word) == key or key_of(word).startswith(f"{key}.") for key in CHANGEABLE_KEYS)


def experiment_of(words: Iterable[str], varied: Collection[str] = ()) -> list[str]:
    """Return the words that define the experiment.

    Args:
        varied: the keys that the sweep varies.
    """
    plain = [word for word in words if not (is_option(word) or is_hydras(word) or key_of(word) == "sweep")]
    return [word for word in plain if key_of(word) in varied or not is_changeable(word)]


def varied_in(words: Iterable[str]) -> set[str]:
    """Return the keys with several values: a comma, or a function such as range(...), outside quotes and brackets."""
    return {key_of(word) for word in words if _has_several_values(word.partition("=")[2])}


def _has_several_values(value: str) -> bool:
    depth = 0
    for token in TOKENS.findall(value):
        if token in (",", "(") and depth == 0:
            return True
        depth += (token in ("[", "{")) - (token in ("]", "}"))
    return False
