"""The pictures of scripts/scaling.py and scripts/extrapolate.py. matplotlib is imported with this file."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, ScalarFormatter

from folio.report.colors import LIGHT, styles
from folio.report.extrapolation import Measured, groups_of, lengths_of, summary_of
from folio.report.plots import dash, label, new_figure, plain_axes
from folio.report.scaling import Scaling


def scaling_figure(scaling: Scaling) -> Figure:
    """Every run a dot, and the law, on two logarithmic axes."""
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    for of_seed in scaling.points.values():
        axes.plot(*zip(*of_seed, strict=True), "o", color=LIGHT[0], alpha=0.6, markersize=5, markeredgewidth=0)
    ends = [scaling.rows[0][0], scaling.rows[-1][0]]
    axes.plot(ends, [scaling.law(x) for x in ends], color=LIGHT[1], linewidth=1.5)
    spread = "" if scaling.exponents.deviation is None else f" ± {scaling.exponents.deviation:.4f} over seeds"
    axes.set_title(f"exponent {scaling.law.exponent:.4f}{spread}", fontsize="medium")
    axes.set(xscale="log", yscale="log", xlabel=scaling.quantity.title, ylabel=f"validation {scaling.figure.title}")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    plain_axes(axes)
    return figure


def extrapolation_figure(measured: Sequence[Measured]) -> Figure:
    """Mean and standard deviation over seeds for each configuration; dotted, the window of training."""
    figure = new_figure(5.6, 4.4)
    axes = figure.subplots()
    groups = groups_of(measured)
    looks = styles([group.label for group in groups])
    for group in groups:
        found = [(length, summary_of(measured, group, length)) for length in lengths_of(measured)]
        lines = [(length, summary.mean, summary.deviation or 0.0) for length, summary in found if summary is not None]
        if not lines:
            continue
        lengths, means, deviations = (list(column) for column in zip(*lines, strict=True))
        look = looks[group.label]
        axes.errorbar(
            lengths,
            means,
            yerr=deviations,
            color=look.light,
            linestyle=dash(look),
            marker="o",
            markersize=4,
            capsize=3,
            label=label(group.label),
        )
    for length in sorted({each.trained_with for each in measured}):
        axes.axvline(length, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(lengths_of(measured))
    axes.minorticks_off()
    axes.set(xlabel="tokens in a window (dotted: in training)", ylabel="validation loss (nats per token)")
    figure.legend(loc="outside lower center", ncols=min(4, len(groups)), frameon=False)
    plain_axes(axes)
    return figure
