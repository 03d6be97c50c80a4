"""Study of extrapolation: the loss of trained models with windows longer than those of training.

Source: Press et al. 2022, "Train short, test long", section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from folio.report.grouping import Group
from folio.report.metrics import LOSS
from folio.report.statistics import Summary, summarize
from folio.report.text import ABSENT

CSV_HEADINGS = ["configuration", "run", "seed", "trained_with", "context_length", "val/loss_nats", "val/bits_per_byte"]


@dataclass(frozen=True)
class Measurement:
    """The losses of one run with one window length; None if the model has no positions for that length."""

    group: Group
    run: str
    seed: str
    trained_with: int
    """Tokens in a window of training."""
    context_length: int
    loss_nats: float | None
    bits_per_byte: float | None


def summarize_length(measurements: Sequence[Measurement], group: Group, context_length: int) -> Summary | None:
    """Return the statistics of a configuration's losses (nats per token) over seeds; None if there are none."""
    losses = [each.loss_nats for each in measurements if each.group is group and each.context_length == context_length]
    return summarize([loss for loss in losses if loss is not None])


def groups_of(measurements: Sequence[Measurement]) -> list[Group]:
    return list({id(each.group): each.group for each in measurements}.values())


def lengths_of(measurements: Sequence[Measurement]) -> list[int]:
    return sorted({each.context_length for each in measurements})


def extrapolation_table(measurements: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a row for each configuration: mean ± standard deviation of the loss at each length."""
    lengths = lengths_of(measurements)
    rows = []
    for group in groups_of(measurements):
        seeds = {each.seed for each in measurements if each.group is group}
        summaries = [summarize_length(measurements, group, length) for length in lengths]
        rows.append([group.label, str(len(seeds)), *(LOSS.format_summary(summary) or ABSENT for summary in summaries)])
    return ["configuration", "n", *(f"{length} tokens" for length in lengths)], rows


def csv_rows(measurements: Sequence[Measurement]) -> list[list[object]]:
    """Return a row for each run and length, under CSV_HEADINGS."""
    return [
        [each.group.label, each.run, each.seed, each.trained_with, each.context_length]
        + ["" if value is None else value for value in (each.loss_nats, each.bits_per_byte)]
        for each in measurements
    ]
