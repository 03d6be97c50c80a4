"""Study of scaling: a power law for how the loss falls with parameters, tokens or compute.

Source: Kaplan et al. 2020, "Scaling laws for neural language models", equations 1.1 and 1.2, without the constant term
of Hoffmann et al. 2022, equation 2: in a range as short as one machine's it looks the same as a smaller exponent.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from folio.report.metrics import PrimaryMetric
from folio.report.reading import ReportedRun
from folio.report.report import Report
from folio.report.statistics import Summary, summarize
from folio.runtime.errors import FolioError

N_PARAMETERS, N_TOKENS = "n_parameters_without_embeddings", "n_tokens_seen"


@dataclass(frozen=True)
class Quantity:
    """A quantity that the loss is fitted over: a factor times the product of some metrics."""

    title: str
    metrics: tuple[str, ...]
    factor: float = 1.0

    def value(self, run: ReportedRun) -> float | None:
        values = [run.metrics[name] for name in self.metrics if name in run.metrics]
        return self.factor * math.prod(values) if len(values) == len(self.metrics) else None


QUANTITIES = {
    "parameters": Quantity("parameters without embeddings", (N_PARAMETERS,)),
    "tokens": Quantity("tokens read", (N_TOKENS,)),
    "compute": Quantity("training FLOPs, 6 per parameter and token", (N_PARAMETERS, N_TOKENS), factor=6.0),
}


@dataclass(frozen=True)
class PowerLaw:
    """loss = factor * x ** -exponent."""

    factor: float
    exponent: float

    def __call__(self, x: float) -> float:
        return self.factor * x**-self.exponent


@dataclass(frozen=True)
class ScalingFit:
    """A power law fitted to the runs of a report."""

    quantity: Quantity
    primary: PrimaryMetric
    points: dict[str, list[tuple[float, float]]]
    """(x, loss) of the finished runs by seed, sorted by x."""
    law: PowerLaw
    """Fitted to all points."""
    exponents: Summary
    """Statistics of the exponents fitted to each seed alone."""

    @property
    def rows(self) -> list[tuple[float, Summary, float]]:
        """x, the statistics of the loss over seeds, and the loss that the law predicts."""
        by_x: dict[float, list[float]] = {}
        for x, loss in (point for points in self.points.values() for point in points):
            by_x.setdefault(x, []).append(loss)
        summaries = [(x, summarize(losses)) for x, losses in sorted(by_x.items())]
        return [(x, summary, self.law(x)) for x, summary in summaries if summary is not None]

    @property
    def max_relative_error(self) -> float:
        """Largest relative difference between a mean over seeds and the law."""
        return max(abs(summary.mean / predicted - 1.0) for _, summary, predicted in self.rows)


def fit_power_law(points: Sequence[tuple[float, float]]) -> PowerLaw:
    """Fit a line to the logarithms by least squares. All numbers must be above 0, and at least two x different."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    slope, intercept = statistics.linear_regression(*zip(*logs, strict=True))
    return PowerLaw(math.exp(intercept), -slope)


def fit_scaling(report: Report, along: str) -> ScalingFit:
    """Fit the power law to a report. Raises: FolioError if losses cannot be compared, or too few x are different."""
    quantity, metric = QUANTITIES[along], report.primary.metric
    if metric is None:
        raise FolioError(f"{report.primary.reason.removesuffix('.')}; give finished runs of one text and one objective")
    by_seed: dict[str, list[tuple[float, float]]] = {}
    for run in (run for group in report.groups for run in group.averaged):
        x, loss = quantity.value(run), run.metrics.get(metric)
        if x and loss and x > 0.0 and loss > 0.0:
            by_seed.setdefault(str(run.seed), []).append((x, loss))
    points = {seed: sorted(by_seed[seed]) for seed in sorted(by_seed)}
    fewest = min((len({x for x, _ in found}) for found in points.values()), default=0)
    if fewest < 3:
        raise FolioError(
            f"--along={along}: a power law needs at least three different numbers of {quantity.title} for each seed, "
            f"and one seed has {fewest}; sweep what changes them, such as model.d_model or training.max_steps"
        )
    return fit_points(quantity, report.primary, points)


def fit_points(quantity: Quantity, primary: PrimaryMetric, points: dict[str, list[tuple[float, float]]]) -> ScalingFit:
    """Fit the power law to (x, loss) by seed, of which each needs at least two different x."""
    law = fit_power_law([point for found in points.values() for point in found])
    exponents = summarize([fit_power_law(found).exponent for found in points.values()])
    assert exponents is not None
    return ScalingFit(quantity, primary, points, law, exponents)
