"""The metrics that a report shows, their units and formats, and the one by which it compares configurations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from folio.report.reading import ReportedRun
from folio.report.statistics import Summary
from folio.report.text import fixed_point, three_digits


@dataclass(frozen=True)
class Column:
    """A metric of metrics.json, as a column of a table."""

    metric: str
    title: str
    unit: str
    formatter: Callable[[float], str]
    scale: float = 1.0
    """Factor from the metric to its unit."""
    drop_rank: int = 0
    """Columns with a higher rank are dropped first if a terminal is too narrow."""
    short_title: str = ""
    """Title for a terminal."""

    def format(self, value: float | None) -> str:
        return "" if value is None else self.formatter(value * self.scale)

    def format_summary(self, summary: Summary | None) -> str:
        return "" if summary is None else format_mean_std(summary, self.format)

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


def format_mean_std(summary: Summary, formatter: Callable[[float], str]) -> str:
    """Write the mean ± the standard deviation, which is left out for one value or equal values."""
    mean = formatter(summary.mean)
    return mean if not summary.std else f"{mean} ± {formatter(summary.std)}"


LOSS = Column(
    "val/loss_nats", "validation loss", "nats per token", fixed_point(4), drop_rank=1, short_title="loss (nats)"
)
COLUMNS = (
    LOSS,
    Column("val/bits_per_byte", "bits per byte", "", fixed_point(4)),
    Column("test/loss_nats", "test loss", "nats per token", fixed_point(4), drop_rank=1, short_title="test (nats)"),
    Column("test/bits_per_byte", "test bits per byte", "", fixed_point(4)),
    Column("train/tokens_per_s", "throughput", "tokens/s", three_digits, drop_rank=2, short_title="tokens/s"),
    Column("mfu", "utilization", "MFU", fixed_point(3), drop_rank=6, short_title="MFU"),
    Column("peak_memory_bytes", "peak memory", "MiB", fixed_point(0), scale=2.0**-20, drop_rank=4, short_title="MiB"),
    Column("n_parameters", "parameters", "", fixed_point(0), drop_rank=3),
    Column("elapsed_s", "time", "s", three_digits, drop_rank=5, short_title="seconds"),
    Column("energy_j", "energy", "kJ", three_digits, scale=1e-3, drop_rank=7, short_title="kJ"),
)

CURVE_TAGS = {
    "val/loss_nats": "validation loss (nats per token)",
    "val/bits_per_byte": "validation bits per byte",
    "train/loss_nats": "training loss (nats per token)",
}
"""Tags of the curves that a report draws, with the titles of their y-axes."""


@dataclass(frozen=True)
class PrimaryMetric:
    """The metric by which configurations are compared; without one, `reason` says why they cannot be compared."""

    metric: str | None
    title: str = ""
    reason: str = ""


def choose_primary_metric(runs: Sequence[ReportedRun]) -> PrimaryMetric:
    """Return bits per byte if all finished runs have it, because it compares across tokenizers; else the loss.

    Losses cannot be compared across texts, validation splits, objectives or tokenizers. A figure of a test split is
    never compared: whoever chose by it would need another test split.
    """
    finished = [run for run in runs if run.is_finished]
    if not finished:
        return PrimaryMetric(None, reason="No run has finished, so there is nothing to compare.")
    if len({run.text_sha256 for run in finished}) > 1:
        return PrimaryMetric(None, reason="These runs read different texts, so their losses are not compared.")
    if len({run.val_bytes for run in finished} - {None}) > 1:
        return PrimaryMetric(
            None, reason="These runs have different validation splits, so their losses are not compared."
        )
    objectives = {run.config_text("objective.name") for run in finished}
    if len(objectives) > 1:
        names = ", ".join(sorted(objectives))
        reason = f"These runs have different objectives ({names}), so their losses are not compared."
        return PrimaryMetric(None, reason=reason)
    if all("val/bits_per_byte" in run.metrics for run in finished):
        return PrimaryMetric("val/bits_per_byte", "bits per byte")
    if len({(run.config_text("tokenizer.name"), run.config_text("model.vocab_size")) for run in finished}) > 1:
        reason = "These runs have different tokenizers and no bits per byte, so their losses are not compared."
        return PrimaryMetric(None, reason=reason)
    return PrimaryMetric("val/loss_nats", "validation loss")
