"""Curves of a report: those of single runs, and the mean over the seeds of a configuration."""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from folio.report.text import clean_text
from folio.runtime.errors import FolioError

MAX_POINTS = 400
"""Points of a curve on the page: more than a screen shows."""


@dataclass(frozen=True)
class RunCurve:
    """One scalar over a run. All lists are as long as `steps`."""

    steps: list[int]
    values: list[float]
    tokens: list[float] | None
    """Tokens that training had read by each step; None if the run does not say how many a step takes."""
    seconds: list[float] | None
    """Seconds of training, without validation, by each step; None if the run has logged no throughput."""


@dataclass(frozen=True)
class MeanCurve:
    """Mean, minimum and maximum over the seeds of a configuration, at the steps that all of them have."""

    mean: RunCurve
    low: list[float]
    high: list[float]
    n: int
    """Number of seeds."""


def mean_curve(curves: Sequence[RunCurve]) -> MeanCurve | None:
    """Return the mean of the curves; None if there are fewer than two or they have no step in common."""
    if len(curves) < 2:
        return None
    steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    if not steps:
        return None
    index_of = [{step: index for index, step in enumerate(curve.steps)} for curve in curves]

    def at_common_steps(lists: Sequence[list[float]]) -> list[list[float]]:
        return [[values[index[step]] for values, index in zip(lists, index_of, strict=True)] for step in steps]

    def mean(lists: Sequence[list[float] | None]) -> list[float] | None:
        known = [values for values in lists if values is not None]
        return [sum(row) / len(row) for row in at_common_steps(known)] if len(known) == len(lists) else None

    rows = at_common_steps([curve.values for curve in curves])
    tokens, seconds = mean([curve.tokens for curve in curves]), mean([curve.seconds for curve in curves])
    means = RunCurve(steps, [sum(row) / len(row) for row in rows], tokens, seconds)
    return MeanCurve(means, [min(row) for row in rows], [max(row) for row in rows], len(curves))


def kept_points(n_points: int, max_points: int = MAX_POINTS) -> list[int]:
    """Return the indices of about `max_points` evenly spaced points, with the last one; of all if there are fewer."""
    if n_points <= max_points:
        return list(range(n_points))
    stride = -(-n_points // max_points)
    return sorted({*range(0, n_points, stride), n_points - 1})


def read_run_curves(folder: Path, tokens_per_step: float | None, warn: Callable[[str], None]) -> dict[str, RunCurve]:
    """Return the curves of a run by tag. If they cannot be read, warn and return none."""
    if not ((folder / "tensorboard").is_dir() or (folder / "csv" / "metrics.csv").is_file()):
        return {}
    # Imported here, because it takes a while and most folders may not need it.
    from google.protobuf.message import DecodeError

    from folio.figures.curves import read_curves

    try:
        curves = read_curves(folder)
    except (FolioError, OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        if "logged no curves" not in str(error):
            warn(f"the curves of {folder} cannot be read ({clean_text(error, 120)}); the rest of it is reported")
        return {}
    throughput = curves.get("train/tokens_per_s")
    seconds_at = None
    if throughput is not None and tokens_per_step:
        seconds_at = training_seconds(throughput.steps, throughput.values, tokens_per_step)
    found = {}
    for tag, curve in curves.items():
        points = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)]
        if points and re.fullmatch(r"[\w/.-]{1,80}", tag):
            steps = [step for step, _ in points]
            found[tag] = RunCurve(
                steps,
                [value for _, value in points],
                [step * tokens_per_step for step in steps] if tokens_per_step else None,
                [seconds_at(step) for step in steps] if seconds_at else None,
            )
    return found


def training_seconds(
    steps: list[int], tokens_per_s: list[float], tokens_per_step: float
) -> Callable[[float], float] | None:
    """Return a function from step to seconds of training; None if no throughput was logged.

    Each logged throughput holds since the point before it. The times at which the points were written are not used:
    they include validation, samples and checkpoints, and for a run that was resumed the next day, the night.
    """
    known = [(0, 0.0)]
    for step, speed in zip(steps, tokens_per_s, strict=True):
        if not (math.isfinite(speed) and speed > 0.0) or step <= known[-1][0]:
            continue
        last_step, seconds = known[-1]
        known.append((step, seconds + (step - last_step) * tokens_per_step / speed))
    if len(known) < 2:
        return None

    def seconds_at(step: float) -> float:
        index = min(max(bisect_left(known, step, key=lambda point: point[0]), 1), len(known) - 1)
        (step_0, seconds_0), (step_1, seconds_1) = known[index - 1], known[index]
        return seconds_0 + (seconds_1 - seconds_0) * (step - step_0) / (step_1 - step_0)

    return seconds_at
