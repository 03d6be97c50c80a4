"""What windows longer than those of training do to trained models, by configuration.

Source: Press et al. 2022, "Train short, test long", section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from folio.report.columns import LOSS
from folio.report.groups import ABSENT, Group
from folio.report.statistics import Summary, summarize


@dataclass(frozen=True)
class Measured:
    """One run with windows of one length; its losses are None where its positions end before."""

    group: Group
    run: str
    seed: str
    trained_with: int
    """Tokens in a window of training."""
    context_length: int
    loss_nats: float | None
    bits_per_byte: float | None


def summary_of(measured: Sequence[Measured], group: Group, context_length: int) -> Summary | None:
    """Of the losses over seeds, in nats per token; None where there are none."""
    return summarize(
        [
            each.loss_nats
            for each in measured
            if each.group is group and each.context_length == context_length and each.loss_nats is not None
        ]
    )


def groups_of(measured: Sequence[Measured]) -> list[Group]:
    return list({id(each.group): each.group for each in measured}.values())


def lengths_of(measured: Sequence[Measured]) -> list[int]:
    return sorted({each.context_length for each in measured})


def table(measured: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each configuration: validation loss in nats per token, mean ± deviation over seeds."""
    lengths = lengths_of(measured)
    rows = []
    for group in groups_of(measured):
        seeds = {each.seed for each in measured if each.group is group}
        cells = []
        for length in lengths:
            cells.append(LOSS.write_summary(summary_of(measured, group, length)) or ABSENT)
        rows.append([group.label, str(len(seeds)), *cells])
    return ["configuration", "n", *(f"{length} tokens" for length in lengths)], rows


CSV_HEADINGS = ["configuration", "run", "seed", "trained_with", "context_length", "val/loss_nats", "val/bits_per_byte"]


def csv_rows(measured: Sequence[Measured]) -> list[list[object]]:
    """A row for each run and length."""
    return [
        [each.group.label, each.run, each.seed, each.trained_with, each.context_length]
        + ["" if value is None else value for value in (each.loss_nats, each.bits_per_byte)]
        for each in measured
    ]
