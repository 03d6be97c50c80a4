"""A report as tables of text: for a terminal, as CSV and as Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from folio.report.groups import ABSENT, NO_CONFIG, short_keys, show
from folio.report.report import METHOD, Report, run_command, sweep_command

PIPE_WIDTH = 180

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet computes what begins with one of these."""


def runs_csv(report: Report) -> str:
    """A row for each run: what it is, the keys that differ, and all its figures."""
    keys = [*report.keys_to_group_by, *report.grouping.silent_keys]
    keys = [key for key in dict.fromkeys(keys) if key != "seed"]
    metrics = list(dict.fromkeys(name for run in report.runs for name in run.metrics if name != "seed"))
    of_run = {id(run): group.label for group in report.groups for run in group.runs}
    counted = {id(run) for group in report.groups for run in group.counted}
    named = ["run", "configuration", "status", "in_mean", "error", "seed"]
    rows: list[list[object]] = [[*named, *keys, *metrics, "device", "git_commit", "command"]]
    for run in report.runs:
        rows.append(
            [
                run.name,
                of_run.get(id(run), NO_CONFIG),
                run.status,
                "yes" if id(run) in counted else "no",
                run.error,
                "" if run.seed is None else run.seed,
                *(show(run.config[key]) if key in run.config else "" for key in keys),
                *(run.metrics.get(name, "") for name in metrics),
                run.facts.get("device", ""),
                run.facts.get("git_commit", ""),
                run_command(run),
            ]
        )
    return _csv(rows)


def groups_csv(report: Report) -> str:
    """A row for each configuration: n, mean, standard deviation and the 95 % interval's half of each figure."""
    keys = [*report.grouping.keys, *report.grouping.other_keys]
    names = [f"{c.metric}/{part}" for c in report.columns for part in ("n", "mean", "standard_deviation", "margin_95")]
    rows: list[list[object]] = [["configuration", *keys, "runs", *names, "p_against_lowest_mean"]]
    for index, group in enumerate(report.groups):
        row: list[object] = [group.label, *(group.values.get(key, "") for key in keys), len(group.runs)]
        for column in report.columns:
            found = group.summary(column.metric)
            row += [0, "", "", ""] if found is None else [found.n, found.mean, found.deviation, found.margin]
        compared = (report.verdict.against_best or {}).get(index)
        rows.append([*row, "" if compared is None else compared[1]])
    return _csv(rows)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(
        [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in row] for row in rows
    )
    return text.getvalue()


def group_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of configurations, for people."""
    names = short_keys(report.grouping.keys)
    headings = [*names.values(), "n", *(column.heading for column in report.columns), "against the lowest mean"]
    if not report.grouping.keys:
        headings.insert(0, "configuration")
    rows = []
    for index, group in enumerate(report.groups):
        values = [group.values.get(key, ABSENT) for key in report.grouping.keys] or [group.label]
        cells = [column.write_summary(group.summary(column.metric)) for column in report.columns]
        rows.append([*values, str(len(group.counted)), *(cell or ABSENT for cell in cells), compared(report, index)])
    return headings, rows


def compared(report: Report, index: int) -> str:
    """What the test says of a configuration beside the one with the lowest mean."""
    verdict = report.verdict
    if index == verdict.best:
        return "lowest mean"
    found = (verdict.against_best or {}).get(index)
    if found is None:
        return "not judged" if verdict.best is not None else ABSENT
    difference, p = found
    word = "within the noise" if index in verdict.ties else "higher"
    return f"{difference.value:+.4f} ± {difference.margin:.4f}, p {chance(p)}: {word}"


def chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def other_rows(report: Report) -> list[list[str]]:
    """Of the runs that did not finish: name, status, last step, last loss and what went wrong."""
    return [
        [
            run.name,
            run.status,
            f"{run.metrics['step']:,.0f}" if "step" in run.metrics else ABSENT,
            f"{run.metrics['val/loss_nats']:.4f}" if "val/loss_nats" in run.metrics else ABSENT,
            run.error or ABSENT,
        ]
        for run in report.others
    ]


OTHER_HEADINGS = ["run", "status", "step", "last validation loss (nats per token)", "error"]


def terminal() -> Console:
    """Standard output; where that is a pipe or a file, with room for whole lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_report(report: Report, console: Console) -> None:
    """The configurations, the verdict, and what did not finish."""
    console.print(_group_table(report, console), Text(report.verdict.sentence), sep="\n")
    if report.others:
        console.print(_rich("not finished, and in no mean", OTHER_HEADINGS, other_rows(report)))


def _group_table(report: Report, console: Console) -> Table:
    """As many figures as fit beside each other, the most telling ones first; the files have all."""
    title = f"{report.title}: {report.count()}"
    columns = list(report.columns)
    while True:
        headings = ["configuration", "n", *(column.short or column.title for column in columns)]
        rows = [
            [group.label, str(len(group.counted))]
            + [column.write_summary(group.summary(column.metric)) or ABSENT for column in columns]
            for group in report.groups
        ]
        if report.verdict.best is not None:
            headings.append("against the lowest mean")
            rows = [[*row, compared(report, index)] for index, row in enumerate(rows)]
        table = _rich(title, headings, rows)
        if len(columns) <= 1 or console.measure(table).maximum <= console.width:
            return table
        columns.remove(max(columns, key=lambda column: (column.metric != report.figure.metric, column.rank)))


def _rich(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Cells as Text: what looks like markup is none."""
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown(report: Report, pictures: Sequence[str]) -> str:
    headings, rows = group_rows(report)
    parts = [f"# {escaped(report.title)}", f"{escaped(report.count())}.", escaped(report.verdict.sentence)]
    parts += [_markdown_table(headings, rows)]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    remarks = [*report.notes, *report.warnings]
    if remarks:
        parts.append("\n".join(f"- {escaped(remark)}" for remark in remarks))
    if report.others:
        parts += ["## Not finished, and in no mean", _markdown_table(OTHER_HEADINGS, other_rows(report))]
    samples = [run for run in report.runs if run.sample]
    if samples:
        parts.append("## Samples")
        for run in samples:
            parts += [f"### {escaped(run.name)}, step {run.sample_step}", _code(run.sample)]
    parts += ["## Commands", _code("\n".join(commands(report))), "## How to read it", escaped(METHOD)]
    return "\n\n".join(parts) + "\n"


def commands(report: Report) -> list[str]:
    """That repeat all this: the sweeps, the runs that belong to none, and the report."""
    swept = {run.folder.parent.resolve() for run in report.runs} & {
        sweep.folder.resolve() for sweep in report.sweeps if sweep.command
    }
    lines = [sweep_command(sweep) for sweep in report.sweeps]
    lines += [run_command(run) for run in report.runs if run.folder.parent.resolve() not in swept]
    return [line for line in [*dict.fromkeys(lines), report.command] if line]


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(cell if line is lines[1] else escaped(cell) for cell in line) + " |" for line in lines
    )


def escaped(text: str) -> str:
    """As Markdown shows it as it is: no HTML, no link, no table of its own."""
    text = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """Indented, so that nothing in it can end it as a fence could."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
