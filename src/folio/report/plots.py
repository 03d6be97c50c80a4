"""The plots of a report and of the studies, for papers and slides. The page draws its own. Imports matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from folio.report.colors import LIGHT, Style, assign_styles
from folio.report.curves import RunCurve, mean_curve
from folio.report.extrapolation import Measurement, groups_of, lengths_of, summarize_length
from folio.report.grouping import Group
from folio.report.metrics import CURVE_TAGS, Column
from folio.report.rate_transfer import RateTransfer
from folio.report.report import Report
from folio.report.scaling import ScalingFit
from folio.report.text import natural_sort_key

DPI = 160
MAX_LEGEND_ENTRIES = 14
MAX_LABEL = 34
"""Characters of a label: none is as wide as the plot."""

X_AXES = {"steps": "optimizer step", "tokens": "tokens read", "seconds": "seconds of training"}
"""Fields of a `RunCurve` that a curve is drawn over, with the titles of their axes."""


def report_plots(report: Report) -> dict[str, Figure]:
    """Return the plots of a report by file name, without those for which no run has data."""
    plots = {"report_results.png": plot_results(report), "report_curves.png": plot_curves(report)}
    return {name: figure for name, figure in plots.items() if figure is not None}


def group_styles(report: Report) -> tuple[dict[int, str], dict[str, Style]]:
    """Return the value by which each run is colored, by its `id`, and the style of each value."""
    if report.group_by is None:
        labels = report.grouping.labels
        return labels, assign_styles(list(labels.values()))
    values = {id(run): run.config_text(report.group_by) for group in report.groups for run in group.runs}
    return values, assign_styles(sorted(values.values(), key=natural_sort_key))


# Results


def plot_results(report: Report) -> Figure | None:
    """Plot each metric in a panel: a dot for every seed, and the mean with its 95 % confidence interval."""
    groups = [group for group in report.groups if group.averaged]
    columns = [c for c in report.columns if any(group.metric_values(c.metric) for group in groups)]
    if not groups or not columns:
        return None
    values, styles = group_styles(report)
    colors = [styles[values[id(group.runs[0])]].light for group in groups]
    n_across = min(3, len(columns))
    n_down = -(-len(columns) // n_across)
    figure = new_figure(3.4 * n_across + 1.0, n_down * (1.0 + 0.32 * len(groups)))
    panels = figure.subplots(n_down, n_across, squeeze=False, sharey=True).flatten()
    for axes, column in zip(panels, columns, strict=False):
        _plot_metric(axes, column, groups, colors)
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    figure.suptitle("Dot: one seed. Bar: mean, with its 95 % confidence interval.", fontsize="medium")
    return figure


def _plot_metric(axes: Axes, column: Column, groups: Sequence[Group], colors: Sequence[str]) -> None:
    for y, (group, color) in enumerate(zip(groups, colors, strict=True)):
        values = [value * column.scale for value in group.metric_values(column.metric)]
        axes.plot(values, [y] * len(values), "o", color=color, alpha=0.55, markersize=5, markeredgewidth=0)
        summary = group.summary(column.metric)
        if summary is not None and summary.margin is not None:
            mean, margin = summary.mean * column.scale, summary.margin * column.scale
            axes.errorbar(mean, y, xerr=margin, fmt="|", color=color, markersize=13, markeredgewidth=2, capsize=3)
    axes.set_yticks(range(len(groups)), [label_text(f"{group.label} (n={len(group.averaged)})") for group in groups])
    axes.set(ylim=(len(groups) - 0.5, -0.5), xlabel=column.heading)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.12)
    style_axes(axes)


# Curves


def plot_curves(report: Report) -> Figure | None:
    """Plot the validation loss over steps, tokens and seconds: a thin line per run, a thick one for the mean."""
    tag = next((tag for tag in CURVE_TAGS if any(tag in run.curves for run in report.runs)), None)
    if tag is None:
        return None
    curves = [run.curves[tag] for run in report.runs if tag in run.curves]
    x_fields = [x_field for x_field in X_AXES if any(_x_values(curve, x_field) for curve in curves)]
    values, styles = group_styles(report)
    figure = new_figure(3.9 * len(x_fields), 4.4)
    panels = figure.subplots(1, len(x_fields), squeeze=False, sharey=True)[0]
    for axes, x_field in zip(panels, x_fields, strict=True):
        for group in report.groups:
            _plot_group_curves(axes, group, tag, x_field, {id(run): styles[values[id(run)]] for run in group.runs})
        axes.set(xlabel=X_AXES[x_field], xlim=(0, None))
        axes.xaxis.set_major_formatter(EngFormatter(unit="", sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        style_axes(axes)
    panels[0].set_ylabel(CURVE_TAGS[tag])
    panels[0].set_ylim(*_range_after_start(curves))
    _add_legend(figure, styles)
    return figure


def _plot_group_curves(axes: Axes, group: Group, tag: str, x_field: str, styles: Mapping[int, Style]) -> None:
    """Plot the runs of a group and their mean. A run that did not finish ends in a cross."""
    mean = mean_curve([run.curves[tag] for run in group.averaged if tag in run.curves])
    for run in group.runs:
        curve, style = run.curves.get(tag), styles[id(run)]
        x = None if curve is None else _x_values(curve, x_field)
        if curve is None or x is None:
            continue
        width, alpha = (0.8, 0.5) if mean is not None or not run.is_finished else (1.8, 1.0)
        axes.plot(x, curve.values, color=style.light, linewidth=width, alpha=alpha, linestyle=line_style(style))
        if not run.is_finished:
            axes.plot(x[-1], curve.values[-1], "x", color=style.light)
    x = None if mean is None else _x_values(mean.mean, x_field)
    if mean is not None and x is not None:
        style = styles[id(group.runs[0])]
        axes.plot(x, mean.mean.values, color=style.light, linewidth=2.2, linestyle=line_style(style))
        axes.fill_between(x, mean.low, mean.high, color=style.light, alpha=0.12, linewidth=0)


def _x_values(curve: RunCurve, x_field: str) -> Sequence[float] | None:
    values: Sequence[float] | None = getattr(curve, x_field)
    return values


def _range_after_start(curves: Sequence[RunCurve]) -> tuple[float, float]:
    """Return the range of the values after the first eighth: the steep fall before it would flatten the rest."""
    start = max(curve.steps[-1] for curve in curves) / 8
    values = [value for curve in curves for step, value in zip(curve.steps, curve.values, strict=True) if step >= start]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _add_legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    shown = list(styles.items())[:MAX_LEGEND_ENTRIES]
    handles = [Line2D([], [], color=style.light, linestyle=line_style(style), linewidth=2) for _, style in shown]
    labels = [label_text(value) for value, _ in shown]
    if len(styles) > MAX_LEGEND_ENTRIES:
        handles.append(Line2D([], [], linewidth=0))
        labels.append(f"and {len(styles) - MAX_LEGEND_ENTRIES} more")
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)


# Studies


def plot_scaling(scaling: ScalingFit) -> Figure:
    """Plot a dot for every run, and the power law, on logarithmic axes."""
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    for points in scaling.points.values():
        axes.plot(*zip(*points, strict=True), "o", color=LIGHT[0], alpha=0.6, markersize=5, markeredgewidth=0)
    ends = [scaling.rows[0][0], scaling.rows[-1][0]]
    axes.plot(ends, [scaling.law(x) for x in ends], color=LIGHT[1], linewidth=1.5)
    std = "" if scaling.exponents.std is None else f" ± {scaling.exponents.std:.4f} over seeds"
    axes.set_title(f"exponent {scaling.law.exponent:.4f}{std}", fontsize="medium")
    axes.set(xscale="log", yscale="log", xlabel=scaling.quantity.title, ylabel=f"validation {scaling.primary.title}")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    style_axes(axes)
    return figure


def plot_rates(transfer: RateTransfer) -> Figure:
    """Plot the loss over the learning rate in a panel for each parametrization: a line per width, its best rate marked.

    Bars are standard deviations over seeds.
    """
    figure = new_figure(7.6, 4.2)
    panels = figure.subplots(1, len(transfer.sweeps), sharey=True, squeeze=False)[0]
    widths = sorted({each.d_model for sweeps in transfer.sweeps.values() for each in sweeps})
    styles = assign_styles([str(width) for width in widths])
    for axes, (parametrization, sweeps) in zip(panels, transfer.sweeps.items(), strict=True):
        for each in sweeps:
            rates, losses, color = list(each.losses), list(each.losses.values()), styles[str(each.d_model)].light
            means, stds = [loss.mean for loss in losses], [loss.std or 0.0 for loss in losses]
            axes.errorbar(
                rates,
                means,
                yerr=stds,
                color=color,
                marker="o",
                markersize=4,
                capsize=3,
                label=f"d_model {each.d_model}",
            )
            best = each.best_rate
            axes.plot(best, each.losses[best].mean, "*", color=color, markersize=13)
        axes.axvline(transfer.transferred_rate(parametrization), color="#888888", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        rates_of_all = sorted({rate for each in sweeps for rate in each.losses})
        axes.set_xticks(rates_of_all, [f"{rate:g}" for rate in rates_of_all], rotation=45)
        axes.set(xlabel="optimizer.learning_rate", title=f"parametrization={parametrization}")
        style_axes(axes)
    panels[0].set(ylabel=f"validation {transfer.primary.title}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return figure


def plot_extrapolation(measurements: Sequence[Measurement]) -> Figure:
    """Plot mean and standard deviation of each configuration. A dotted line marks the training length."""
    figure = new_figure(5.6, 4.4)
    axes = figure.subplots()
    groups, lengths = groups_of(measurements), lengths_of(measurements)
    styles = assign_styles([group.label for group in groups])
    for group in groups:
        summaries = {length: summarize_length(measurements, group, length) for length in lengths}
        known = {length: summary for length, summary in summaries.items() if summary is not None}
        if not known:
            continue
        style = styles[group.label]
        axes.errorbar(
            list(known),
            [summary.mean for summary in known.values()],
            yerr=[summary.std or 0.0 for summary in known.values()],
            color=style.light,
            linestyle=line_style(style),
            marker="o",
            markersize=4,
            capsize=3,
            label=label_text(group.label),
        )
    for length in sorted({measurement.trained_with for measurement in measurements}):
        axes.axvline(length, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(lengths)
    axes.minorticks_off()
    axes.set(xlabel="tokens in a window (dotted: in training)", ylabel="validation loss (nats per token)")
    figure.legend(loc="outside lower center", ncols=min(4, len(groups)), frameon=False)
    style_axes(axes)
    return figure


# Style


def line_style(style: Style) -> Literal["-"] | tuple[float, Sequence[float]]:
    return (0.0, tuple(float(part) / 2 for part in style.dash.split())) if style.dash else "-"


def label_text(text: str) -> str:
    """Shorten a label, and escape its dollar signs, which would begin a formula."""
    text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 3]}..."
    return text.replace("$", r"\$")


def new_figure(width_inches: float, height_inches: float) -> Figure:
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    return Figure(figsize=(width_inches, height_inches), dpi=DPI, layout=layout)


def style_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
