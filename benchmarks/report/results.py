"""The measured numbers, as every part gives them and as JSON keeps them."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report.statistics import median_ratio, ratios

FORMAT = 1
"""Of the JSON file; grows when a field changes its meaning."""

RATES = ("tokens/s", "GFLOP/s", "GB/s", "MB/s")
"""Units of which more is better; of all others less is."""


NO_COMPARISON = ("hardware", "scaling", "quality")
"""Parts whose values are no rivals, or have no ratio."""


@dataclass(frozen=True)
class Series:
    """One side's numbers for one thing, a number for each round."""

    part: str
    subject: str
    """What is done: the letter of a work, or a few words."""
    side: str
    """Who does it."""
    unit: str
    values: list[float]
    note: str = ""
    """For a person."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For a program: what `values` were made from, and what else is known."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def ahead_of(self, other: "Series") -> float:
        """How many times better this is than another of the same rounds: above 1, this one is ahead."""
        assert self.unit == other.unit
        better, worse = (self, other) if self.unit in RATES else (other, self)
        return median_ratio(better.values, worse.values)

    def ahead_by_round(self, other: "Series") -> list[float]:
        better, worse = (self, other) if self.unit in RATES else (other, self)
        return ratios(better.values, worse.values)


@dataclass
class Report:
    """Everything of one call of the benchmark."""

    machine: dict[str, Any]
    series: list[Series] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    """Each comparison whose two sides were found to compute the same."""
    skipped: list[str] = field(default_factory=list)
    """What was not measured, and why, in a sentence each."""

    def of(self, part: str) -> list[list[Series]]:
        """The series of a part, those of one subject together; the first of each is what others are compared with."""
        groups: dict[tuple[str, str], list[Series]] = {}
        for series in self.series:
            if series.part == part:
                groups.setdefault((series.subject, series.unit), []).append(series)
        return list(groups.values())

    def parts(self) -> list[str]:
        return list(dict.fromkeys(series.part for series in self.series))

    def to_json(self) -> str:
        comparisons = [
            {
                "part": reference.part,
                "subject": reference.subject,
                "unit": reference.unit,
                "side": reference.side,
                "against": other.side,
                "ahead": reference.ahead_of(other),
                "ahead_by_round": reference.ahead_by_round(other),
            }
            for part in self.parts()
            if part not in NO_COMPARISON
            for reference, *others in self.of(part)
            for other in others
            if len(reference.values) == len(other.values) and all(reference.values) and all(other.values)
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


def read_report(path: Path) -> Report:
    """What `to_json` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values["format"] == FORMAT
    series = []
    for fields in values["series"]:
        fields.pop("median")
        series.append(Series(**fields))
    return Report(values["machine"], series, values["checks"], values["skipped"])
