"""The curves of a report: what stands for each configuration beside the curves of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from folio.report.reading import Points, ReportedRun


@dataclass(frozen=True)
class MeanCurve:
    """The mean over the seeds of a configuration, at the steps that all of them have, with the least and the most."""

    points: Points
    low: list[float]
    high: list[float]
    n: int


def mean_curve(runs: Sequence[ReportedRun], tag: str) -> MeanCurve | None:
    """None where fewer than two runs have the curve: one run is no mean."""
    curves = [run.curves[tag] for run in runs if tag in run.curves]
    if len(curves) < 2:
        return None
    common = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    if not common:
        return None
    at = [{step: place for place, step in enumerate(curve.steps)} for curve in curves]

    def column(name: str) -> list[list[float]] | None:
        lists = [getattr(curve, name) for curve in curves]
        if any(values is None for values in lists):
            return None
        return [[values[places[step]] for values, places in zip(lists, at, strict=True)] for step in common]

    def means(name: str) -> list[float] | None:
        rows = column(name)
        return None if rows is None else [sum(row) / len(row) for row in rows]

    values = column("values")
    assert values is not None
    points = Points(common, [sum(row) / len(row) for row in values], means("tokens"), means("seconds"))
    return MeanCurve(points, [min(row) for row in values], [max(row) for row in values], len(curves))


def thinned(points: Points, most: int = 400) -> Points:
    """At most about so many of the points, evenly spread, with the last: more than a screen has columns."""
    if len(points.steps) <= most:
        return points
    stride = -(-len(points.steps) // most)
    last = len(points.steps) - 1
    kept = sorted({*range(0, last + 1, stride), last})

    def pick(values: list[float] | None) -> list[float] | None:
        return None if values is None else [values[place] for place in kept]

    return Points(
        [points.steps[place] for place in kept],
        [points.values[place] for place in kept],
        pick(points.tokens),
        pick(points.seconds),
    )
