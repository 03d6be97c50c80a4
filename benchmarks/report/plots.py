"""The plots of `docs/performance.md`. Imports no torch, and no pyplot, which would keep figures in memory."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.report.results import BenchmarkReport, Series, group_exponent
from benchmarks.report.statistics import format_number, format_tick

DPI = 150
WIDTH_INCHES = 8.0
COLORS = {
    "Folio": "tab:blue",
    "bare loop": "tab:gray",
    "nanoGPT": "tab:orange",
    "Hugging Face": "tab:green",
    "Folio, int8": "tab:cyan",
}
OTHER_COLOR = "tab:purple"


def write_plots(report: BenchmarkReport, folder: Path) -> list[Path]:
    """Draw a PNG for each measured part that has a plot. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part, draw in FIGURES.items():
        if report.groups(part):
            path = folder / f"{part}.png"
            draw(report).savefig(path, dpi=DPI)
            paths.append(path)
    return paths


def step_figure(report: BenchmarkReport) -> Figure:
    """Draw how many times faster Folio is than each peer: median and range over rounds."""
    rows = [
        (f"{folio.subject}, {other.contender}", folio.advantage_by_round(other), other.contender)
        for folio, *others in report.groups("step")
        for other in others
    ]
    rows = rows or [(group[0].subject, [1.0], group[0].contender) for group in report.groups("step")]
    figure = _figure(1.4 + 0.36 * len(rows))
    axes = figure.subplots()
    _whiskered_bars(axes, rows)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xlabel="speed of Folio / speed of the peer (1: equal)", title="Training step, by workload and peer")
    return figure


def overhead_figure(report: BenchmarkReport) -> Figure:
    """Draw the overhead of train.py, and of Lightning alone, over the bare loop in every round."""
    rows = [(series, group[1]) for group in report.groups("overhead") for series in group if series is not group[1]]
    figure = _figure(1.6 + 0.9 * len(rows))
    axes = figure.subplots()
    for place, (series, bare) in enumerate(rows):
        per_cent = [100 * (1 / ratio - 1) for ratio in series.advantage_by_round(bare)]
        median = statistics.median(per_cent)
        axes.plot(
            per_cent, [place] * len(per_cent), "o", color="tab:blue", alpha=0.35, label=_first_only("round", place)
        )
        axes.plot(
            median, place, "|", color="black", markersize=24, markeredgewidth=2, label=_first_only("median", place)
        )
        axes.annotate(f"{median:+.2f} %", (median, place), xytext=(0, 16), textcoords="offset points", ha="center")
    axes.axvline(0.0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"workload {series.subject}, {series.contender}" for series, _ in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.7), xlabel="time over that of the bare loop (%)")
    axes.set_title("Overhead of train.py, with metrics, progress bar and checkpoints")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    _hide_frame(axes)
    return figure


def memory_figure(report: BenchmarkReport) -> Figure:
    return _grouped_bars(report.groups("memory"), "Peak memory of the whole process", "GiB", lambda mib: mib / 1024)


def generation_figure(report: BenchmarkReport) -> Figure:
    return _grouped_bars(
        report.groups("generation"), "Generation with GPT-2 small, greedy, fp32", "tokens/s", lambda x: x
    )


def startup_figure(report: BenchmarkReport) -> Figure:
    (group,) = report.groups("startup")
    figure = _figure(1.2 + 0.4 * len(group))
    axes = figure.subplots()
    _whiskered_bars(axes, [(series.contender, series.values, series.contender) for series in group], form="{:.2f} s")
    axes.set(xlabel="seconds from the command to its first output", title="Startup")
    return figure


def quality_figure(report: BenchmarkReport) -> Figure:
    """Draw validation loss over training time and the goal, one plot for each comparison."""
    groups = report.groups("quality")
    figure = _figure(4.0 * len(groups))
    for axes, group in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups, strict=True):
        for series, color in zip(group, ("tab:blue", "tab:orange"), strict=False):
            facts = series.facts
            axes.plot(facts["train_s"], facts["val_loss_nats"], ".-", color=color, label=series.contender)
        goal = group[0].facts["goal_nats"]
        axes.axhline(
            goal, color="black", linewidth=1, linestyle="--", label=f"{goal:.3f} nats, final loss of nanoGPT's recipe"
        )
        lowest = min(min(series.facts["val_loss_nats"]) for series in group)
        axes.set(ylim=(min(lowest, goal) - 0.1, goal + 1.2), xlim=(0, None), xlabel="training time (s)")
        axes.set(ylabel="validation loss (nats)", title=f"Loss over the whole validation split, in {group[0].subject}")
        axes.legend(frameon=False)
        _hide_frame(axes)
    return figure


def scaling_figure(report: BenchmarkReport) -> Figure:
    """Draw time above and memory below for each axis, on logarithmic scales."""
    groups = {group[0].subject: group for group in report.groups("scaling")}
    names = list(dict.fromkeys(group[0].facts["axis"] for group in groups.values()))
    figure = Figure(figsize=(2.7 * len(names) + 0.6, 5.4), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    grid = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        for row, kind in enumerate(("time", "memory")):
            axes, group = grid[row][column], groups[f"{name}: {kind}"]
            sizes = [series.facts["size"] for series in group]
            axes.loglog(sizes, [max(series.median, 1e-3) for series in group], "o-", color=("tab:blue", "tab:red")[row])
            exponent = f", exponent {group_exponent(group):.2f}" if len(group) > 1 else ""
            axes.set_title(f"{name}{exponent}", fontsize="medium")
            axes.set_xlabel(f"{name} ({group[0].facts['unit']})")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(sizes, [format_tick(size) for size in sizes])
            _show_decade(axes, [series.median for series in group])
            _hide_frame(axes)
    grid[0][0].set_ylabel("time (ms/step)")
    grid[1][0].set_ylabel("memory (MiB above the imports)")
    return figure


FIGURES: dict[str, Callable[[BenchmarkReport], Figure]] = {
    "step": step_figure,
    "overhead": overhead_figure,
    "memory": memory_figure,
    "generation": generation_figure,
    "startup": startup_figure,
    "quality": quality_figure,
    "scaling": scaling_figure,
}


def _figure(height_inches: float) -> Figure:
    return Figure(figsize=(WIDTH_INCHES, height_inches), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))


def _whiskered_bars(axes: Axes, rows: Sequence[tuple[str, Sequence[float], str]], form: str = "{:.2f}") -> None:
    """Draw a horizontal bar for each (label, values, contender): the median, with a line from min to max."""
    for place, (_, values, contender) in enumerate(rows):
        _bar(axes, place, values, contender, form.format)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _hide_frame(axes)


def _bar(axes: Axes, place: float, values: Sequence[float], contender: str, label: Callable[[float], str]) -> None:
    """Draw the median, a line from min to max, and the median as a number after it."""
    median, color = statistics.median(values), COLORS.get(contender, OTHER_COLOR)
    whisker = [[median - min(values)], [max(values) - median]] if len(values) > 1 else None
    axes.barh(place, median, color=color, alpha=0.75, xerr=whisker, capsize=3)
    axes.annotate(label(median), (max(values), place), xytext=(7, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.15 * max(values)))


def _grouped_bars(groups: Sequence[Sequence[Series]], title: str, unit: str, scale: Callable[[float], float]) -> Figure:
    """Draw a bar for each contender of each subject; a contender keeps its colour."""
    n_bars = sum(len(group) for group in groups)
    figure = _figure(1.2 + 0.3 * n_bars + 0.25 * len(groups))
    axes = figure.subplots()
    place, ticks = 0.0, []
    for group in groups:
        for series in group:
            _bar(axes, place, [scale(value) for value in series.values], series.contender, format_number)
            subject = f"workload {series.subject}" if len(series.subject) == 1 else series.subject
            ticks.append((place, f"{subject}, {series.contender}"))
            place += 1.0
        place += 0.6
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    axes.set(ylim=(place - 0.9, -0.7), xlabel=unit, title=title)
    _hide_frame(axes)
    return figure


def _show_decade(axes: Axes, values: Sequence[float]) -> None:
    """Show at least a decade, so that flat curves look flat, with ticks such as 4k."""
    low, high = max(min(values), 1e-3), max(max(values), 1e-3)
    if high / low < 10:
        center = (low * high) ** 0.5
        axes.set_ylim(center / 3.5, center * 3.5)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _first_only(label: str, place: int) -> str:
    """Return the label for the first of several: matplotlib ignores labels that begin with an underscore."""
    return label if place == 0 else f"_{label}"


def _hide_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
