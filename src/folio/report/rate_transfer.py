"""Study of learning rates: the best one of each width, and what the narrowest model's best one costs a wide one.

Source: Yang et al. 2022, "Tensor Programs V", figure 1.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from folio.report.metrics import PrimaryMetric, format_mean_std
from folio.report.report import Report
from folio.report.scaling import N_PARAMETERS, PowerLaw, fit_power_law
from folio.report.statistics import Summary, summarize
from folio.report.text import ABSENT, fixed_point
from folio.runtime.errors import FolioError

RATE, WIDTH = "optimizer.learning_rate", "model.d_model"


@dataclass(frozen=True)
class WidthSweep:
    """The learning rates of one width."""

    d_model: int
    n_parameters: float
    """Number of parameters without embeddings."""
    losses: dict[float, Summary]
    """Learning rate -> loss over seeds, in ascending order of the rates."""

    @property
    def best_rate(self) -> float:
        return min(self.losses, key=lambda rate: self.losses[rate].mean)


@dataclass(frozen=True)
class RateTransfer:
    """The widths of each parametrization, narrowest first."""

    primary: PrimaryMetric
    sweeps: dict[str, list[WidthSweep]]

    def transferred_rate(self, parametrization: str) -> float:
        """Return the best rate of the narrowest width."""
        return self.sweeps[parametrization][0].best_rate

    def laws(self, parametrization: str) -> tuple[PowerLaw | None, PowerLaw | None]:
        """Return the power laws of size at the transferred rate and at each width's own best one, by the means.

        None for fewer than three widths.
        """
        widths, rate = self.sweeps[parametrization], self.transferred_rate(parametrization)
        own = [(each.n_parameters, each.losses[each.best_rate].mean) for each in widths]
        transferred = [(each.n_parameters, each.losses[rate].mean) for each in widths if rate in each.losses]
        first, second = (fit_power_law(points) if len(points) >= 3 else None for points in (transferred, own))
        return first, second

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings, and a row for each width."""
        headings = ["parametrization", "d_model", "best learning rate", f"{self.primary.title} there"]
        headings.append(f"at the best of d_model {next(iter(self.sweeps.values()))[0].d_model}")
        rows = []
        for parametrization, widths in self.sweeps.items():
            rate = self.transferred_rate(parametrization)
            for each in widths:
                best = _shown(each.losses[each.best_rate])
                there = _shown(each.losses[rate]) if rate in each.losses else ABSENT
                rows.append([parametrization, str(each.d_model), f"{each.best_rate:g}", best, f"{there} ({rate:g})"])
        return headings, rows

    def csv_rows(self) -> list[list[object]]:
        """Return headings, and a row for each width and rate."""
        rows: list[list[object]] = [["parametrization", "d_model", "learning_rate", "n", self.primary.metric, "std"]]
        for parametrization, widths in self.sweeps.items():
            for each in widths:
                for rate, loss in each.losses.items():
                    std = "" if loss.std is None else loss.std
                    rows.append([parametrization, each.d_model, rate, loss.n, loss.mean, std])
        return rows


def compare_rates(report: Report) -> RateTransfer:
    """Compare the finished runs of a report. Raises: FolioError as `compare_runs`, or if losses cannot be compared."""
    if report.primary.metric is None:
        raise FolioError(f"{report.primary.reason.removesuffix('.')}; give finished runs of one text and one objective")
    runs = ((run.config, run.metrics) for group in report.groups for run in group.averaged)
    return compare_runs(report.primary, runs)


def compare_runs(primary: PrimaryMetric, runs: Iterable[tuple[Mapping[str, Any], Mapping[str, float]]]) -> RateTransfer:
    """Sort runs by parametrization, width and rate; each is given by its config, with dotted keys, and its metrics.

    Raises: FolioError if there are not two widths, and two rates of the narrowest.
    """
    assert primary.metric is not None
    losses: dict[str, dict[int, dict[float, list[float]]]] = {}
    sizes: dict[int, float] = {}
    for config, metrics in runs:
        width, rate, loss = config.get(WIDTH), config.get(RATE), metrics.get(primary.metric)
        if not isinstance(width, int) or not isinstance(rate, int | float) or loss is None:
            continue
        sizes[width] = metrics.get(N_PARAMETERS, float("nan"))
        for parametrization in _parametrizations_of(config):
            losses.setdefault(parametrization, {}).setdefault(width, {}).setdefault(float(rate), []).append(loss)
    sweeps = {
        parametrization: [
            WidthSweep(width, sizes[width], {rate: _summary(rates[rate]) for rate in sorted(rates)})
            for width, rates in sorted(widths.items())
        ]
        for parametrization, widths in sorted(losses.items(), reverse=True)  # standard first
        if len(widths) > 1
    }
    if not sweeps or any(len(widths[0].losses) < 2 for widths in sweeps.values()):
        raise FolioError(
            f"--along=learning_rate needs at least two widths, and two rates of the narrowest; sweep {WIDTH} and {RATE}"
        )
    return RateTransfer(primary, sweeps)


def _parametrizations_of(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parametrization of a run; at the base width, where mup is standard, both."""
    name = str(config.get("model.parametrization", "standard"))
    yield name
    if name == "mup" and config.get(WIDTH) == config.get("model.mup_base_d_model"):
        yield "standard"


def _summary(losses: list[float]) -> Summary:
    summary = summarize(losses)
    assert summary is not None
    return summary


def _shown(loss: Summary) -> str:
    return format_mean_std(loss, fixed_point(3))
