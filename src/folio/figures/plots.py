"""Draw the loss curves, the learning-rate schedule and the positional encoding of a run. Imports no torch.

Figures are made without pyplot, which would keep them all in memory. `folio.figures.attention` draws attention.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from folio.figures.curves import Curve
from folio.runtime.errors import FolioError

DPI = 150
WIDTH_INCHES = 8.0
N_CURVES = 6
"""Number of dimensions that are drawn as curves: as many as one can tell apart."""

TITLE_CHARACTERS = 75
"""Length of a line of a title; longer titles, such as a sweep's folder names, are wrapped."""

AXIS_LABELS = {
    "learned": ("dimension", "position", "value"),
    "concatenated": ("dimension", "position", "value"),
    "sinusoidal": ("dimension", "position", "value"),
    "rotary": ("pair of dimensions", "position", "cosine of the angle"),
    "alibi": ("head", "distance", "added to the score"),
}
"""Names of the columns, rows and values of each encoding's table."""


def loss_figure(curves: Mapping[str, Curve], title: str) -> Figure:
    """Draw training and validation loss, and the learning rate below them, over the optimizer steps.

    A run that was stopped early may lack some of them. Raises: FolioError if there is no loss yet.
    """
    train, val = curves.get("train/loss_nats"), curves.get("val/loss_nats")
    if train is None and val is None:
        raise FolioError("no loss is logged yet; let the run take some more steps")
    figure = _figure(height_inches=4.8)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    if train is not None:
        label = "training, mean since the last point"
        loss_axes.plot(train.steps, train.values, color="tab:blue", linewidth=1, label=label)
    if val is not None:
        loss_axes.plot(val.steps, val.values, color="tab:red", marker="o", label="validation, whole split")
        _mark_point(loss_axes, val.steps[-1], val.values[-1], f"{val.values[-1]:.3f}", is_end=True)
    loss_axes.set(ylabel="loss (nats per token)", title=title_lines(title))
    loss_axes.legend(frameon=False)
    if (rate := curves.get("train/learning_rate")) is not None:
        rate_axes.plot(rate.steps, rate.values, color="tab:gray", linewidth=1)
    rate_axes.set(xlabel="optimizer step", ylabel="learning rate")
    for axes in (loss_axes, rate_axes):
        _style_axes(axes)
    figure.align_ylabels()
    return figure


def schedule_figure(rates: Sequence[float], title: str) -> Figure:
    """Draw the learning rate of every optimizer step, counted from 1, and mark its peak and its end."""
    figure = _figure(height_inches=3.6)
    axes = figure.subplots()
    n_steps, peak = len(rates), int(np.argmax(rates))
    axes.plot(range(1, n_steps + 1), rates, color="tab:blue", linewidth=1.5)
    _mark_point(axes, peak + 1, rates[peak], f"{rates[peak]:.3g} at step {peak + 1:,}", is_end=False)
    if rates[-1] < rates[peak]:
        _mark_point(axes, n_steps, rates[-1], f"{rates[-1]:.3g}\nat step {n_steps:,}", is_end=True)
    axes.set(xlabel="optimizer step", ylabel="learning rate", title=title_lines(title), ylim=(0, rates[peak] * 1.18))
    _style_axes(axes)
    return figure


def positional_figure(table: np.ndarray, encoding: str, title: str) -> Figure:
    """Draw a positional encoding: a heat map of the whole table, and some of its columns as curves.

    Shapes: table (positions, columns), as returned by `PositionalEncoding.table`.
    """
    column, row, value = AXIS_LABELS.get(encoding, ("column", "position", "value"))
    n_columns = table.shape[1]
    figure = _figure(height_inches=6.4)
    map_axes, curve_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    image = map_axes.imshow(table.T, aspect="auto", origin="lower", interpolation="nearest")
    if table.max() > 0.0:  # both signs occur: make zero white
        largest = float(np.abs(table).max())
        image.set(cmap="RdBu_r", clim=(-largest, largest))
    figure.colorbar(image, ax=map_axes, label=value, pad=0.01, aspect=30)
    map_axes.set(ylabel=column, title=title_lines(title))
    if n_columns <= 2 * N_CURVES:
        map_axes.set_yticks(range(n_columns))
    for index in spread(n_columns, at_most=N_CURVES):
        curve_axes.plot(table[:, index], linewidth=1.2, label=str(index))
    curve_axes.set(xlabel=row, ylabel=value)
    figure.legend(title=column, frameon=False, loc="outside lower center", ncols=N_CURVES)
    _style_axes(curve_axes)
    figure.align_ylabels([map_axes, curve_axes])
    return figure


def spread(n: int, at_most: int) -> list[int]:
    """Return at most so many of 0 .. n - 1, evenly spread, including the first and the last."""
    return sorted({round(value) for value in np.linspace(0, n - 1, min(n, at_most)).tolist()})


def pixels(figure: Figure) -> np.ndarray:
    """Render a figure as an image: (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def title_lines(title: str, width: int = TITLE_CHARACTERS) -> str:
    """Wrap a title, and escape dollar signs, which would start a formula."""
    return "\n".join(textwrap.wrap(title, width)).replace("$", r"\$")


def _figure(height_inches: float) -> Figure:
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout=layout)


def _mark_point(axes: Axes, x: float, y: float, text: str, *, is_end: bool) -> None:
    """Mark a point with a text: to the right of the end of a curve, where there is room, else above the point."""
    _, last = axes.dataLim.intervalx
    axes.plot(x, y, color=axes.lines[-1].get_color(), marker="o")
    axes.annotate(
        text,
        (x, y),
        textcoords="offset points",
        xytext=(8, 0) if is_end else (0, 8),
        ha="left" if is_end or x < last / 2 else "right",
        va="center" if is_end else "bottom",
        annotation_clip=False,
    )


def _style_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
