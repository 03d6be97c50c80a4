"""`sweep.json`, the manifest of a sweep: the command that started it, and each job with its overrides and status.

Every process that runs a job updates it, under a lock. A job's own folder decides what its status is.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from folio.runtime import commands
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, write_json
from folio.runtime.untrusted import MIB, read_json_object
from folio.sweeps.planning import Job

MANIFEST_FILE = "sweep.json"
METRICS_FILE = "metrics.json"
OVERRIDES_FILE = "overrides.json"
MAX_MANIFEST_BYTES = 32 * MIB
"""Limit for sweep.json: room for some 50,000 jobs."""

DONE = ("finished", "pruned", "diverged")
"""Statuses that running the job again would not change."""
SUCCESSFUL = ("finished", "pruned")

OUTPUT_DIR = "outputs"
"""Default of paths.output_dir, as in conf/train.yaml."""

MULTIRUN = ("-m", "--multirun")

Manifest = dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """Return the contents of sweep.json. Raises: FolioError if it is missing or damaged."""
    file = folder / MANIFEST_FILE
    try:
        manifest = read_json_object(file, MAX_MANIFEST_BYTES)
        names = [job["folder"] for job in manifest["jobs"]]
        texts = [*manifest["command"], *names, *(text for job in manifest["jobs"] for text in job["overrides"])]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        if any(Path(name).name != name or name in ("", "..") for name in names):
            raise ValueError
    except FileNotFoundError:
        raise FolioError(f"sweep={folder}: {file} does not exist; give the folder of a sweep, or 'latest'") from None
    except (FolioError, OSError, KeyError, TypeError, ValueError):
        raise FolioError(f"sweep={folder}: {file} is damaged; restore it, or start a new sweep") from None
    return manifest


def create_manifest(folder: Path) -> None:
    """Create sweep.json, without a command or jobs, if it is missing."""
    if not (folder / MANIFEST_FILE).exists():
        write_manifest(folder, {"command": [], "jobs": []})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / MANIFEST_FILE, manifest)


def update_manifest(folder: Path, change: Callable[[Manifest], None]) -> Manifest:
    """Read sweep.json, change it and write it back, while no other process does. Returns the new contents."""
    with exclusive_lock(folder / MANIFEST_FILE):
        manifest = read_manifest(folder)
        change(manifest)
        write_manifest(folder, manifest)
    return manifest


def find_sweep(sweep: str, output_dir: Path) -> Path:
    """Return the sweep folder that `latest` or a path names. Raises: FolioError if it is not the folder of a sweep."""
    folder = Path(sweep)
    if sweep == "latest":
        files = list(output_dir.glob(f"**/{MANIFEST_FILE}"))
        if not files:
            raise FolioError(f"sweep=latest: no sweep below {output_dir}/; start one with -m, or give its folder")
        folder = max(files, key=lambda path: path.stat().st_mtime_ns).parent
    read_manifest(folder)
    return folder


# Jobs


def add_jobs(folder: Path, jobs: Iterable[Job], command: Sequence[str]) -> None:
    """Add the jobs that are not in sweep.json yet, and replace its command.

    Raises: FolioError if a job of the same name has other overrides.
    """
    create_manifest(folder)

    def change(manifest: Manifest) -> None:
        known = {entry["folder"]: entry for entry in manifest["jobs"]}
        for job in jobs:
            if job.folder in known:
                _check_same_overrides(folder, job, known[job.folder]["overrides"])
                continue
            entry = {"folder": job.folder, "overrides": list(job.overrides), "status": "missing"}
            manifest["jobs"].append(entry if job.params is None else entry | {"trial": dict(job.params)})
        manifest["command"] = list(command)

    update_manifest(folder, change)


def _check_same_overrides(folder: Path, job: Job, recorded: Sequence[str]) -> None:
    if tuple(recorded) != job.overrides:
        before = " ".join(override for override in recorded if override not in job.overrides)
        now = " ".join(override for override in job.overrides if override not in recorded)
        raise FolioError(
            f"sweep={folder}: {job.folder} was started with {before or 'fewer overrides'}, not with "
            f"{now or 'fewer overrides'}; run the same command, or start a new sweep"
        )


def listed_jobs(manifest: Manifest) -> list[Job]:
    return [Job(entry["folder"], tuple(entry["overrides"]), entry.get("trial")) for entry in manifest["jobs"]]


def with_known_folders(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """Give each job the folder that sweep.json has for a job of the same overrides, if it has one."""
    if not (folder / MANIFEST_FILE).exists():
        return list(jobs)
    known = {job.overrides: job.folder for job in listed_jobs(read_manifest(folder))}
    return [replace(job, folder=known.get(job.overrides, job.folder)) for job in jobs]


def override_keys(overrides: Iterable[str]) -> list[str]:
    """Return the keys and groups that overrides name, sorted and without duplicates."""
    return sorted({override.lstrip("+~").partition("=")[0] for override in overrides})


def varied_keys(job_folder: Path) -> list[str]:
    """Return the keys that a job's sweep varies: those in whose overrides its jobs differ, and its search space."""
    manifest = read_manifest(job_folder.parent)
    overrides = [set(entry["overrides"]) for entry in manifest["jobs"]]
    searched = [dimension["key"] for dimension in manifest.get("search", {}).get("space", ())]
    return override_keys([*set.union(*overrides) - set.intersection(*overrides), *searched])


# Statuses


def job_status(job_folder: Path) -> str:
    """Return the status in metrics.json; without one, interrupted if the job has a checkpoint, else missing."""
    status = read_metrics(job_folder).get("status")
    if status in ("finished", "failed", "diverged", "pruned", "interrupted"):
        return str(status)
    return "interrupted" if (job_folder / "checkpoints" / "last.ckpt").exists() else "missing"


def read_metrics(job_folder: Path) -> dict[str, Any]:
    """Return the contents of metrics.json; empty if it is missing or damaged, so that the job runs again."""
    try:
        return read_json_object(job_folder / METRICS_FILE)
    except (FolioError, OSError):
        return {}


def refresh_statuses(folder: Path) -> Manifest:
    """Set every status to what the job's folder says. To be called while no job is running."""

    def change(manifest: Manifest) -> None:
        for entry in manifest["jobs"]:
            entry["status"] = job_status(folder / entry["folder"])
            entry.pop("pid", None)

    return update_manifest(folder, change)


def set_status(folder: Path, name: str, status: str, pid: int | None = None) -> None:
    """Record the status of one job, and the process that runs it, if any."""

    def change(manifest: Manifest) -> None:
        for entry in manifest["jobs"]:
            if entry["folder"] == name:
                entry.pop("pid", None)
                entry |= {"status": status} if pid is None else {"status": status, "pid": pid}

    update_manifest(folder, change)


def record_failure(job_folder: Path, error: str, seed: object, overrides: Sequence[str]) -> None:
    """Write metrics.json and overrides.json for a job that failed. A disk error is ignored: it may be the cause."""
    with suppress(OSError):
        job_folder.mkdir(parents=True, exist_ok=True)
        write_json(job_folder / METRICS_FILE, {"status": "failed", "error": error, "seed": seed})
        if not (job_folder / OVERRIDES_FILE).exists():
            write_json(job_folder / OVERRIDES_FILE, list(overrides))


# Replay: the command that sweep.json keeps


def resume_sweep_command(folder: Path) -> str:
    """Return the command that runs the jobs that are missing or failed."""
    return commands.command("train.py", "-m", commands.override("sweep", folder))


def replay_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of train.py, with `sweep=<folder>` replaced by the command that sweep.json keeps.

    They are replaced only if no other override of the experiment is given. Hydra's own overrides, such as
    hydra/launcher=joblib, are added to the recorded command.

    Raises: FolioError if the folder is not that of a sweep, or its command names code to run.
    """
    overrides = [word for word in arguments if not word.startswith(("-", "hydra.", "hydra/", "paths.output_dir="))]
    options = [word for word in arguments if word.startswith("-")]
    if len(overrides) != 1 or not overrides[0].startswith("sweep=") or not set(options) <= set(MULTIRUN):
        return list(arguments)
    sweep = overrides[0].partition("=")[2]
    output_dirs = [word.partition("=")[2] for word in arguments if word.startswith("paths.output_dir=")]
    folder = find_sweep(_unquote(sweep), Path(_unquote(output_dirs[-1]) if output_dirs else OUTPUT_DIR))
    _, *recorded = read_manifest(folder)["command"] or [""]
    for word in recorded:
        if not is_safe_to_replay(word):
            raise FolioError(
                f"sweep={sweep}: {word} is not read from a file; type the whole command with sweep={sweep}"
            )
    added = [word for word in arguments if word not in recorded and word not in options]
    return [*(word for word in recorded if not word.startswith("sweep=")), *added]


def is_safe_to_replay(word: str) -> bool:
    """Return whether a word of a recorded command only says what to train and how many jobs run in parallel.

    Other words of Hydra's could name code to run, and sweep.json may come from someone else.
    """
    if word.startswith("-"):
        return word in MULTIRUN
    if "${" in word:  # would read the environment
        return False
    is_hydras = word.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0].startswith("hydra")
    return not is_hydras or re.fullmatch(r"hydra/launcher=\w+|hydra\.launcher\.n_jobs=-?\d+", word) is not None


def _unquote(value: str) -> str:
    """Read a value as Hydra and OmegaConf do: undo `folio.runtime.commands.quote_for_hydra`."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    return re.sub(rf"(\\+)(?={value[0]}|\$\{{|$)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])
