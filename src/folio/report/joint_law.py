"""How the loss falls with size and tokens together, and how sure that is.

Source: Kaplan et al. 2020, "Scaling laws for neural language models", equation 1.6, with tokens for steps. Unlike a
power law of compute, it says how to divide a budget between a larger model and more steps.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from folio.report.reading import ReportedRun
from folio.report.report import Report
from folio.report.scaling import QUANTITIES
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import read_text, refuse

EXPONENTS = np.geomspace(0.02, 2.0, 48)
"""The exponents that are tried, for each of the two powers. Below the first, a power is as good as a constant."""

N_RESAMPLED = 200
HEADINGS = ["seed", "parameters", "tokens"]
"""The first columns of a file of points; the last is the metric."""
MAX_CSV_BYTES = 2**20


class Point(NamedTuple):
    """A finished run."""

    seed: str
    parameters: float
    """Number of parameters without embeddings."""
    tokens: float
    """Number of tokens read."""
    loss: float


@dataclass(frozen=True)
class JointLaw:
    """loss = of_size * parameters ** -size_exponent + of_tokens * tokens ** -token_exponent."""

    of_size: float
    size_exponent: float
    of_tokens: float
    token_exponent: float

    def __call__(self, parameters: float, tokens: float) -> float:
        return self.of_size * parameters**-self.size_exponent + self.of_tokens * tokens**-self.token_exponent

    def __str__(self) -> str:
        return (
            f"{self.of_size:.4g} * parameters^-{self.size_exponent:.3f} + "
            f"{self.of_tokens:.4g} * tokens^-{self.token_exponent:.3f}"
        )


@dataclass(frozen=True)
class JointFit:
    """The law fitted to all points, and laws fitted to resampled ones, whose spread says how sure it is."""

    points: list[Point]
    law: JointLaw
    resampled: list[JointLaw]
    residuals: np.ndarray
    """Relative differences of the points from the law, made as large as those of new points: (n,)."""

    def interval(self, parameters: float, tokens: float, share: float = 0.9) -> tuple[float, float]:
        """Return the range in which a new run ends with this probability, by the laws and the noise of a run."""
        predicted = np.array([law(parameters, tokens) for law in self.resampled])  # (R,)
        possible = np.outer(predicted, 1.0 + self.residuals)
        low, high = np.quantile(possible, [(1.0 - share) / 2, (1.0 + share) / 2])
        return float(low), float(high)

    def extrapolated(self, parameters: float, tokens: float) -> list[str]:
        """Return which of the two lie outside the measured range, in words."""
        found = []
        for name, value in (("parameters", parameters), ("tokens", tokens)):
            measured = [getattr(point, name) for point in self.points]
            if not min(measured) <= value <= max(measured):
                found.append(f"{value:,.0f} {name}, measured were {min(measured):,.0f} to {max(measured):,.0f}")
        return found


def fit_joint_law(points: Sequence[Point]) -> JointFit:
    """Fit the law by least squares of the relative error, and again to points with resampled residuals.

    The resampling is a bootstrap of residuals (Efron and Tibshirani 1993, section 9.5). Raises: FolioError if there are
    too few different points for four coefficients.
    """
    for name in ("parameters", "tokens"):
        different = len({getattr(point, name) for point in points})
        if different < 3:
            raise FolioError(
                f"a law of size and tokens needs at least three different numbers of {name}, and there "
                f"{'is' if different == 1 else 'are'} {different}; sweep model.d_model and training.max_steps"
            )
    if len(points) < 6:
        raise FolioError(f"a law of size and tokens needs at least six runs, and there are {len(points)}; add some")
    size, tokens, losses = (np.array([point[i] for point in points]) for i in (1, 2, 3))
    (law,) = _best_laws(size, tokens, losses, losses[:, None])
    fitted = np.array([law(*point) for point in zip(size, tokens, strict=True)])
    # The four coefficients have used up four degrees of freedom, so the points lie too close to the law.
    residuals = (losses / fitted - 1.0) * (len(points) / max(1, len(points) - 4)) ** 0.5
    drawn = np.random.default_rng(0).choice(residuals, size=(len(points), N_RESAMPLED))
    resampled = _best_laws(size, tokens, losses, fitted[:, None] * (1.0 + drawn))
    return JointFit(list(points), law, resampled, residuals)


def _best_laws(size: np.ndarray, tokens: np.ndarray, scale: np.ndarray, losses: np.ndarray) -> list[JointLaw]:
    """Return the best law for each column: size, tokens and scale (n,), losses (n, R) -> R laws.

    For each pair of exponents the two factors are a linear least-squares problem.
    """
    pairs = [(first, second) for first in EXPONENTS for second in EXPONENTS]
    targets = losses / scale[:, None]  # (n, R)
    best: list[tuple[float, JointLaw] | None] = [None] * losses.shape[1]
    for first, second in pairs:
        # Relative to a typical value, so that both columns have the same magnitude.
        typical = (np.median(size) ** -first, np.median(tokens) ** -second)
        columns = np.stack((size**-first / typical[0], tokens**-second / typical[1]), axis=1) / scale[:, None]  # (n, 2)
        factors = np.linalg.lstsq(columns, targets, rcond=None)[0]  # (2, R)
        errors = ((columns @ factors - targets) ** 2).sum(axis=0)  # (R,)
        for index in np.flatnonzero((factors > 0.0).all(axis=0)):
            known = best[index]
            if known is None or errors[index] < known[0]:
                law = JointLaw(factors[0, index] / typical[0], first, factors[1, index] / typical[1], second)
                best[index] = float(errors[index]), law
    found = [known[1] for known in best if known is not None]
    if not found:
        raise FolioError("the losses fall neither with size nor with tokens; give runs that differ in both")
    return found


def points_of_report(report: Report) -> list[Point]:
    """Return the finished runs of a report. Raises: FolioError if their losses cannot be compared."""
    metric = report.primary.metric
    if metric is None:
        raise FolioError(f"{report.primary.reason.removesuffix('.')}; give finished runs of one text and one objective")

    def point(run: ReportedRun) -> Point | None:
        values = (QUANTITIES["parameters"].value(run), QUANTITIES["tokens"].value(run), run.metrics.get(metric))
        return Point(str(run.seed), *values) if all(value and value > 0.0 for value in values) else None  # type: ignore[arg-type]

    found = (point(run) for group in report.groups for run in group.averaged)
    return sorted(each for each in found if each is not None)


def read_points(path: Path) -> tuple[str, list[Point]]:
    """Return the metric and the points that `scripts/scaling.py --along both` has written.

    Raises: FolioError; OSError.
    """
    rows = list(csv.reader(io.StringIO(read_text(path, MAX_CSV_BYTES))))
    if not rows or rows[0][:-1] != HEADINGS or not rows[0][-1].startswith("val/"):
        first = ",".join((*HEADINGS, "val/bits_per_byte"))
        refuse(path, f"does not begin with a line like {first}", "give a file of scripts/scaling.py --along both")
    points = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            seed, *values = row
            point = Point(seed, *map(float, values))
        except (TypeError, ValueError):
            refuse(path, f"has no seed and three numbers in line {number}")
        if not all(0.0 < value < 1e30 for value in point[1:]):
            refuse(path, f"has numbers in line {number} that are not above 0")
        points.append(point)
    return rows[0][-1], points
