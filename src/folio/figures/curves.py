"""Read the scalars that a run has logged, from TensorBoard's files or the CSV file. Imports no torch."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folio.runtime.errors import FolioError


@dataclass(frozen=True)
class Curve:
    """One scalar over the steps of a run, which ascend; one value per step."""

    steps: list[int]
    values: list[float]

    @classmethod
    def of_points(cls, points: Iterable[tuple[int, float]]) -> "Curve":
        """Build a curve from (step, value) as logged. A resumed run may log a step twice: the later one counts."""
        by_step = dict(points)
        steps = sorted(by_step)
        return cls(steps, [by_step[step] for step in steps])


def read_curves(run: Path) -> dict[str, Curve]:
    """Read all scalars of a run folder by their tag. Raises: FolioError if there are none."""
    curves = _from_events(run / "tensorboard") or _from_csv(run / "csv" / "metrics.csv")
    if not curves:
        raise FolioError(f"{run} has logged no curves; they need a run with logger=tensorboard or logger=csv")
    return curves


def _from_events(folder: Path) -> dict[str, Curve]:
    if not folder.is_dir():
        return {}
    # 0 keeps all; 1 keeps the last, since images would fill the memory.
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
