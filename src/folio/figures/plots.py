"""Draw loss curves, the learning-rate schedule, positional encodings, the scaling of scores. Imports no torch.

Figures are made without pyplot, which would keep them all in memory. `folio.figures.attention` draws attention.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from folio.figures.attention_scaling import N_KEYS, ScalingMeasurement
from folio.figures.curves import Curve
from folio.runtime.errors import FolioError

if TYPE_CHECKING:  # its import takes torch along
    from folio.figures.coordinate_check import CoordinateCheck

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


def positional_figure(
    table: np.ndarray,
    encoding: str,
    title: str,
    *,
    dimensions: Sequence[int] | None = None,
    n_positions: int | None = None,
) -> Figure:
    """Draw a positional encoding: a heat map of the whole table, and some of its columns as curves.

    The curves are those of `dimensions`, over the first n_positions; by default a few columns over all positions.

    Shapes: table (positions, columns), as returned by `PositionalEncoding.table`.
    """
    column, row, value = AXIS_LABELS.get(encoding, ("column", "position", "value"))
    n_columns = table.shape[1]
    figure = _figure(height_inches=6.4)
    map_axes, curve_axes = figure.subplots(2, 1, sharex=n_positions is None, height_ratios=[3, 2])
    image = map_axes.imshow(table.T, aspect="auto", origin="lower", interpolation="nearest")
    if table.max() > 0.0:  # both signs occur: make zero white
        largest = float(np.abs(table).max())
        image.set(cmap="RdBu_r", clim=(-largest, largest))
    figure.colorbar(image, ax=map_axes, label=value, pad=0.01, aspect=30)
    map_axes.set(ylabel=column, title=title_lines(title))
    if n_columns <= 2 * N_CURVES:
        map_axes.set_yticks(range(n_columns))
    for index in spread(n_columns, at_most=N_CURVES) if dimensions is None else dimensions:
        curve_axes.plot(table[:n_positions, index], linewidth=1.2, label=str(index))
    curve_axes.set(xlabel=row, ylabel=value)
    figure.legend(title=column, frameon=False, loc="outside lower center", ncols=N_CURVES)
    _style_axes(curve_axes)
    figure.align_ylabels([map_axes, curve_axes])
    return figure


def scaling_figure(measurements: Sequence[ScalingMeasurement], title: str) -> Figure:
    """Draw the variance of the products against the width of a head, and the softmax of one query of the widest."""
    figure = _figure(height_inches=5.6)
    grid = figure.add_gridspec(2, 2, width_ratios=[3, 2])
    axes = figure.add_subplot(grid[:, 0])
    widths = [measured.d_head for measured in measurements]
    variances = [measured.variance for measured in measurements]
    axes.plot(widths, variances, color="tab:red", marker="o", label="q · k")
    scaled = [measured.scaled_variance for measured in measurements]
    axes.plot(widths, scaled, color="tab:blue", marker="o", label="q · k / √d_head")
    for values in (variances, scaled):
        axes.annotate(
            format_variance(values[-1]),
            (widths[-1], values[-1]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(0.1)
    axes.set(xlabel="d_head", ylabel="variance")
    axes.legend(frameon=False, loc="upper left")
    _style_axes(axes)
    widest = measurements[-1]
    panels = (("q · k", widest.weights, "tab:red"), ("q · k / √d_head", widest.scaled_weights, "tab:blue"))
    for row, (name, weights, color) in enumerate(panels):
        panel = figure.add_subplot(grid[row, 1])
        panel.bar(range(N_KEYS), weights, color=color)
        panel.set(ylim=(0, 1), title=f"softmax of {name}", ylabel="weight")
        panel.set(xlabel=f"key, at d_head {widest.d_head}" if row else "")
        _style_axes(panel)
    figure.suptitle(title_lines(title))
    return figure


def coordinate_figure(checks: Sequence["CoordinateCheck"], title: str) -> Figure:
    """Draw a panel for each parametrization: changes against the width, fainter for the earlier steps."""
    figure = _figure(height_inches=4.4)
    panels = figure.subplots(1, len(checks), sharey=True, squeeze=False)[0]
    for axes, check in zip(panels, checks, strict=True):
        for index, (part, rows) in enumerate(check.changes.items()):
            for step, values in enumerate(zip(*rows, strict=True), start=1):
                is_last = step == len(rows[0])
                axes.plot(
                    check.widths,
                    values,
                    color=f"C{index}",
                    alpha=1.0 if is_last else 0.25,
                    marker="o" if is_last else None,
                    label=f"{part}: width^{check.growth(part):+.2f}" if is_last else None,
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(check.widths, [str(width) for width in check.widths])
        axes.set(xlabel="d_model", title=f"parametrization={check.parametrization}")
        axes.legend(frameon=False, fontsize="small", loc="upper left")
        _style_axes(axes)
    panels[0].set(ylabel="change since the start (root mean square)")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high * (high / low) ** 0.35)  # room for the legends
    figure.suptitle(title_lines(title))
    return figure


def format_variance(variance: float) -> str:
    """Return a variance with a few digits: 512.3, and 1.00 for a small one."""
    return f"{variance:.1f}" if variance >= 10 else f"{variance:.2f}"


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
        # At the bottom of the plot, a text beside the point would cover the numbers of the axis.
        va="center" if is_end and y > axes.dataLim.y1 / 8 else "bottom",
        annotation_clip=False,
    )


def _style_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
