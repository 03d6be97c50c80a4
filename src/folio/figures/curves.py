"""The scalars that a run has logged, read back from TensorBoard's files or from the CSV file. Imports no torch."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folio.runtime.errors import FolioError


@dataclass(frozen=True)
class Curve:
    """One scalar over the steps of a run; `steps` ascend, and `values` has as many."""

    steps: list[int]
    values: list[float]

    @classmethod
    def of_points(cls, points: Iterable[tuple[int, float]]) -> "Curve":
        """Of (step, value) as they were logged. A run that went on may have logged a step twice: the later counts."""
        by_step = dict(points)
        steps = sorted(by_step)
        return cls(steps, [by_step[step] for step in steps])


def read_curves(run: Path) -> dict[str, Curve]:
    """All scalars of a run folder by their tag. Raises: FolioError where it has logged none."""
    curves = _from_events(run / "tensorboard") or _from_csv(run / "csv" / "metrics.csv")
    if not curves:
        raise FolioError(f"{run} has logged no curves; they need a run with logger=tensorboard or logger=csv")
    return curves


def _from_events(folder: Path) -> dict[str, Curve]:
    if not folder.is_dir():
        return {}
    # Of the other kinds none is kept: images would fill the memory.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    return {
        tag: Curve.of_points((scalar.step, scalar.value) for scalar in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }


def _from_csv(file: Path) -> dict[str, Curve]:
    if not file.is_file():
        return {}
    points: dict[str, list[tuple[int, float]]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            points.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return {tag: Curve.of_points(found) for tag, found in points.items()}
