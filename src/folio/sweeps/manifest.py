"""`sweep.json`: the command of a sweep and what became of each job. Written by every process that runs one."""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, write_json
from folio.sweeps.planning import Job

FILE = "sweep.json"
METRICS = "metrics.json"
OVERRIDES = "overrides.json"

DONE = ("finished", "pruned", "diverged")
"""Statuses that running a job again would not change."""
GOOD = ("finished", "pruned")

Record = dict[str, Any]


def read_record(folder: Path) -> Record:
    """What sweep.json holds. Raises: FolioError where there is none, or it is damaged."""
    file = folder / FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        words = record["command"], *(job["overrides"] for job in record["jobs"])
        named = [job["folder"] for job in record["jobs"]]
        if not all(isinstance(text, str) for list_ in (*words, named) for text in list_):
            raise TypeError
        if any(Path(name).name != name or name in ("", "..") for name in named):
            raise ValueError
    except FileNotFoundError:
        raise FolioError(f"sweep={folder}: {file} does not exist; give the folder of a sweep, or 'latest'") from None
    except (OSError, KeyError, RecursionError, TypeError, ValueError):
        raise FolioError(f"sweep={folder}: {file} is damaged; bring it back, or start a new sweep") from None
    assert isinstance(record, dict)
    return record


def write_record(folder: Path, record: Record) -> None:
    write_json(folder / FILE, record)


def change_record(folder: Path, change: Callable[[Record], None]) -> None:
    """Read, change and write sweep.json while no other process does."""
    with exclusive_lock(folder / FILE):
        record = read_record(folder)
        change(record)
        write_record(folder, record)


def with_known_names(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs with the folders that others of the same words have already, where there are some."""
    if not (folder / FILE).exists():
        return list(jobs)
    known = {tuple(entry["overrides"]): entry["folder"] for entry in read_record(folder)["jobs"]}
    return [replace(job, folder=known.get(job.overrides, job.folder)) for job in jobs]


def add_jobs(folder: Path, jobs: Iterable[Job], command: Sequence[str]) -> None:
    """Enter jobs that are not there yet, and the command that was typed last. Makes sweep.json where it is missing.

    Raises: FolioError where a job of that name was begun with other words.
    """
    if not (folder / FILE).exists():
        write_record(folder, {"command": [], "jobs": []})

    def change(record: Record) -> None:
        known = {entry["folder"]: entry for entry in record["jobs"]}
        for job in jobs:
            entry = known.get(job.folder)
            if entry is None:
                trial = {} if job.trial is None else {"trial": dict(job.trial)}
                record["jobs"].append(
                    {"folder": job.folder, "overrides": list(job.overrides), "status": "missing"} | trial
                )
            elif tuple(entry["overrides"]) != job.overrides:
                to_gpt2_state = " ".join(word for word in entry["overrides"] if word not in job.overrides)
                ours = " ".join(word for word in job.overrides if word not in entry["overrides"])
                raise FolioError(
                    f"sweep={folder}: {job.folder} was begun with {to_gpt2_state or 'fewer words'}, not with "
                    f"{ours or 'fewer words'}; type the same command, or start a new sweep"
                )
        record["command"] = list(command)

    change_record(folder, change)


def settle(folder: Path) -> Record:
    """Set each status to what the job's folder says; for a time when none of them runs."""

    def change(record: Record) -> None:
        for entry in record["jobs"]:
            entry["status"] = status_of(folder / entry["folder"])
            entry.pop("pid", None)

    change_record(folder, change)
    return read_record(folder)


def mark(folder: Path, name: str, status: str, pid: int | None = None) -> None:
    """Enter the status of one job, and the process that runs it."""

    def change(record: Record) -> None:
        for entry in record["jobs"]:
            if entry["folder"] == name:
                entry.pop("pid", None)
                entry |= {"status": status} if pid is None else {"status": status, "pid": pid}

    change_record(folder, change)


def status_of(job_folder: Path) -> str:
    """What a job left behind: the status of metrics.json; else interrupted where it can go on, else missing."""
    status = metrics_of(job_folder).get("status")
    if status in ("finished", "failed", "diverged", "pruned", "interrupted"):
        return str(status)
    return "interrupted" if (job_folder / "checkpoints" / "last.ckpt").exists() else "missing"


def metrics_of(job_folder: Path) -> dict[str, Any]:
    """What metrics.json holds; nothing where it is missing or damaged, so that the job is run again."""
    try:
        metrics = json.loads((job_folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def keys_of(overrides: Iterable[str]) -> list[str]:
    """The keys and groups that words name, each once."""
    return sorted({word.lstrip("+~").partition("=")[0] for word in overrides})


def varied_keys(job_folder: Path) -> list[str]:
    """What a sweep varies: the keys in whose words its jobs differ, and those of its search."""
    record = read_record(job_folder.parent)
    words = [set(job["overrides"]) for job in record["jobs"]]
    searched = [dimension["key"] for dimension in record.get("search", {}).get("space", ())]
    return keys_of([*set.union(*words) - set.intersection(*words), *searched])


def record_failure(job_folder: Path, error: str, seed: object, overrides: Sequence[str]) -> None:
    """Write what remains of a job that failed. Trouble with the disk, which may be why it did, is passed over."""
    with suppress(OSError):
        job_folder.mkdir(parents=True, exist_ok=True)
        write_json(job_folder / METRICS, {"status": "failed", "error": error, "seed": seed})
        if not (job_folder / OVERRIDES).exists():
            write_json(job_folder / OVERRIDES, list(overrides))


def find_sweep(sweep: str, output_dir: Path) -> Path:
    """The folder that `latest` or a path means. Raises: FolioError where it is none of a sweep."""
    folder = Path(sweep)
    if sweep == "latest":
        records = list(output_dir.glob(f"**/{FILE}"))
        if not records:
            raise FolioError(f"sweep=latest: no sweep below {output_dir}/; start one with -m, or give its folder")
        folder = max(records, key=lambda path: path.stat().st_mtime_ns).parent
    read_record(folder)
    return folder


def resume_hint(folder: Path, python: str) -> str:
    """The command that runs what is missing or failed."""
    return f"{python} train.py -m sweep={shlex.quote(hydra_word(str(folder)))}"


def hydra_word(value: str) -> str:
    """A value as Hydra's grammar wants it typed: in quotes where it holds one of its signs."""
    if all(character.isalnum() or character in "/-_.:+%@?" for character in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
