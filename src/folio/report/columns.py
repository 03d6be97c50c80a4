"""The figures of a report, and how they are written for people."""

from collections.abc import Callable
from dataclasses import dataclass

from folio.report.statistics import Summary


@dataclass(frozen=True)
class Column:
    """One figure of metrics.json."""

    metric: str
    title: str
    unit: str
    form: Callable[[float], str]
    scale: float = 1.0
    """From the figure to its unit."""
    rank: int = 0
    """Which goes first where there is no room for all: the highest."""
    short: str = ""
    """The title where room is dear."""

    def write(self, value: float | None) -> str:
        return "" if value is None else self.form(value * self.scale)

    def write_summary(self, summary: Summary | None) -> str:
        return "" if summary is None else with_spread(summary, self.write)

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


def with_spread(summary: Summary, write: Callable[[float], str]) -> str:
    """The mean and the standard deviation, where there is one and the values do differ."""
    mean = write(summary.mean)
    return mean if not summary.deviation else f"{mean} ± {write(summary.deviation)}"


def decimals(n: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{n}f}"


def significant(value: float) -> str:
    """Three digits, and all of those before the point: 0.512, 12.3, 12,345."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


LOSS = Column("val/loss_nats", "validation loss", "nats per token", decimals(4), rank=1, short="loss (nats)")
BITS_PER_BYTE = Column("val/bits_per_byte", "bits per byte", "", decimals(4))
COLUMNS = (
    LOSS,
    BITS_PER_BYTE,
    Column("train/tokens_per_s", "speed", "tokens/s", significant, rank=2, short="tokens/s"),
    Column("peak_memory_bytes", "peak memory", "MiB", decimals(0), scale=2.0**-20, rank=4, short="MiB"),
    Column("n_parameters", "parameters", "", decimals(0), rank=3),
    Column("elapsed_s", "time", "s", significant, rank=5, short="seconds"),
)

CURVES = (
    ("val/loss_nats", "validation loss (nats per token)"),
    ("val/bits_per_byte", "validation bits per byte"),
    ("train/loss_nats", "training loss (nats per token)"),
)
"""Tags of the curves that a report draws, and their axis."""
