"""The plots of records. Imports matplotlib."""

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from folio.report.colors import assign_styles
from folio.report.metrics import COLUMNS, CURVE_TAGS, PrimaryMetric
from folio.report.plots import label_text, line_style, new_figure, plot_rates, plot_scaling, style_axes
from folio.report.rate_transfer import compare_runs
from folio.report.reading import flatten
from folio.report.records import Record, Study
from folio.report.scaling import QUANTITIES, fit_points
from folio.runtime.errors import FolioError

METRIC = next(column for column in COLUMNS if column.metric == "val/bits_per_byte")


def plot_results(study: Study) -> Figure:
    """Plot a dot for every seed, and the mean with its 95 % confidence interval."""
    rows = [row for row in study.rows if row.summary(METRIC.metric)]
    styles = assign_styles([row_label(row) for row in rows])
    figure = new_figure(6.4, 1.0 + 0.32 * len(rows))
    axes = figure.subplots()
    for y, row in enumerate(rows):
        color = styles[row_label(row)].light
        values = [run.metrics[METRIC.metric] for run in row.runs if METRIC.metric in run.metrics]
        axes.plot(values, [y] * len(values), "o", color=color, alpha=0.55, markersize=5, markeredgewidth=0)
        summary = row.summary(METRIC.metric)
        if summary is not None and summary.margin is not None:
            axes.errorbar(
                summary.mean, y, xerr=summary.margin, fmt="|", color=color, markersize=13, markeredgewidth=2, capsize=3
            )
    labels = [label_text(f"{row_label(row)} (n={_n(row)})") for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"validation {METRIC.heading}")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    figure.suptitle("Dot: one seed. Bar: mean, with its 95 % confidence interval.", fontsize="medium")
    style_axes(axes)
    return figure


def plot_curves(study: Study) -> Figure:
    """Plot the validation loss of every seed by step. Raises: FolioError if no run of the study was validated twice."""
    tag = "val/loss_nats"
    curves = {
        (row_label(row), run.seed): [
            (point["step"], point[tag]) for point in run.validations if {"step", tag} <= point.keys()
        ]
        for row in study.rows
        for run in row.runs
    }
    curves = {key: points for key, points in curves.items() if len(points) > 1}
    if not curves:
        raise FolioError("a plot of curves needs runs that were validated at least twice; plot results instead")
    styles = assign_styles(list(dict.fromkeys(label for label, _ in curves)))
    figure = new_figure(6.0, 4.2)
    axes = figure.subplots()
    shown: set[str] = set()
    for (label, _), points in curves.items():
        style = styles[label]
        name = None if label in shown else label_text(label)
        axes.plot(*zip(*points, strict=True), color=style.light, linestyle=line_style(style), linewidth=1.2, label=name)
        shown.add(label)
    axes.set(xlabel="optimizer step", ylabel=CURVE_TAGS[tag])
    axes.xaxis.set_major_formatter(EngFormatter(unit="", sep=""))
    figure.legend(loc="outside lower center", ncols=min(4, len(shown)), frameon=False)
    style_axes(axes)
    return figure


def plot_law(study: Study) -> Figure:
    """Plot bits per byte over parameters without embeddings, and the power law through them."""
    quantity = QUANTITIES["parameters"]
    points: dict[str, list[tuple[float, float]]] = {}
    by_seed = not any(row.stated for row in study.rows)  # else only the means are known
    for row in study.rows:
        x, y = row.summary(quantity.metrics[0]), row.summary(METRIC.metric)
        if x is not None and y is not None:
            losses = {str(run.seed): run.metrics[METRIC.metric] for run in row.runs} if by_seed else {"mean": y.mean}
            for seed, loss in losses.items():
                points.setdefault(seed, []).append((x.mean, loss))
    return plot_scaling(fit_points(quantity, PrimaryMetric(METRIC.metric, METRIC.title), points))


def plot_rates_of_widths(study: Study) -> Figure:
    """Plot bits per byte over the learning rate, a line for each width, a panel for each parametrization."""
    runs = ((flatten(row.config), run.metrics) for row in study.rows for run in row.runs)
    return plot_rates(compare_runs(PrimaryMetric(METRIC.metric, METRIC.title), runs))


PLOTS = {"results": plot_results, "curves": plot_curves, "scaling": plot_law, "rates": plot_rates_of_widths}
"""The plots by the word that a page asks for them with; `records_page.PLOT_KINDS` has the words, without matplotlib."""


def row_label(row: Record) -> str:
    """Return the name of a row in a plot: its labels without numbers, or else the words of its command."""
    words = [word.partition("=")[2] for word in row.command or [] if not word.startswith("experiment=")]
    return ", ".join(row.text_labels.values()) or ", ".join(words)


def _n(row: Record) -> int:
    summary = row.summary(METRIC.metric)
    return 0 if summary is None else summary.n
