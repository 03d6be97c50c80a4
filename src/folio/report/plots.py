"""The pictures of a report, for papers and slides; the page draws its own. matplotlib is imported with this file."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from folio.report.colors import Style, styles
from folio.report.columns import CURVES
from folio.report.curves import mean_curve
from folio.report.groups import shown
from folio.report.reading import Points, ReportedRun, natural
from folio.report.report import Report

DPI = 160
N_IN_LEGEND = 14
LONGEST_LABEL = 34
AXES = (("steps", "optimizer step"), ("tokens", "tokens read"), ("seconds", "seconds of training"))


def pictures(report: Report) -> dict[str, Figure]:
    """By the name of their file; without those for which no run has figures."""
    drawn = {"report_results.png": results_figure(report), "report_curves.png": curves_figure(report)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def run_styles(report: Report) -> tuple[dict[int, str], dict[str, Style]]:
    """What each run (by its id) is grouped as, by the key of the report or by configuration, and the styles."""
    if report.group_by is None:
        names = {id(run): group.label for group in report.groups for run in group.runs}
        return names, styles(list(names.values()))
    names = {id(run): shown(run, report.group_by) for group in report.groups for run in group.runs}
    return names, styles(sorted(names.values(), key=natural))


def results_figure(report: Report) -> Figure | None:
    """A panel for each figure: every seed a dot, and the mean with its 95 % interval."""
    groups = [group for group in report.groups if group.counted]
    columns = [c for c in report.columns if any(group.numbers(c.metric) for group in groups)]
    if not groups or not columns:
        return None
    names, looks = run_styles(report)
    n_across = min(3, len(columns))
    n_down = -(-len(columns) // n_across)
    figure = _figure(3.4 * n_across + 1.0, n_down * (1.0 + 0.32 * len(groups)))
    grid = figure.subplots(n_down, n_across, squeeze=False, sharey=True).flatten()
    for axes, column in zip(grid, columns, strict=False):
        for place, group in enumerate(groups):
            color = looks[names[id(group.runs[0])]].light
            values = [value * column.scale for value in group.numbers(column.metric)]
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.55, markersize=5, markeredgewidth=0)
            summary = group.summary(column.metric)
            if summary is not None and summary.margin is not None:
                mean, margin = summary.mean * column.scale, summary.margin * column.scale
                axes.errorbar(
                    mean, place, xerr=margin, fmt="|", color=color, markersize=13, markeredgewidth=2, capsize=3
                )
        axes.set_yticks(range(len(groups)), [_label(f"{group.label} (n={len(group.counted)})") for group in groups])
        axes.set(ylim=(len(groups) - 0.5, -0.5), xlabel=column.heading)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.12)
        _plain(axes)
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    figure.suptitle("Each seed a dot; the mean with its 95 % interval", fontsize="medium")
    return figure


def curves_figure(report: Report) -> Figure | None:
    """The validation loss by step, tokens and seconds: a thin line a run, a thick one the mean over seeds."""
    tag, title = next(
        ((tag, title) for tag, title in CURVES if any(tag in run.curves for run in report.runs)), ("", "")
    )
    if not tag:
        return None
    names, looks = run_styles(report)
    axes_shown = [
        each for each in AXES if any(_along(run.curves[tag], each[0]) for run in report.runs if tag in run.curves)
    ]
    figure = _figure(3.9 * len(axes_shown), 4.4)
    grid = figure.subplots(1, len(axes_shown), squeeze=False, sharey=True)[0]
    for axes, (name, label) in zip(grid, axes_shown, strict=True):
        for group in report.groups:
            mean = mean_curve(group.counted, tag)
            look = looks[names[id(group.runs[0])]]
            for run in group.runs:
                _draw(axes, run, tag, name, looks[names[id(run)]], is_thin=mean is not None)
            along = None if mean is None else _along(mean.points, name)
            if mean is not None and along is not None:
                axes.plot(along, mean.points.values, color=look.light, linewidth=2.2, linestyle=_dash(look))
                axes.fill_between(along, mean.low, mean.high, color=look.light, alpha=0.12, linewidth=0)
        axes.set(xlabel=label, xlim=(0, None))
        axes.xaxis.set_major_formatter(EngFormatter(unit="", sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _plain(axes)
    grid[0].set_ylabel(title)
    grid[0].set_ylim(*_range_after_start([run.curves[tag] for run in report.runs if tag in run.curves]))
    _legend(figure, looks)
    return figure


def _draw(axes: Axes, run: ReportedRun, tag: str, name: str, look: Style, *, is_thin: bool) -> None:
    """A run; one that did not finish ends in a cross."""
    points = run.curves.get(tag)
    along = None if points is None else _along(points, name)
    if points is None or along is None:
        return
    width, alpha = (0.8, 0.5) if is_thin or not run.is_finished else (1.8, 1.0)
    axes.plot(along, points.values, color=look.light, linewidth=width, alpha=alpha, linestyle=_dash(look))
    if not run.is_finished:
        axes.plot(along[-1], points.values[-1], "x", color=look.light)


def _range_after_start(curves: Sequence[Points]) -> tuple[float, float]:
    """What the values span after the first eighth: before it all curves fall alike, and would leave the rest flat."""
    start = max(curve.steps[-1] for curve in curves) / 8
    values = [value for curve in curves for step, value in zip(curve.steps, curve.values, strict=True) if step >= start]
    low, high = min(values), max(values)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air


def _along(points: Points, name: str) -> Sequence[float] | None:
    found: Sequence[float] | None = getattr(points, name)
    return found


def _legend(figure: Figure, looks: dict[str, Style]) -> None:
    shown_looks = list(looks.items())[:N_IN_LEGEND]
    handles = [Line2D([], [], color=look.light, linestyle=_dash(look), linewidth=2) for _, look in shown_looks]
    labels = [_label(name) for name, _ in shown_looks]
    if len(looks) > N_IN_LEGEND:
        handles.append(Line2D([], [], linewidth=0))
        labels.append(f"and {len(looks) - N_IN_LEGEND} more")
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)


def _dash(look: Style) -> Literal["-"] | tuple[float, Sequence[float]]:
    return (0.0, tuple(float(part) / 2 for part in look.dash.split())) if look.dash else "-"


def _label(text: str) -> str:
    """A dollar sign is one, and begins no formula; and no label is as wide as the picture."""
    text = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 3]}..."
    return text.replace("$", r"\$")


def _figure(width_inches: float, height_inches: float) -> Figure:
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    return Figure(figsize=(width_inches, height_inches), dpi=DPI, layout=layout)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
