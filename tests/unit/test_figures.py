"""The pictures of a run show what its TensorBoard events hold."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from folio.errors import FolioError
from folio.figures import loss_figure, read_curves

SCALARS = {
    "train/loss_nats": {10: 6.0, 20: 5.5},
    "val/loss_nats": {20: 5.75},
    "train/learning_rate": {10: 0.5, 20: 0.25},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the three scalars that the figure needs; all values are exact in float32."""
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for tag, points in SCALARS.items():
            for step, value in points.items():
                writer.add_scalar(tag, value, step)
    return tmp_path


def test_curves_are_read_with_all_their_points(run: Path) -> None:
    curves = read_curves(run)
    assert {tag: dict(zip(curve.steps, curve.values, strict=True)) for tag, curve in curves.items()} == SCALARS


def test_the_figure_draws_both_losses_and_the_rate_and_names_its_axes(run: Path) -> None:
    loss_axes, rate_axes = loss_figure(read_curves(run), title="a run").axes
    assert [list(line.get_ydata()) for line in loss_axes.lines] == [[6.0, 5.5], [5.75]]
    assert [list(line.get_ydata()) for line in rate_axes.lines] == [[0.5, 0.25]]
    assert loss_axes.get_title() == "a run"
    assert loss_axes.get_ylabel() == "loss (nats per token)"
    assert rate_axes.get_xlabel() == "optimizer step"


def test_a_run_without_events_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="logger=tensorboard"):
        read_curves(tmp_path)
