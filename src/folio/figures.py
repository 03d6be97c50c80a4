"""Pictures of a run. Needs matplotlib and the run's TensorBoard events; imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folio.errors import FolioError


@dataclass(frozen=True)
class Curve:
    """One scalar over the steps of a run; `steps` and `values` have the same length."""

    steps: list[int]
    values: list[float]


def read_curves(run: Path) -> dict[str, Curve]:
    """All scalars of a run folder by their tag. Raises: FolioError where it holds no TensorBoard events."""
    folder = run / "tensorboard"
    if not folder.is_dir():
        raise FolioError(f"RUN={run}: {folder} does not exist; pictures need a run with logger=tensorboard")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        scalars = events.Scalars(tag)
        curves[tag] = Curve([scalar.step for scalar in scalars], [scalar.value for scalar in scalars])
    return curves


def loss_figure(curves: dict[str, Curve], title: str) -> Figure:
    """Training and validation loss, and the learning rate below them, over the optimizer steps."""
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    train, val = curves["train/loss_nats"], curves["val/loss_nats"]
    loss_axes.plot(
        train.steps, train.values, color="tab:blue", linewidth=1, label="training, mean since the last point"
    )
    loss_axes.plot(val.steps, val.values, color="tab:red", marker="o", label="validation, whole split")
    loss_axes.annotate(
        f"{val.values[-1]:.3f}", (val.steps[-1], val.values[-1]), textcoords="offset points", xytext=(-4, 8), ha="right"
    )
    loss_axes.set(ylabel="loss (nats per token)", title=title)
    loss_axes.legend(frameon=False)
    rate = curves["train/learning_rate"]
    rate_axes.plot(rate.steps, rate.values, color="tab:gray", linewidth=1)
    rate_axes.set(xlabel="optimizer step", ylabel="learning rate")
    for axes in (loss_axes, rate_axes):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
