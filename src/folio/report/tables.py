"""The tables of a report: as CSV, in the terminal and in Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from folio.report.grouping import NO_CONFIG, short_key_names
from folio.report.report import METHOD, Report, describe_test_looks, report_commands, run_command
from folio.report.statistics import SIGNIFICANCE_LEVEL
from folio.report.text import ABSENT, format_value
from folio.runtime.console import PIPE_WIDTH

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet evaluates a cell that begins with one of these."""

COMPARED_HEADING = "against the lowest mean"

UNFINISHED_HEADINGS = ["run", "status", "step", "last validation loss (nats per token)", "error"]


# CSV


def runs_csv(report: Report) -> str:
    """Return one row per run: its status, the keys that differ, and all its metrics."""
    described = [key for key in ("tags", "notes") if any(run.config.get(key) for run in report.runs)]
    keys = [*report.color_keys, *report.grouping.keys_without_effect, *described]
    keys = [key for key in dict.fromkeys(keys) if key != "seed"]
    metrics = list(dict.fromkeys(name for run in report.runs for name in run.metrics if name != "seed"))
    labels, averaged = report.grouping.labels, report.grouping.averaged_ids
    headings = ["run", "configuration", "status", "in_mean", "error", "seed", *keys, *metrics]
    rows: list[list[object]] = [[*headings, "device", "git_commit", "command"]]
    for run in report.runs:
        rows.append(
            [
                run.name,
                labels.get(id(run), NO_CONFIG),
                run.status,
                "yes" if id(run) in averaged else "no",
                run.error,
                "" if run.seed is None else run.seed,
                *(format_value(run.config[key]) if key in run.config else "" for key in keys),
                *(run.metrics.get(name, "") for name in metrics),
                run.facts.get("device", ""),
                run.facts.get("git_commit", ""),
                run_command(run),
            ]
        )
    return to_csv(rows)


def groups_csv(report: Report) -> str:
    """Return one row per configuration: n, mean, standard deviation and 95 % margin of each metric."""
    keys = [*report.grouping.keys, *report.grouping.dependent_keys]
    names = [f"{c.metric}/{part}" for c in report.columns for part in ("n", "mean", "standard_deviation", "margin_95")]
    rows: list[list[object]] = [["configuration", *keys, "runs", *names, "p_against_lowest_mean"]]
    for index, group in enumerate(report.groups):
        row: list[object] = [group.label, *(group.values.get(key, "") for key in keys), len(group.runs)]
        for column in report.columns:
            summary = group.summary(column.metric)
            row += [0, "", "", ""] if summary is None else [summary.n, summary.mean, summary.std, summary.margin]
        test = report.comparison.tests.get(index)
        rows.append([*row, "" if test is None else test.p_value])
    return to_csv(rows)


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV, in which no spreadsheet evaluates anything."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_without_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _without_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_SIGNS) else cell


# Cells for people


def group_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the table of configurations."""
    names = short_key_names(report.grouping.keys)
    headings = [*names.values(), "n", *(column.heading for column in report.columns), COMPARED_HEADING]
    headings += ["tags"] if report.has_tags else []
    if not report.grouping.keys:
        headings.insert(0, "configuration")
    rows = []
    for index, group in enumerate(report.groups):
        values = [group.values.get(key, ABSENT) for key in report.grouping.keys] or [group.label]
        cells = [column.format_summary(group.summary(column.metric)) or ABSENT for column in report.columns]
        tags = [", ".join(group.tags) or ABSENT] if report.has_tags else []
        rows.append([*values, str(len(group.averaged)), *cells, compared_text(report, index), *tags])
    return headings, rows


def compared_text(report: Report, index: int) -> str:
    """Return the result of a configuration's test against the one with the lowest mean: "difference: result"."""
    comparison = report.comparison
    if index == comparison.best:
        return "lowest mean"
    test = comparison.tests.get(index)
    if test is None:
        return "not tested" if comparison.best is not None else ABSENT
    p = "< 0.001" if test.p_value < 0.001 else f"= {test.p_value:.3f}"
    result = "higher" if test.p_value < SIGNIFICANCE_LEVEL else "not significant"
    return f"{test.difference:+.4f} ± {test.margin:.4f}, p {p}: {result}"


def unfinished_rows(report: Report) -> list[list[str]]:
    """Return the cells of the runs that did not finish, under UNFINISHED_HEADINGS."""
    return [
        [
            run.name,
            run.status,
            f"{run.metrics['step']:,.0f}" if "step" in run.metrics else ABSENT,
            f"{run.metrics['val/loss_nats']:.4f}" if "val/loss_nats" in run.metrics else ABSENT,
            run.error or ABSENT,
        ]
        for run in report.unfinished
    ]


# Terminal


def output_console() -> Console:
    """Return a console for standard output; if that is not a terminal, with room for whole lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_report(report: Report, console: Console) -> None:
    """Print the configurations, the conclusion, the looks at a test split, and the runs that did not finish."""
    console.print(_group_table(report, console), Text(report.comparison.conclusion), sep="\n")
    if looks := describe_test_looks(report.runs):
        console.print(Text(looks))
    if report.unfinished:
        console.print(to_rich_table("not finished, and in no mean", UNFINISHED_HEADINGS, unfinished_rows(report)))


def _group_table(report: Report, console: Console) -> Table:
    """Return a table with as many metrics as fit the console, the primary one in any case. The files have all."""
    title = f"{report.title}: {report.status_counts()}"
    columns = list(report.columns)
    while True:
        headings = ["configuration", "n", *(column.short_title or column.title for column in columns)]
        rows = [
            [group.label, str(len(group.averaged))]
            + [column.format_summary(group.summary(column.metric)) or ABSENT for column in columns]
            for group in report.groups
        ]
        if report.comparison.best is not None:
            headings.append(COMPARED_HEADING)
            rows = [[*row, compared_text(report, index)] for index, row in enumerate(rows)]
        if report.has_tags:
            headings.append("tags")
            rows = [[*row, ", ".join(group.tags) or ABSENT] for row, group in zip(rows, report.groups, strict=True)]
        table = to_rich_table(title, headings, rows)
        if len(columns) <= 1 or console.measure(table).maximum <= console.width:
            return table
        columns.remove(max(columns, key=lambda column: (column.metric != report.primary.metric, column.drop_rank)))


def to_rich_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table whose cells are plain text, even if they look like Rich's markup."""
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


# Markdown


def to_markdown(report: Report, images: Sequence[str]) -> str:
    """Return the report as Markdown, with image files by name."""
    headings, rows = group_rows(report)
    conclusion = escape_markdown(report.comparison.conclusion)
    parts = [f"# {escape_markdown(report.title)}", f"{escape_markdown(report.status_counts())}.", conclusion]
    parts += [to_markdown_table(headings, rows)]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in images]
    if remarks := [*report.notes, *report.warnings]:
        parts.append("\n".join(f"- {escape_markdown(remark)}" for remark in remarks))
    if report.unfinished:
        parts += ["## Not finished, and in no mean", to_markdown_table(UNFINISHED_HEADINGS, unfinished_rows(report))]
    if runs := [run for run in report.runs if run.sample]:
        parts.append("## Samples")
        for run in runs:
            parts += [f"### {escape_markdown(run.name)}, step {run.sample_step}", _code_block(run.sample)]
    parts += ["## Commands", _code_block("\n".join(report_commands(report)))]
    parts += ["## How to read it", escape_markdown(METHOD)]
    return "\n\n".join(parts) + "\n"


def to_markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are escaped."""
    escaped = ([escape_markdown(cell) for cell in row] for row in rows)
    return join_table([escape_markdown(heading) for heading in headings], escaped)


def join_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it unchanged: without HTML, links or tables of its own."""
    text = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code_block(text: str) -> str:
    """Indent the text, because it could close a fence."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
