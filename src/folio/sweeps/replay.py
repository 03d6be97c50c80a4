"""Resume a sweep from its folder: which words may be typed beside `sweep=FOLDER`, and which jobs then run.

The jobs are those that sweep.json lists, and a search proposes the trials that its stored command describes. What was
typed may change the machine, the loggers and the places (`words.CHANGEABLE_KEYS`), for the jobs that still run.
sweep.json keeps its command and its jobs. More jobs are added by typing the whole command, with more values.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from folio.config.run import SweepConfig
from folio.config.stored_words import MULTIRUN, check_words, is_launcher, reason_not_to_read
from folio.runtime import commands
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable
from folio.runtime.untrusted import shown
from folio.sweeps.manifest import OUTPUT_DIR, Manifest, find_sweep, listed_jobs, read_manifest
from folio.sweeps.planning import Job, check_number_of_jobs
from folio.sweeps.words import (
    CHANGEABLE_KEYS,
    SEARCH_KEYS,
    experiment_of,
    is_changeable,
    is_hydras,
    is_option,
    is_place,
    key_of,
    keys_of,
    varied_in,
)


def replay_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of train.py, with the stored words that `sweep=FOLDER` stands for.

    They are returned as they are if no sweep is resumed, or if the whole command was typed.

    Raises: FolioError if the folder is not that of a sweep, or if sweep.json says more than what to train.
    """
    options = [word for word in arguments if is_option(word)]
    named = [word for word in arguments if key_of(word) == "sweep"]
    typed = [word for word in arguments if word not in options and word not in named]
    value = named[-1].partition("=")[2] if named else "null"
    if value in ("", "null") or not set(options) <= set(MULTIRUN) or experiment_of(typed):
        return list(arguments)
    output_dirs = [word.partition("=")[2] for word in typed if word.startswith("paths.output_dir=")]
    output_dir = Path(commands.unquote_for_hydra(output_dirs[-1]) if output_dirs else OUTPUT_DIR)
    folder = find_sweep(commands.unquote_for_hydra(value), output_dir)
    manifest = read_manifest(folder)
    check_number_of_jobs(f"sweep={folder}", len(manifest["jobs"]), _max_jobs(typed))
    check_stored_words(folder, manifest)
    if not manifest["jobs"] and "search" not in manifest:
        raise FolioError(f"sweep={folder} has no jobs yet; type the whole command with sweep={folder}")
    stored, replaced = manifest["command"][1:], keys_of(typed)
    for word in filter(is_place, stored):
        if key_of(word) not in replaced:
            print(f"{printable(shown(word), keep='')} of sweep.json is not used; type it, too, if files belong there")
    if "hydra/launcher" in replaced:
        replaced.add("hydra.launcher.n_jobs")
    kept = [word for word in stored if is_launcher(word)]
    if "search" in manifest:
        replaced |= set(SEARCH_KEYS)
        kept += [word for word in stored if not (is_option(word) or is_hydras(word) or is_place(word))]
        typed = [*_search_words(folder, manifest, typed), *typed]
    here = f"sweep={commands.quote_for_hydra(str(folder))}"
    return ["-m", *(word for word in kept if key_of(word) not in replaced), *typed, here]


def check_stored_words(folder: Path, manifest: Manifest) -> None:
    """Raises: FolioError if sweep.json says more than what to train. Its places are not used, so they may be any."""
    for words in (manifest["command"][1:], *(job["overrides"] for job in manifest["jobs"])):
        if problem := check_words([word for word in words if not is_place(word)]):
            here = f"sweep={shown(str(folder))}"
            raise FolioError(f"{here}: {problem}, and is not read from sweep.json; type the whole command with {here}")


def _max_jobs(typed: Sequence[str]) -> int:
    values = [word.partition("=")[2] for word in typed if key_of(word) == "max_jobs"]
    default: int = SweepConfig.model_fields["max_jobs"].default
    return int(values[-1]) if values and re.fullmatch("[0-9]{1,9}", values[-1]) else default


def _search_words(folder: Path, manifest: Manifest, typed: Sequence[str]) -> list[str]:
    """Return the settings of a search that may have changed since its command, and that are not typed."""
    search = manifest["search"]
    words = [f"{key}={shown(search.get(key.rpartition('.')[2]))}".lower() for key in SEARCH_KEYS]
    for word in words:
        if not re.fullmatch(r"[a-z_.]+=(\d{1,9}|true|false)", word):
            raise FolioError(f"sweep={folder}: sweep.json is damaged ({shown(word)}); start a new search")
    return [word for word in words if key_of(word) not in keys_of(typed)]


# Jobs


def resumed_jobs(folder: Path, typed: Sequence[str]) -> list[Job]:
    """Return the jobs that sweep.json lists, with the typed words in place of theirs.

    Raises: FolioError if the sweep varies a key that was typed, or a place.
    """
    manifest = read_manifest(folder)
    check_stored_words(folder, manifest)
    varied = varied_in(manifest["command"])
    if clash := sorted(varied & (keys_of(typed) | {word for word in varied if is_place(word)})):
        raise FolioError(f"sweep={folder} varies {', '.join(clash)}; leave it out, or type the whole command")
    return [
        Job(job.folder, (*(w for w in job.overrides if key_of(w) not in keys_of(typed) and not is_place(w)), *typed))
        for job in listed_jobs(manifest)
    ]


def check_extension(folder: Path, typed: Sequence[Sequence[str]], varied: set[str]) -> None:
    """Check the overrides of jobs that were planned from a command that was typed whole.

    Args:
        varied: the keys that the command varies.

    Raises: FolioError unless they set the same keys of the experiment as the jobs that sweep.json lists, and give the
        same value to those that neither varies.
    """
    manifest = read_manifest(folder)
    listed = [job["overrides"] for job in manifest["jobs"]]
    if not listed or not typed:
        return
    varied = varied | varied_in(manifest["command"])
    before, now = (_values_by_key(jobs, varied) for jobs in (listed, typed))
    if before.keys() != now.keys():
        new, missing = (
            sorted(min(values) for key, values in a.items() if key not in b) for a, b in ((now, before), (before, now))
        )
        given = " ".join(new or sorted(min(values) for values in now.values()))
        lacks = f" (it lacks {shown(' '.join(missing))})" if missing else ""
        raise FolioError(
            f"{shown(given)} beside sweep={folder}: a resumed sweep keeps its experiment; only "
            f"{', '.join(CHANGEABLE_KEYS)} may be added; to add jobs, type the whole command with more values{lacks}"
        )
    for key in sorted(now.keys() - varied):
        if before[key] != now[key] and len(before[key]) == 1:
            raise FolioError(
                f"{shown(min(now[key]))}: sweep={folder} was started with {shown(min(before[key]))}; give the same, or "
                "start a new sweep"
            )


def _values_by_key(jobs: Sequence[Sequence[str]], varied: set[str]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for overrides in jobs:
        for word in experiment_of(overrides, varied):
            values.setdefault(key_of(word), set()).add(word)
    return values


def is_resumption(words: Sequence[str]) -> bool:
    """Return whether the overrides of a command only change how a sweep runs, so that sweep.json says what runs."""
    return all(map(is_changeable, words)) and not varied_in(words)


# The command to print


def resume_sweep_command(folder: Path) -> str:
    """Return the command that runs the jobs that are missing or failed.

    It repeats the words of this process that are not read from sweep.json.
    """
    typed = [word for word in sys.argv[1:] if not is_option(word) and key_of(word) != "sweep"]
    if not any(reason_not_to_read(word) for word in typed if not is_place(word)):
        typed = list(filter(is_place, typed))
    return commands.command("train.py", "-m", *map(commands.quote_for_shell, typed), commands.override("sweep", folder))
