"""The jobs of a sweep and the names of their folders: pure functions of the words that were typed."""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LONGEST_NAME = 200
"""In bytes; file systems take 255, and what is written beside a folder wants some of them."""


@dataclass(frozen=True)
class Word:
    """An override as typed, `key=value`, or one of several values that a sweep gives to its key."""

    key: str
    """With the sign that was typed before it: +model.d_ff."""
    values: tuple[str, ...]
    """In Hydra's spelling, quotes included; one where the word is no sweep."""
    is_swept: bool

    def overrides(self) -> list[str]:
        """One for each value; a deletion (~key) has no value and stays as it is."""
        return [f"{self.key}={value}" for value in self.values] or [self.key]


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    folder: str
    """Its name below the sweep's folder."""
    overrides: tuple[str, ...]
    trial: Mapping[str, float | int | str] | None = None
    """Of a search: the values that it tries, by key."""


def planned_jobs(words: Sequence[Word]) -> list[Job]:
    """Every combination of the swept values, the last key changing fastest, as it was typed."""
    kept = {word.key: word for word in words}  # of a key typed twice, the last
    jobs = []
    for combination in itertools.product(*(word.overrides() for word in kept.values())):
        swept = [text for word, text in zip(kept.values(), combination, strict=True) if word.is_swept]
        jobs.append(Job(folder_name(swept or combination), combination))
    return jobs


def folder_name(overrides: Sequence[str]) -> str:
    """What a job is called after the words that set it apart: positional_encoding=rotary,seed=1.

    A name that had to lose something, a slash or its length, ends with eight digits of a hash of the words, so that it
    is the same whenever the same is typed, and no two jobs have one.
    """
    names = [_plain(override) for override in overrides]
    name = ",".join(names) or "job"
    if len(name.encode()) > LONGEST_NAME:  # the last part of a key says most
        name = ",".join(re.sub(r"^[^=]*[./]", "", part) for part in names)
    if name == ",".join(overrides):
        return name
    digest = hashlib.sha256("\0".join(overrides).encode()).hexdigest()[:8]
    whole = name.encode()[: LONGEST_NAME - len(digest) - 1].decode(errors="ignore")
    return f"{whole.rstrip(',.=_') or 'job'}-{digest}"


def _plain(override: str) -> str:
    """Letters, digits and a few signs that no shell, path or list of words reads as its own."""
    return re.sub(r"[^\w.=+-]+", "_", override).strip("_").lstrip(".-")


def trial_name(number: int, values: Mapping[str, float | int | str]) -> str:
    """What a trial of a search is called: trial=3,learning_rate=0.00316,d_model=144."""
    parts = [
        f"{key.rpartition('.')[2]}={value:.3g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"
        for key, value in values.items()
    ]
    name = ",".join([f"trial={number}", *map(_plain, parts)])
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")  # the number sets it apart
