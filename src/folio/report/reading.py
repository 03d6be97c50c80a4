"""Read run folders and sweeps for a report.

Their contents are untrusted data: nothing in them runs, control characters are written as escapes, and what is damaged
is named in a warning and left out.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from folio.config.migrations import migrate_config
from folio.report.curves import RunCurve, read_run_curves
from folio.report.text import ABSENT, Scalar, clean_text, format_value, natural_sort_key
from folio.runs.folders import COMPLETED, read_config
from folio.runs.listing import is_run, walk_runs
from folio.runs.test_looks import RECORD, read_looks
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable
from folio.runtime.untrusted import MIB, open_regular, read_json, read_json_object

MAX_FILE_BYTES = 32 * MIB
"""Limit for a JSON file, and for the end of samples.md that is read."""
MAX_SAMPLE = 4000
"""Characters of a sample that are shown."""

PARAMETER_COUNTS = ("n_parameters", "n_parameters_without_embeddings")
"""Metrics that preflight.json has too, so that they are known for a run without metrics.json."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class ReportedRun:
    """A run as a report shows it. Its texts contain no control characters."""

    folder: Path
    name: str
    """Path of the folder, as short as possible while it differs from the others."""
    status: str
    error: str
    config: dict[str, Scalar] = field(default_factory=dict)
    """Values by dotted key; empty for a job of a sweep that failed before it had a config."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The finite numbers in metrics.json; the parameter counts even without it."""
    facts: dict[str, str] = field(default_factory=dict)
    """Device, processor, git_commit and versions."""
    text_sha256: str = ""
    val_bytes: float | None = None
    """Size of the validation split; None if the run was started before that was recorded."""
    n_test_looks: int = 0
    """How often its test split was looked at."""
    test_metrics: dict[str, float] = field(default_factory=dict)
    """The figures of the last look with the context of training, as test/loss_nats and so on."""
    test_sha256: str = ""
    """SHA-256 of the tokens that were looked at."""
    tags: list[str] = field(default_factory=list)
    overrides: list[str] | None = None
    sample: str = ""
    sample_step: int | None = None
    curves: dict[str, RunCurve] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.status in COMPLETED

    @property
    def seed(self) -> Scalar:
        if "seed" in self.config:
            return self.config["seed"]
        return int(self.metrics["seed"]) if "seed" in self.metrics else None

    def config_text(self, key: str) -> str:
        """Return the value of a config key as a person types it."""
        return format_value(self.config[key]) if key in self.config else ABSENT


class SweepJob(NamedTuple):
    """A job as sweep.json lists it."""

    overrides: list[str]
    status: str


@dataclass(frozen=True)
class Sweep:
    """The contents of sweep.json."""

    folder: Path
    command: list[str]
    jobs: dict[str, SweepJob]
    """Jobs by the name of their folder."""


def read_folders(folders: Iterable[Path], warn: Warn) -> tuple[list[ReportedRun], list[Sweep]]:
    """Return all runs in and below the folders, and the sweeps found there. Raises: FolioError if there are no runs."""
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise FolioError(f"FOLDER={folder} is not a folder; give run folders, a sweep, or a folder that holds some")
    found: dict[Path, Path] = {}  # by resolved path, so that a folder given twice counts once
    sweeps: dict[Path, Sweep] = {}
    for path in (path for folder in folders for path in walk_runs(folder)):
        if (path / "sweep.json").is_file() and (sweep := _read_sweep(path, warn)) is not None:
            sweeps[path.resolve()] = sweep
        if is_run(path):
            found.setdefault(path.resolve(), path)
    root = _common_root(found)
    runs = [
        _read_run(path, _relative_name(path, root), _job_of(sweeps.get(resolved.parent), path.name), warn)
        for resolved, path in found.items()
    ]
    for folder, sweep in sweeps.items():
        missing = {name: job for name, job in sweep.jobs.items() if folder / name not in found}
        runs += [_run_without_folder(sweep.folder / name, root, job) for name, job in missing.items()]
    readable = [run for run in runs if run is not None]
    if not readable:
        given = printable(", ".join(map(str, folders)), keep="")
        raise FolioError(f"FOLDER={given}: no run that can be read; give run folders, or train one")
    names = shorten_run_names([run.name for run in readable])
    renamed = [replace(run, name=name) for run, name in zip(readable, names, strict=True)]
    return sorted(renamed, key=lambda run: natural_sort_key(run.name)), list(sweeps.values())


# Names


def shorten_run_names(names: list[str]) -> list[str]:
    """Remove the overrides that all folder names of a sweep have in common, if the names stay different."""
    parts = [name.rpartition("/") for name in names]
    overrides = [last.split(",") for _, _, last in parts]
    common = {text for text in set.intersection(*map(set, overrides)) if "=" in text} if len(names) > 1 else set()
    shortened = [
        f"{folder}{slash}{','.join(text for text in texts if text not in common)}"
        for (folder, slash, _), texts in zip(parts, overrides, strict=True)
    ]
    stay_different = len(set(shortened)) == len(set(names))
    return shortened if stay_different and not any(name.endswith("/") or not name for name in shortened) else names


def _common_root(resolved: Iterable[Path]) -> Path:
    parents = [path.parent for path in resolved]
    return Path(os.path.commonpath(parents)) if parents else Path()


def _relative_name(path: Path, root: Path) -> str:
    resolved = path.resolve()
    return clean_text(resolved.relative_to(root) if resolved.is_relative_to(root) else path)


# Sweeps


def _read_sweep(folder: Path, warn: Warn) -> Sweep | None:
    try:
        values = read_json_object(folder / "sweep.json", MAX_FILE_BYTES)
        jobs = {
            str(job["folder"]): SweepJob(_texts(job.get("overrides", [])), clean_text(job.get("status", "unknown")))
            for job in values["jobs"]
        }
        return Sweep(folder, _texts(values.get("command", [])), jobs)
    except (AttributeError, KeyError, TypeError, FolioError, OSError):
        warn(f"{folder / 'sweep.json'} is damaged; its runs are reported as if it were not there")
        return None


def _job_of(sweep: Sweep | None, name: str) -> SweepJob | None:
    return None if sweep is None else sweep.jobs.get(name)


def _run_without_folder(path: Path, root: Path, job: SweepJob) -> ReportedRun:
    """Return a job of a sweep that has no run folder."""
    is_gone = job.status in COMPLETED
    status, error = ("missing", "its folder is gone, or was left out") if is_gone else (job.status, "")
    return ReportedRun(path, _relative_name(path, root), status, error, overrides=job.overrides)


# Runs


def _read_run(folder: Path, name: str, job: SweepJob | None, warn: Warn) -> ReportedRun | None:
    """Return a run; None, with a warning, if its files are damaged or are not those of a run."""
    try:
        metrics = _read_optional_json(folder / "metrics.json")
        summary = _read_optional_json(folder / "preflight.json") or {}
        values = migrate_config(read_config(folder)) if (folder / "config.yaml").is_file() else {}
    except FolioError as error:
        warn(f"{error}; this run is left out")
        return None
    tags = _tags(values)
    config = flatten(values | {"tags": ", ".join(tags)} if values else {})
    if not config and "status" not in (metrics or {}):
        if metrics is not None:
            warn(f"{folder / 'metrics.json'} is not that of a run: it has no status; this folder is left out")
        return None
    status = _status_without_metrics(config, job) if metrics is None else metrics.get("status", "unknown")
    metrics = metrics or {}
    if debug := metrics.get("debug"):  # it counts in no mean
        status = f"debug={debug}"
    sample, step = _last_sample(folder / "samples.md")
    return ReportedRun(
        folder=folder,
        name=name,
        status=clean_text(status),
        error=clean_text(metrics.get("error") or ""),
        config=config,
        metrics=_finite_numbers({count: summary.get(count) for count in PARAMETER_COUNTS} | metrics),
        facts=_facts(metrics),
        text_sha256=clean_text(summary.get("text_sha256", "")),
        val_bytes=_finite_number(summary.get("val_bytes")),
        **_test_looks(folder, warn),
        tags=tags,
        overrides=_read_overrides(folder) if job is None else job.overrides,
        sample=sample,
        sample_step=step,
        curves=read_run_curves(folder, _finite_number(summary.get("tokens_per_step")), warn),
    )


def _status_without_metrics(config: dict[str, Scalar], job: SweepJob | None) -> str:
    if job is not None and job.status not in ("", *COMPLETED):
        return job.status
    return "dry run" if config.get("dry_run") is True else "unfinished"


def _read_optional_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file. Raises: FolioError if it is damaged."""
    try:
        return read_json_object(file, MAX_FILE_BYTES) if file.is_file() else None
    except (FolioError, OSError):
        raise FolioError(f"{file} is damaged") from None


def _read_overrides(folder: Path) -> list[str] | None:
    try:
        return _texts(read_json(folder / "overrides.json", MAX_FILE_BYTES))
    except (TypeError, FolioError, OSError):
        return None


def _tags(config: dict[str, Any]) -> list[str]:
    """Return the tags of a run, without what is none."""
    tags = config.get("tags")
    return [clean_text(tag) for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise TypeError("not a list")
    return [clean_text(value) for value in values]


def _test_looks(folder: Path, warn: Warn) -> dict[str, Any]:
    """Return the fields of a run that say what was seen of its test split, and how often."""
    try:
        looks = read_looks(folder)
    except (FolioError, OSError):
        warn(f"{folder / RECORD} is damaged, so it is not known how often the test split was looked at")
        return {}
    as_trained = [look for look in looks if isinstance(look.get("metrics"), dict) and "context_length" not in look]
    if not as_trained:
        return {"n_test_looks": len(looks)}
    last = as_trained[-1]
    metrics = _finite_numbers({f"test/{key}": value for key, value in last["metrics"].items()})
    sha256 = clean_text(last.get("tokens_sha256", ""))
    return {"n_test_looks": len(looks), "test_metrics": metrics, "test_sha256": sha256}


def _finite_numbers(values: dict[str, Any]) -> dict[str, float]:
    numbers = {clean_text(key): _finite_number(value) for key, value in values.items()}
    return {key: number for key, number in numbers.items() if number is not None}


def _finite_number(value: Any) -> float | None:
    """Return a finite number as a float; None for anything else, including true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _facts(metrics: dict[str, Any]) -> dict[str, str]:
    """Return the device, the processor, the commit and the versions that a run used."""
    facts = {key: metrics[key] for key in ("device", "processor", "git_commit") if metrics.get(key)}
    versions = metrics.get("versions")
    if isinstance(versions, dict):
        facts |= {str(key): value for key, value in versions.items()}
    return {clean_text(key): clean_text(value) for key, value in facts.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Return a nested config as values by dotted key. A list becomes text."""
    flat: dict[str, Scalar] = {}
    for key, value in values.items():
        name = clean_text(f"{prefix}{key}")
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if value is None or isinstance(value, bool | int | float) else clean_text(value)
    return flat


def _last_sample(file: Path) -> tuple[str, int | None]:
    """Return the last sample in samples.md and its step; an empty text if there is none."""
    try:
        with open_regular(file) as stream:
            stream.seek(max(0, file.stat().st_size - MAX_FILE_BYTES))
            text = stream.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except (FolioError, OSError):
        return "", None
    headings = list(re.finditer(r"^## Step (\d{1,15})$", text, re.MULTILINE))
    if not headings:
        return "", None
    # Each line of a sample is indented by four spaces, which makes it a code block in Markdown.
    lines = text[headings[-1].end() :].strip("\n").split("\n")
    sample = printable("\n".join(line.removeprefix("    ") for line in lines))
    return (sample if len(sample) <= MAX_SAMPLE else f"{sample[:MAX_SAMPLE]}..."), int(headings[-1][1])
