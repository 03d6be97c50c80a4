"""`sweep.json`, the manifest of a sweep: the command that started it, and each job with its overrides and status.

Every process that runs a job updates it, under a lock. A job's own folder decides what its status is.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from folio.runs.folders import COMPLETED
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, write_json
from folio.runtime.untrusted import MIB, read_json_object
from folio.sweeps.planning import Job
from folio.sweeps.words import experiment_of, keys_of

MANIFEST_FILE = "sweep.json"
METRICS_FILE = "metrics.json"
OVERRIDES_FILE = "overrides.json"
MAX_MANIFEST_BYTES = 32 * MIB
"""Limit for sweep.json: room for some 50,000 jobs."""

JOB_NAME = re.compile(r"[\w.=+-][\w.=+,-]{0,254}")
"""Names that `folio.sweeps.planning` gives to the folders of jobs."""

DONE = (*COMPLETED, "pruned", "diverged")
"""Statuses that running the job again would not change."""
SUCCESSFUL = (*COMPLETED, "pruned")

OUTPUT_DIR = "outputs"
"""Default of paths.output_dir, as in conf/train.yaml."""

Manifest = dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """Return the contents of sweep.json. Raises: FolioError if it is missing or damaged."""
    file = folder / MANIFEST_FILE
    try:
        manifest = read_json_object(file, MAX_MANIFEST_BYTES)
        jobs, command = manifest["jobs"], manifest["command"]
        lists = [jobs, command, *(job["overrides"] for job in jobs), manifest.get("search", {}).get("space", [])]
        if not all(isinstance(value, list) for value in lists):
            raise TypeError
        names = [job["folder"] for job in jobs]
        keys = [dimension["key"] for dimension in manifest.get("search", {}).get("space", [])]
        texts = [*command, *names, *keys, *(text for job in jobs for text in job["overrides"])]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        if any(JOB_NAME.fullmatch(name) is None or name in (".", "..") for name in names):
            raise ValueError
    except FileNotFoundError:
        raise FolioError(f"sweep={folder}: {file} does not exist; give the folder of a sweep, or 'latest'") from None
    except (AttributeError, FolioError, OSError, KeyError, TypeError, ValueError):
        raise FolioError(f"sweep={folder}: {file} is damaged; restore it, or start a new sweep") from None
    return manifest


def create_manifest(folder: Path, command: Sequence[str]) -> None:
    """Create sweep.json, without jobs, if it is missing. Its command stays what started the sweep."""
    if not (folder / MANIFEST_FILE).exists():
        write_manifest(folder, {"command": list(command), "jobs": []})


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
        files = [file for file in output_dir.glob(f"**/{MANIFEST_FILE}") if file.is_file()]
        if not files:
            raise FolioError(f"sweep=latest: no sweep below {output_dir}/; start one with -m, or give its folder")
        folder = max(files, key=lambda path: path.stat().st_mtime_ns).parent
    read_manifest(folder)
    return folder


def check_kind(folder: Path, is_search: bool) -> None:
    """Raises: FolioError if the sweep is a search and the command is not, or the other way round."""
    manifest = read_manifest(folder)
    if "search" in manifest and not is_search:
        raise FolioError(f"sweep={folder} is a search; add hparams_search=optuna, or start a new sweep")
    if is_search and manifest["jobs"] and "search" not in manifest:
        raise FolioError(f"sweep={folder} is not a search; leave hparams_search out, or start a new sweep")


# Jobs


def add_jobs(folder: Path, jobs: Iterable[Job], varied: Collection[str] = ()) -> None:
    """Add the jobs that are not in sweep.json yet.

    Args:
        varied: the keys that the sweep varies.

    Raises: FolioError if a job of the same name is another experiment.
    """

    def change(manifest: Manifest) -> None:
        known = {entry["folder"]: entry for entry in manifest["jobs"]}
        for job in jobs:
            if job.folder in known:
                _check_same_experiment(folder, job, known[job.folder]["overrides"], varied)
                continue
            entry = {"folder": job.folder, "overrides": list(job.overrides), "status": "missing"}
            manifest["jobs"].append(entry if job.params is None else entry | {"trial": dict(job.params)})

    update_manifest(folder, change)


def _check_same_experiment(folder: Path, job: Job, recorded: Sequence[str], varied: Collection[str]) -> None:
    old, new = experiment_of(recorded, varied), experiment_of(job.overrides, varied)
    if set(old) != set(new):
        before = " ".join(override for override in old if override not in new)
        now = " ".join(override for override in new if override not in old)
        raise FolioError(
            f"sweep={folder}: {job.folder} was started with {before or 'fewer overrides'}, not with "
            f"{now or 'fewer overrides'}; run the same command, or start a new sweep"
        )


def listed_jobs(manifest: Manifest) -> list[Job]:
    return [Job(entry["folder"], tuple(entry["overrides"]), entry.get("trial")) for entry in manifest["jobs"]]


def with_known_folders(folder: Path, jobs: Sequence[Job], varied: Collection[str] = ()) -> list[Job]:
    """Give each job the folder that sweep.json has for a job of the same experiment, if it has one.

    Args:
        varied: the keys that the sweep varies.
    """
    listed = listed_jobs(read_manifest(folder))
    known = {frozenset(experiment_of(job.overrides, varied)): job.folder for job in listed}
    return [replace(job, folder=known.get(frozenset(experiment_of(job.overrides, varied)), job.folder)) for job in jobs]


def override_keys(overrides: Iterable[str]) -> list[str]:
    """Return the keys and groups that overrides name, sorted and without duplicates."""
    return sorted(keys_of(overrides))


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
    if status in (*DONE, "failed", "interrupted"):
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
