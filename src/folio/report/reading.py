"""Run folders and sweeps, read for a report. All they hold is data of unknown origin: nothing of it runs, hidden
characters are shown in words, and what is damaged is named and left out.
"""

import json
import math
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from folio.config.migrations import migrate_config
from folio.runs.folders import read_config
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable

FINISHED = "finished"
LONGEST_FILE = 32 * 1024 * 1024
"""Bytes of a file that a run writes whole; of samples.md as many are read from its end."""
LONGEST_TEXT = 400
"""Characters of a value or an error."""
LONGEST_SAMPLE = 4000

PARAMETERS = ("n_parameters", "n_parameters_without_embeddings")
"""Of preflight.json: known also of a run that has no metrics."""

Warn = Callable[[str], None]
Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Points:
    """One scalar over a run: all lists are as long as `steps`."""

    steps: list[int]
    values: list[float]
    tokens: list[float] | None
    """That training had read by then; None where the run does not say how many a step takes."""
    seconds: list[float] | None
    """Of training, validation left out; None where the run has logged no speed."""


@dataclass(frozen=True)
class ReportedRun:
    """What a report says of one run. Texts hold no control characters."""

    folder: Path
    name: str
    """The folder, as short as it can be told from the others."""
    status: str
    error: str
    config: dict[str, Scalar] = field(default_factory=dict)
    """By dotted keys; empty for a job of a sweep that did not get as far as a config."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The finite numbers of metrics.json, and n_parameters at least of a run without one."""
    facts: dict[str, str] = field(default_factory=dict)
    """device, git_commit, and the versions."""
    text_sha256: str = ""
    overrides: list[str] | None = None
    sample: str = ""
    sample_step: int | None = None
    curves: dict[str, Points] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.status == FINISHED

    @property
    def seed(self) -> Scalar:
        if "seed" in self.config:
            return self.config["seed"]
        return int(self.metrics["seed"]) if "seed" in self.metrics else None


@dataclass(frozen=True)
class Sweep:
    """What sweep.json says."""

    folder: Path
    command: list[str]
    jobs: dict[str, tuple[list[str], str]]
    """Overrides and status by the name of a job's folder."""


def read_all(folders: Iterable[Path], warn: Warn) -> tuple[list[ReportedRun], list[Sweep]]:
    """All runs in and below the folders, and the sweeps that some of them belong to. Raises: FolioError for none."""
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise FolioError(f"FOLDER={folder} is not a folder; give run folders, a sweep, or a folder that holds some")
    sweeps: dict[Path, Sweep] = {}
    found: dict[Path, Path] = {}  # by what it is behind links: a folder given twice is one
    for folder in folders:
        for place in _walk(folder):
            if (place / "sweep.json").is_file() and (sweep := _read_sweep(place, warn)) is not None:
                sweeps[place.resolve()] = sweep
            if is_run(place):
                found.setdefault(place.resolve(), place)
    root = _common_root(found.values())
    runs = []
    for real, place in found.items():
        sweep = sweeps.get(real.parent)
        run = _read_run(place, _name(place, root), sweep.jobs.get(place.name) if sweep else None, warn)
        runs += [] if run is None else [run]
    for sweep in sweeps.values():
        present = {place.name for real, place in found.items() if real.parent == sweep.folder.resolve()}
        for name, (overrides, status) in sweep.jobs.items():
            if name not in present:
                runs.append(_absent(sweep.folder / name, root, overrides, status))
    if not runs:
        places = ", ".join(map(str, folders))
        raise FolioError(
            f"FOLDER={printable(places, keep='')}: no run that can be read; give run folders, or train one"
        )
    names = brief_names([run.name for run in runs])
    runs = [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    return sorted(runs, key=lambda run: natural(run.name)), list(sweeps.values())


def brief_names(names: list[str]) -> list[str]:
    """The names of a sweep's folders without the overrides that all of them have, as long as they stay different."""
    parts = [name.rpartition("/") for name in names]
    overrides = [last.split(",") for _, _, last in parts]
    common = {text for text in set.intersection(*map(set, overrides)) if "=" in text} if len(names) > 1 else set()
    brief = [
        f"{folder}{slash}{','.join(text for text in texts if text not in common)}"
        for (folder, slash, _), texts in zip(parts, overrides, strict=True)
    ]
    is_told_apart = len(set(brief)) == len(set(names)) and not any(name.endswith("/") or not name for name in brief)
    return brief if is_told_apart else names


def is_run(folder: Path) -> bool:
    """A job that failed before it began has metrics.json alone; one that was killed, config.yaml alone."""
    return any((folder / name).is_file() for name in ("metrics.json", "config.yaml", "preflight.json"))


def natural(text: str) -> list[Any]:
    """Sorts as people do: seed=2 before seed=10, and 0.0121 before 0.15."""
    parts = re.split(r"(\d{1,18}(?:\.\d{1,18})?(?:e[+-]?\d{1,2})?)", text)  # every other one is a number
    return [(1, 0.0, part) if place % 2 == 0 else (0, float(part), "") for place, part in enumerate(parts)]


def _walk(folder: Path) -> Iterator[Path]:
    """The folder and those below it. Run folders hold none, and links may lead in a circle."""
    for place, below, _ in os.walk(folder):
        path = Path(place)
        below[:] = [] if is_run(path) else sorted(name for name in below if not name.startswith("."))
        yield path


def _common_root(places: Iterable[Path]) -> Path:
    parents = [place.resolve().parent for place in places]
    return Path(os.path.commonpath(parents)) if parents else Path()


def _name(place: Path, root: Path) -> str:
    real = place.resolve()
    return short(str(real.relative_to(root)) if real.is_relative_to(root) else str(place))


def _absent(place: Path, root: Path, overrides: list[str], status: str) -> ReportedRun:
    """A job of a sweep that has no folder, or one with nothing in it."""
    is_gone = status == FINISHED
    error = "its folder is gone, or was left out" if is_gone else ""
    return ReportedRun(place, _name(place, root), "missing" if is_gone else status, error, overrides=overrides)


def _read_sweep(folder: Path, warn: Warn) -> Sweep | None:
    try:
        values = _read_json(folder / "sweep.json")
        jobs = {
            str(job["folder"]): (_texts(job.get("overrides", [])), short(job.get("status", "unknown")))
            for job in values["jobs"]
        }
        return Sweep(folder, _texts(values.get("command", [])), jobs)
    except (AttributeError, KeyError, TypeError, ValueError, OSError, RecursionError):
        warn(f"{folder / 'sweep.json'} is damaged; its runs are reported as if it were not there")
        return None


def _read_run(folder: Path, name: str, job: tuple[list[str], str] | None, warn: Warn) -> ReportedRun | None:
    """None, and a warning, where what the run says of itself is damaged."""
    try:
        metrics = _optional_json(folder / "metrics.json")
        summarize_run = _optional_json(folder / "preflight.json") or {}
        config = flatten(migrate_config(read_config(folder))) if (folder / "config.yaml").is_file() else {}
    except _DamagedError as damage:
        warn(f"{damage.file} is damaged; this run is left out")
        return None
    except FolioError as error:
        warn(f"{error}; this run is left out")
        return None
    if not config and "status" not in (metrics or {}):
        if metrics is not None:
            warn(f"{folder / 'metrics.json'} is not of a run: it has no status; this folder is left out")
        return None
    overrides, sweep_status = job if job is not None else (_overrides(folder), "")
    if metrics is None:
        dry = "dry run" if config.get("dry_run") is True else "unfinished"
        known = {"status": sweep_status if sweep_status not in ("", FINISHED) else dry}
    else:
        known = {"status": metrics.get("status", "unknown")}
    metrics = metrics or {}
    numbers = _numbers({name: summarize_run.get(name) for name in PARAMETERS} | metrics)
    text, step = _last_sample(folder / "samples.md")
    return ReportedRun(
        folder=folder,
        name=name,
        status=short(known["status"]),
        error=short(metrics.get("error") or "", LONGEST_TEXT),
        config=config,
        metrics=numbers,
        facts=_facts(metrics),
        text_sha256=short(summarize_run.get("text_sha256", "")),
        overrides=overrides,
        sample=text,
        sample_step=step,
        curves=_read_points(folder, _number(summarize_run.get("tokens_per_step")), warn),
    )


class _DamagedError(Exception):
    """A file that is there and cannot be read as what it should be."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self.file = file


def _optional_json(file: Path) -> dict[str, Any] | None:
    """An object; None where there is no file. Raises: _DamagedError."""
    if not file.is_file():
        return None
    try:
        values = _read_json(file)
    except (ValueError, OSError, RecursionError):
        raise _DamagedError(file) from None
    if not isinstance(values, dict):
        raise _DamagedError(file)
    return values


def _read_json(file: Path) -> Any:
    if file.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{file} is too large")
    return json.loads(file.read_text(encoding="utf-8"))


def _overrides(folder: Path) -> list[str] | None:
    try:
        return _texts(_read_json(folder / "overrides.json"))
    except (ValueError, TypeError, OSError, RecursionError):
        return None


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise TypeError("not a list")
    return [short(value) for value in values]


def _number(value: Any) -> float | None:
    """A finite one; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    found = {short(key): _number(value) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}


def _facts(metrics: dict[str, Any]) -> dict[str, str]:
    """What a run was made with, and on."""
    facts = {key: metrics[key] for key in ("device", "git_commit") if metrics.get(key)}
    versions = metrics.get("versions")
    if isinstance(versions, dict):
        facts |= {str(key): value for key, value in versions.items()}
    return {short(key): short(value) for key, value in facts.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested config to dotted keys; a list is its text. Hidden characters are shown in words."""
    flat: dict[str, Scalar] = {}
    for key, value in values.items():
        name = short(f"{prefix}{key}")
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if value is None or isinstance(value, bool | int | float) else short(value)
    return flat


def short(value: object, longest: int = LONGEST_TEXT) -> str:
    """A text in one line, which a terminal shows and does not obey, and of a bounded length."""
    text = printable(str(value), keep="")
    return text if len(text) <= longest else f"{text[:longest]}..."


def _last_sample(file: Path) -> tuple[str, int | None]:
    """The last section of samples.md and its step; an empty text where there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - LONGEST_FILE))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return "", None
    headings = list(re.finditer(r"^## Step (\d{1,15})$", text, re.MULTILINE))
    if not headings:
        return "", None
    # Each line stands behind four blanks, which keep it text in Markdown.
    lines = text[headings[-1].end() :].strip("\n").split("\n")
    sample = printable("\n".join(line.removeprefix("    ") for line in lines))
    return (sample if len(sample) <= LONGEST_SAMPLE else f"{sample[:LONGEST_SAMPLE]}..."), int(headings[-1][1])


def _read_points(folder: Path, tokens_per_step: float | None, warn: Warn) -> dict[str, Points]:
    """The curves of a run by their tag; empty, where there are any files with a warning, if they cannot be read."""
    if not ((folder / "tensorboard").is_dir() or (folder / "csv" / "metrics.csv").is_file()):
        return {}
    # Only here: it takes a while, and the folders may be none of ours.
    from google.protobuf.message import DecodeError

    from folio.figures.curves import read_curves

    try:
        curves = read_curves(folder)
    except (FolioError, OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        started = "logged no curves" not in str(error)
        if started:
            warn(f"the curves of {folder} cannot be read ({short(error, 120)}); its other figures are reported")
        return {}
    speed = curves.get("train/tokens_per_s")
    clock = None
    if speed is not None and tokens_per_step:
        clock = training_seconds(speed.steps, speed.values, tokens_per_step)
    found = {}
    for tag, curve in curves.items():
        points = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)]
        if points and re.fullmatch(r"[\w/.-]{1,80}", tag):
            steps = [step for step, _ in points]
            found[tag] = Points(
                steps,
                [value for _, value in points],
                [step * tokens_per_step for step in steps] if tokens_per_step else None,
                [clock(step) for step in steps] if clock else None,
            )
    return found


def training_seconds(
    steps: list[int], tokens_per_s: list[float], tokens_per_step: float
) -> Callable[[float], float] | None:
    """Seconds of training by the step, from the speeds that were logged: each holds since the point before.

    Not from the times at which the points were written: those count validation, samples and checkpoints, and of a run
    that went on the next day, the night.
    """
    known = [(0, 0.0)]
    for step, speed in zip(steps, tokens_per_s, strict=True):
        if not (math.isfinite(speed) and speed > 0.0) or step <= known[-1][0]:
            continue
        before, seconds = known[-1]
        known.append((step, seconds + (step - before) * tokens_per_step / speed))
    if len(known) < 2:
        return None

    def seconds_at(step: float) -> float:
        place = min(max(bisect_left(known, step, key=lambda point: point[0]), 1), len(known) - 1)
        (first, begun), (last, ended) = known[place - 1], known[place]
        return begun + (ended - begun) * (step - first) / (last - first)

    return seconds_at
