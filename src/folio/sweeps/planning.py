"""Plan the jobs of a sweep and name their folders, as pure functions of the overrides on the command line."""

import hashlib
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from folio.runtime.errors import FolioError
from folio.runtime.untrusted import shown

MAX_NAME_BYTES = 200
"""Longest name of a job's folder. File systems allow 255 bytes; temporary files beside a folder need some of them."""

TrialParams = Mapping[str, float | int | str]
"""Values that a trial of a search tries, by key."""


@dataclass(frozen=True)
class GridAxis:
    """An override of the command line, with every value that the sweep gives to its key."""

    key: str
    """The key with any sign before it: +model.d_ff."""
    values: tuple[str, ...]
    """Values in Hydra's spelling, quotes included; empty for a deletion (~key)."""
    is_swept: bool

    def overrides(self) -> list[str]:
        """Return one override for each value. A deletion stays as it is."""
        return [f"{self.key}={value}" for value in self.values] or [self.key]


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    folder: str
    """Name of its folder inside the sweep's folder."""
    overrides: tuple[str, ...]
    params: TrialParams | None = None
    """Values that a search chose for this trial; None outside a search."""


@dataclass(frozen=True)
class Grid:
    """The jobs of a sweep that is no search."""

    jobs: Sequence[Job]
    varied: Collection[str] = ()
    """Keys that the sweep varies."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """For jobs that Hydra cannot compose, by folder: why. A launcher would stop at them."""


def check_number_of_jobs(words: str, n_jobs: int, max_jobs: int) -> None:
    """Raises: FolioError if a sweep would have too many jobs.

    Args:
        words: the words that ask for them.
    """
    if n_jobs > max_jobs:
        number = f"{n_jobs:,}" if n_jobs < 10**15 else "far too many"
        raise FolioError(
            f"{shown(words)}: {number} jobs, and max_jobs={max_jobs}; give fewer values, or raise max_jobs"
        )


def plan_grid(axes: Sequence[GridAxis]) -> list[Job]:
    """Return a job for every combination of the swept values. The last key changes fastest."""
    last_of_key = {axis.key: axis for axis in axes}
    jobs = {}  # a value that is given twice makes one job
    for combination in itertools.product(*(axis.overrides() for axis in last_of_key.values())):
        swept = [text for axis, text in zip(last_of_key.values(), combination, strict=True) if axis.is_swept]
        job = Job(folder_name(swept or combination), combination)
        jobs[job.folder] = job
    return list(jobs.values())


def folder_name(overrides: Sequence[str]) -> str:
    """Return the name of a job's folder: its swept overrides, as in positional_encoding=rotary,seed=1.

    A name that had to lose a character or be cut ends with eight digits of a hash of the overrides. So the same
    overrides always give the same name, and different ones never share a name.
    """
    parts = [_path_safe(override) for override in overrides]
    name = ",".join(parts) or "job"
    if len(name.encode()) > MAX_NAME_BYTES:  # the last part of a key says most
        name = ",".join(re.sub(r"^[^=]*[./]", "", part) for part in parts)
    if name == ",".join(overrides):
        return name
    digest = hashlib.sha256("\0".join(overrides).encode()).hexdigest()[:8]
    kept = name.encode()[: MAX_NAME_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{kept.rstrip(',.=_') or 'job'}-{digest}"


def trial_name(number: int, params: TrialParams) -> str:
    """Return the name of a trial's folder, as in trial=3,learning_rate=0.00316,d_model=144. The number is unique."""
    parts = [f"trial={number}"]
    for key, value in params.items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(_path_safe(f"{key.rpartition('.')[2]}={text}"))
    return ",".join(parts).encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _path_safe(override: str) -> str:
    """Keep letters, digits and a few signs that have no meaning in a shell, a path or a list of overrides."""
    return re.sub(r"[^\w.=+-]+", "_", override).strip("_").lstrip(".-")
