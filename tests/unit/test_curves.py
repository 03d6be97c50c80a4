"""The curves of a run are read back as they were logged."""

import csv
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from folio.figures.curves import Curve, read_curves
from folio.runtime.errors import FolioError

SCALARS = {
    "train/loss_nats": {10: 6.0, 20: 5.5},
    "val/loss_nats": {20: 5.75},
    "train/learning_rate": {10: 0.5, 20: 0.25},
}
"""All exact in float32."""


def points(curves: dict[str, Curve]) -> dict[str, dict[int, float]]:
    return {tag: dict(zip(curve.steps, curve.values, strict=True)) for tag, curve in curves.items()}


def test_scalars_are_read_from_tensorboard_files(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for tag, values in SCALARS.items():
            for step, value in values.items():
                writer.add_scalar(tag, value, step)
    assert points(read_curves(tmp_path)) == SCALARS


def test_scalars_are_read_from_the_csv_file_if_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    with (tmp_path / "csv" / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "name", "value"))
        writer.writerows((step, tag, value) for tag, values in SCALARS.items() for step, value in values.items())
    assert points(read_curves(tmp_path)) == SCALARS


def test_the_later_value_of_a_step_counts_and_steps_ascend() -> None:
    assert Curve.of_points([(10, 3.0), (20, 2.0), (30, 1.5), (20, 1.9), (30, 1.4)]) == Curve(
        [10, 20, 30], [3.0, 1.9, 1.4]
    )


def test_a_run_without_curves_is_one_line_of_error(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="has logged no curves; they need a run with logger=tensorboard or logger=csv"):
        read_curves(tmp_path)
