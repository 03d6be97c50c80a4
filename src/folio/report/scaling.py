"""Power laws through the runs of a report: how the loss falls with parameters, tokens or compute.

Source: Kaplan et al. 2020, "Scaling laws for neural language models", equations 1.1 and 1.2, without the constant term
of Hoffmann et al. 2022, equation 2, which a range as short as one machine's cannot tell from a smaller exponent.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from folio.report.groups import Headline
from folio.report.reading import ReportedRun
from folio.report.report import Report
from folio.report.statistics import Summary, summarize
from folio.runtime.errors import FolioError

N_PARAMETERS, N_TOKENS = "n_parameters_without_embeddings", "n_tokens_seen"


class Quantity(NamedTuple):
    """What a loss may be drawn over: a factor times the product of some of a run's figures."""

    title: str
    metrics: tuple[str, ...]
    factor: float = 1.0

    def of(self, run: ReportedRun) -> float | None:
        values = [run.metrics[name] for name in self.metrics if name in run.metrics]
        return self.factor * math.prod(values) if len(values) == len(self.metrics) else None


QUANTITIES = {
    "parameters": Quantity("parameters without embeddings", (N_PARAMETERS,)),
    "tokens": Quantity("tokens read", (N_TOKENS,)),
    "compute": Quantity("training FLOPs, 6 for each parameter and token", (N_PARAMETERS, N_TOKENS), factor=6.0),
}


@dataclass(frozen=True)
class PowerLaw:
    """loss = factor * x ** -exponent."""

    factor: float
    exponent: float

    def __call__(self, x: float) -> float:
        return self.factor * x**-self.exponent


@dataclass(frozen=True)
class Scaling:
    """The figure of a report over a quantity, and the law that runs through it."""

    quantity: Quantity
    figure: Headline
    points: dict[str, list[tuple[float, float]]]
    """(x, loss) of the finished runs by seed, each sorted by x."""
    law: PowerLaw
    """Through all points."""
    exponents: Summary
    """Of the laws through the points of each seed alone."""

    @property
    def rows(self) -> list[tuple[float, Summary, float]]:
        """x, the figure over seeds, and what the law gives there."""
        by_x: dict[float, list[float]] = {}
        for x, loss in (point for of_seed in self.points.values() for point in of_seed):
            by_x.setdefault(x, []).append(loss)
        found = [(x, summarize(losses), self.law(x)) for x, losses in sorted(by_x.items())]
        return [(x, summary, fitted) for x, summary, fitted in found if summary is not None]

    @property
    def worst(self) -> float:
        """The largest share by which a mean over seeds lies off the law."""
        return max(abs(summary.mean / fitted - 1.0) for _, summary, fitted in self.rows)


def fit(points: Sequence[tuple[float, float]]) -> PowerLaw:
    """The straight line of least squares through the logarithms. All numbers are above 0, two x at least differ."""
    slope, intercept = statistics.linear_regression(*zip(*((math.log(x), math.log(y)) for x, y in points), strict=True))
    return PowerLaw(math.exp(intercept), -slope)


def scaling_of(report: Report, along: str) -> Scaling:
    """Fit the law. Raises: FolioError where the runs' losses do not compare, or too few differ in the quantity."""
    quantity, metric = QUANTITIES[along], report.figure.metric
    if metric is None:
        raise FolioError(f"{report.figure.reason.removesuffix('.')}; give finished runs of one text and one objective")
    points: dict[str, list[tuple[float, float]]] = {}
    for run in (run for group in report.groups for run in group.counted):
        x, loss = quantity.of(run), run.metrics.get(metric)
        if x and loss and x > 0.0 and loss > 0.0:
            points.setdefault(str(run.seed), []).append((x, loss))
    points = {seed: sorted(of_seed) for seed, of_seed in sorted(points.items())}
    fewest = min((len({x for x, _ in of_seed}) for of_seed in points.values()), default=0)
    if fewest < 3:
        raise FolioError(
            f"--along={along}: a law takes three or more different numbers of {quantity.title} with each seed, and "
            f"here is one with {fewest}; sweep what changes them, as model.d_model or training.max_steps"
        )
    law = fit([point for of_seed in points.values() for point in of_seed])
    exponents = summarize([fit(of_seed).exponent for of_seed in points.values()])
    assert exponents is not None
    return Scaling(quantity, report.figure, points, law, exponents)
