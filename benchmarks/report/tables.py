"""The report on a terminal."""

import statistics
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from benchmarks.parts.hardware import peak_gflop_per_s
from benchmarks.parts.scaling import group_exponent
from benchmarks.report.results import NO_COMPARISON, Report, Series
from benchmarks.report.statistics import number

TITLES = {
    "hardware": "hardware: the most that this machine does",
    "step": "step: a training step",
    "overhead": "overhead: train.py against a bare loop of the same model, loss and optimizer",
    "memory": "memory: peak of the whole process",
    "data": "data",
    "prepare": "prepare: text into shards of tokens",
    "loss": "loss, with its gradients",
    "generation": "generation: GPT-2 small, greedy, fp32",
    "startup": "startup: from the command to its first sign",
    "quality": "quality: training time to a validation loss",
    "scaling": "scaling: one size at a time",
}


def print_report(report: Report, console: Console) -> None:
    console.print(Group(*contents(report)))


def contents(report: Report) -> Iterator[Table | Text]:
    machine = report.machine
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    threads = f"{machine['cores']} cores, {machine['threads']} threads"
    yield Text(f"{machine['cpu']}, {threads}{gpu}, torch {machine['torch']}")
    for part in report.parts():
        yield part_table(part, report)
    for check in report.checks:
        if "largest_difference" in check and check["side"] != "folio":
            difference = f"{check['largest_difference']:.1g} nats apart at most, {check['allowed']} allowed"
            yield Text(f"{check['what']}, Folio and {check['side']}, {check['n_steps']} steps: {difference}")
    yield from (Text(sentence) for sentence in report.skipped)


def part_table(part: str, report: Report) -> Table:
    """Medians, spread, and how far the first row of each subject is ahead, or its size for the exponent."""
    if part == "scaling":
        return scaling_table(report)
    table = Table(title=TITLES[part], title_justify="left")
    for column in ("what", "who"):
        table.add_column(column)
    for column in ("median", "least to most", "first row ahead"):
        table.add_column(column, justify="right")
    table.add_column("")
    for group in report.of(part):
        reference = group[0]
        for series in group:
            compared = series is not reference and part not in NO_COMPARISON
            table.add_row(
                series.subject if series is reference else "",
                series.side,
                f"{number(series.median)} {series.unit}",
                spread(series.values),
                f"{reference.ahead_of(series):.2f} x" if compared else "",
                "; ".join(filter(None, (of_peak(series, report), series.note))),
            )
        table.add_section()
    return table


def scaling_table(report: Report) -> Table:
    table = Table(title=TITLES["scaling"], title_justify="left")
    for column in ("what", "unit", "medians by size", "exponent"):
        table.add_column(column)
    for group in report.of("scaling"):
        medians = ", ".join(f"{series.side}: {number(series.median)}" for series in group)
        power = f"{group_exponent(group):.2f}" if len(group) > 1 else ""
        table.add_row(group[0].subject, group[0].unit, medians, power)
    return table


def of_peak(series: Series, report: Report) -> str:
    """Tokens/s of a step, and its share of what the machine's matrix products reach."""
    if "model_gflop_per_s" not in series.facts:
        return ""
    tokens = f"{statistics.median(series.facts['tokens_per_s']):,.0f} tokens/s"
    share = peak_share(series, report)
    return tokens if share is None else f"{tokens}, {share:.2f} of peak"


def peak_share(series: Series, report: Report) -> float | None:
    """Model FLOPs a second over the best matrix product; None where that was not measured."""
    on_gpu = series.facts["precision"] != "32-true"
    hardware = [one for one in report.series if one.part == "hardware"]
    peak = peak_gflop_per_s(hardware, "cuda" if on_gpu else "cpu", "bf16" if on_gpu else "fp32")
    return None if peak is None else statistics.median(series.facts["model_gflop_per_s"]) / peak


def spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
