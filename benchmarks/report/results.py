"""The measured numbers, as every part reports them and as JSON stores them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report.statistics import fit_exponent, median_ratio, ratios

FORMAT = 2
"""Version of the JSON file; it grows when a field is renamed or changes its meaning. In 1, `contender` was `side`."""

RATES = ("tokens/s", "GFLOP/s", "GB/s", "MB/s")
"""Units of which more is better; for all others, less is."""

NOT_COMPARED = ("hardware", "scaling", "quality")
"""Parts whose series do not compete, or have no meaningful ratio."""


@dataclass(frozen=True)
class Series:
    """One contender's numbers for one subject, one number per round."""

    part: str
    subject: str
    """The letter of a workload, or a few words on what is measured."""
    contender: str
    unit: str
    values: list[float]
    note: str = ""
    """A remark for the reader of a table."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Values for programs: what `values` were computed from, and what else is known."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def advantage_over(self, other: "Series") -> float:
        """Return the median over rounds of how many times better this is than another series; above 1 it is better."""
        better, worse = self._better_and_worse(other)
        return median_ratio(better, worse)

    def advantage_by_round(self, other: "Series") -> list[float]:
        better, worse = self._better_and_worse(other)
        return ratios(better, worse)

    def _better_and_worse(self, other: "Series") -> tuple[list[float], list[float]]:
        assert self.unit == other.unit
        return (self.values, other.values) if self.unit in RATES else (other.values, self.values)


@dataclass
class BenchmarkReport:
    """Everything that one run of the benchmark measured."""

    machine: dict[str, Any]
    series: list[Series] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    """Comparisons that found two contenders to compute the same."""
    skipped: list[str] = field(default_factory=list)
    """A sentence for each thing that was not measured, with the reason."""

    def groups(self, part: str) -> list[list[Series]]:
        """Return the series of a part, grouped by subject; the others of a group are compared with its first."""
        groups: dict[tuple[str, str], list[Series]] = {}
        for series in self.series:
            if series.part == part:
                groups.setdefault((series.subject, series.unit), []).append(series)
        return list(groups.values())

    def parts(self) -> list[str]:
        return list(dict.fromkeys(series.part for series in self.series))

    def skip(self, reasons: Sequence[str]) -> None:
        """Add the reasons that are not there yet."""
        self.skipped += [reason for reason in reasons if reason not in self.skipped]

    def to_json(self) -> str:
        comparisons = [
            {
                "part": first.part,
                "subject": first.subject,
                "unit": first.unit,
                "contender": first.contender,
                "against": other.contender,
                "ahead": first.advantage_over(other),
                "ahead_by_round": first.advantage_by_round(other),
            }
            for part in self.parts()
            if part not in NOT_COMPARED
            for first, *others in self.groups(part)
            for other in others
            if len(first.values) == len(other.values) and all(first.values) and all(other.values)
        ]
        values = {
            "format": FORMAT,
            "machine": self.machine,
            "series": [asdict(series) | {"median": series.median} for series in self.series],
            "comparisons": comparisons,
            "checks": self.checks,
            "skipped": self.skipped,
        }
        return json.dumps(values, indent=2, allow_nan=False) + "\n"


def read_report(path: Path) -> BenchmarkReport:
    """Read what `to_json` wrote, in this version or an earlier one."""
    return parse_report(json.loads(path.read_text(encoding="utf-8")))


def parse_report(values: dict[str, Any]) -> BenchmarkReport:
    """Return the report of which `to_json` made these values; they are changed."""
    assert values["format"] <= FORMAT
    for fields in (*values["series"], *values["checks"]):
        fields.pop("median", None)
        if "side" in fields:
            fields["contender"] = fields.pop("side")
    series = [Series(**fields) for fields in values["series"]]
    return BenchmarkReport(values["machine"], series, values["checks"], values["skipped"])


def group_exponent(group: Sequence[Series]) -> float:
    """Return the p of median ~ size ** p, for a subject of the part `scaling`."""
    sizes: list[Any] = [series.facts["size"] for series in group]
    return fit_exponent(sizes, [series.median for series in group])


def peak_gflop_per_s(report: BenchmarkReport, device: str, precision: str) -> float | None:
    """Return the best rate of matrix products that the part `hardware` measured in a precision, by any kernel."""
    kind = f"matrix product, {precision}"
    series = [one for group in report.groups("hardware") for one in group]
    return max((s.facts["best"] for s in series if s.subject.startswith(kind) and s.contender == device), default=None)
