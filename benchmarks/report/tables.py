"""The report on a terminal."""

import statistics
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from benchmarks.report.results import NOT_COMPARED, BenchmarkReport, Series, group_exponent, peak_gflop_per_s
from benchmarks.report.statistics import format_number

TITLES = {
    "hardware": "hardware: the fastest rates of this machine",
    "step": "step: one training step (MFU: model FLOPs/s over the fastest matrix product above)",
    "overhead": "overhead: train.py against a bare loop of the same model, loss and optimizer",
    "memory": "memory: peak of the whole process",
    "data": "data: one batch",
    "prepare": "prepare: text into shards of tokens",
    "loss": "loss: forward and backward",
    "layers": "layers: forward and backward",
    "generation": "generation: GPT-2 small, greedy, fp32",
    "startup": "startup: from the command to its first output",
    "busy": "busy: a training step beside other processes",
    "quality": "quality: training time to a validation loss",
    "scaling": "scaling: one size at a time",
}


def print_report(report: BenchmarkReport, console: Console) -> None:
    console.print(Group(*contents(report)))


def contents(report: BenchmarkReport) -> Iterator[Table | Text]:
    machine = report.machine
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    threads = f"{machine['cores']} cores, {machine['threads']} threads"
    yield Text(f"{machine['cpu']}, {threads}{gpu}, torch {machine['torch']}")
    for part in report.parts():
        yield scaling_table(report) if part == "scaling" else part_table(part, report)
    for check in report.checks:
        if "largest_difference" in check and check["contender"] != "folio":
            difference = f"differ by at most {check['largest_difference']:.1g} nats, {check['allowed']} allowed"
            yield Text(f"{check['what']}: in {check['n_steps']} steps Folio and {check['contender']} {difference}")
    yield from (Text(sentence) for sentence in report.skipped)


def part_table(part: str, report: BenchmarkReport) -> Table:
    """Return medians and ranges, and how many times better the first row of each subject is than the others."""
    table = Table(title=TITLES[part], title_justify="left")
    for column in ("subject", "contender"):
        table.add_column(column)
    for column in ("median", "min to max", "first row is better by"):
        table.add_column(column, justify="right")
    table.add_column("")
    for group in report.groups(part):
        first = group[0]
        for series in group:
            is_compared = series is not first and part not in NOT_COMPARED
            table.add_row(
                series.subject if series is first else "",
                series.contender,
                f"{format_number(series.median)} {series.unit}",
                value_range(series.values),
                f"{first.advantage_over(series):.2f} x" if is_compared else "",
                "; ".join(filter(None, (throughput(series, report), series.note))),
            )
        table.add_section()
    return table


def scaling_table(report: BenchmarkReport) -> Table:
    """Return the medians of each size, and the exponent with which they grow."""
    table = Table(title=TITLES["scaling"], title_justify="left")
    for column in ("subject", "unit", "medians by size", "exponent"):
        table.add_column(column)
    for group in report.groups("scaling"):
        medians = ", ".join(f"{series.contender}: {format_number(series.median)}" for series in group)
        exponent = f"{group_exponent(group):.2f}" if len(group) > 1 else ""
        table.add_row(group[0].subject, group[0].unit, medians, exponent)
    return table


def throughput(series: Series, report: BenchmarkReport) -> str:
    """Return tokens/s and MFU of a training step; nothing for other series."""
    if "model_gflop_per_s" not in series.facts:
        return ""
    tokens = f"{statistics.median(series.facts['tokens_per_s']):,.0f} tokens/s"
    utilization = mfu(series, report)
    return tokens if utilization is None else f"{tokens}, MFU {utilization:.2f}"


def mfu(series: Series, report: BenchmarkReport) -> float | None:
    """Return the model FLOPs utilization, against the best measured matrix product; None if none was measured."""
    precision = "fp32" if series.facts["precision"] == "32-true" else "bf16"
    peak = peak_gflop_per_s(report, series.facts.get("device", "cpu"), precision)
    return None if peak is None else statistics.median(series.facts["model_gflop_per_s"]) / peak


def value_range(values: Sequence[float]) -> str:
    return f"{format_number(min(values))} to {format_number(max(values))}" if len(values) > 1 else ""
