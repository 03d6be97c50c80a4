"""The HTML page of a report: one file, which asks nothing of any network.

The templates lie in `page/`. Jinja escapes whatever is put into them; the page's policy lets no script run but its own,
so that even what slipped through would stay text.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from folio.report.colors import styles
from folio.report.columns import CURVES, LOSS, Column
from folio.report.curves import mean_curve, thinned
from folio.report.groups import ABSENT, NO_CONFIG, Group, short_keys, show, shown
from folio.report.reading import Points, ReportedRun, natural
from folio.report.report import METHOD, Report, run_command
from folio.report.tables import commands, compared

FOLDER = Path(__file__).parent / "page"
CONFIGURATION = ""
"""The key of a configuration as a whole, which is no key of a config."""
DIGITS = 6
"""Of the numbers that curves are drawn from: more than a screen shows."""


@dataclass(frozen=True)
class Heading:
    text: str
    kind: str
    unit: str = ""
    title: str = ""


@dataclass(frozen=True)
class Cell:
    text: str
    value: object
    """What it is sorted by; empty for what is not known."""
    kind: str
    spread: str = ""
    remark: str = ""


def html_page(report: Report, pictures: Mapping[str, bytes], now: datetime | None = None) -> str:
    """The whole page. The pictures, PNG by their names, stand in for the curves where no script runs."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    index = {id(run): place for place, run in enumerate(report.runs)}
    data = _data(report, index)
    return environment.get_template("page.html").render(
        report=report,
        policy=(
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=style,
        script=script,
        data=data,
        written=f"{now or datetime.now():%Y-%m-%d %H:%M}",
        has_curves=bool(data["curves"]),
        group_table=_group_table(report),
        run_table=_run_table(report, index),
        others=[_other(run, index[id(run)]) for run in report.others],
        samples=_samples(report, index),
        commands=commands(report),
        facts=_facts(report.runs),
        method=METHOD,
        pictures=[
            {"name": name, "data": f"data:image/png;base64,{base64.b64encode(content).decode()}"}
            for name, content in pictures.items()
        ],
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _group_table(report: Report) -> dict[str, Any]:
    keys, names = report.grouping.keys, short_keys(report.grouping.keys)
    headings = [Heading(names[key], _kind(report.groups, key), title=key) for key in keys] or [
        Heading("configuration", "text")
    ]
    headings.append(Heading("n", "number", title="finished runs, one for each seed"))
    first = [column for column in report.columns if column.metric.startswith("val/")]
    rest = [column for column in report.columns if column not in first]
    headings += [Heading(column.title, "number", column.unit) for column in first]
    headings.append(Heading("against the lowest mean", "text", title=f"difference in {report.figure.title}"))
    headings += [Heading(column.title, "number", column.unit) for column in rest]
    rows = []
    for place, group in enumerate(report.groups):
        cells = [_plain_cell(group.values.get(key, ABSENT), _kind(report.groups, key)) for key in keys]
        cells = cells or [Cell(group.label, group.label, "text")]
        cells.append(Cell(str(len(group.counted)), len(group.counted), "number"))
        cells += [_summary_cell(group, column) for column in first]
        result, _, remark = compared(report, place).partition(": ")
        cells.append(Cell(remark or result, _p_value(report, place), "text", remark=result if remark else ""))
        cells += [_summary_cell(group, column) for column in rest]
        kind = "best" if place == report.verdict.best and not report.verdict.ties else ""
        rows.append({"group": place, "kind": kind if group.counted else "uncounted", "cells": cells})
    return {"headings": headings, "rows": rows}


def _p_value(report: Report, place: int) -> str:
    """Sorts the best first, then by the difference, then what is not judged."""
    if place == report.verdict.best:
        return "0"
    found = (report.verdict.against_best or {}).get(place)
    return "" if found is None else f"{found[0].value:.9f}"


def _plain_cell(text: str, kind: str) -> Cell:
    return Cell(text, text, kind)


def _summary_cell(group: Group, column: Column) -> Cell:
    summary = group.summary(column.metric)
    if summary is None:
        return Cell(ABSENT, "", "number")
    spread = column.write(summary.deviation) if summary.deviation else ""
    fewer = f"n = {summary.n}" if summary.n != len(group.counted) else ""
    return Cell(column.write(summary.mean), summary.mean, "number", spread, fewer)


def _run_table(report: Report, index: Mapping[int, int]) -> dict[str, Any]:
    keys = [key for key in report.keys_to_group_by if key not in report.grouping.other_keys or key == report.group_by]
    names = short_keys(keys)
    headings = [Heading("run", "text"), *(Heading(names[key], _run_kind(report.finished, key)) for key in keys)]
    headings += [Heading(column.title, "number", column.unit) for column in report.columns]
    headings += [Heading("lowest loss", "number", LOSS.unit), Heading("at step", "number")]
    counted = {id(run) for group in report.groups for run in group.counted}
    rows = []
    for run in report.finished:
        cells = [Cell(run.name, run.name, "text long")]
        cells += [_plain_cell(shown(run, key), _run_kind(report.finished, key)) for key in keys]
        for metric, write in [
            *((column.metric, column.write) for column in report.columns),
            ("best/val/loss_nats", LOSS.write),
            ("best/step", lambda value: f"{value:,.0f}"),
        ]:
            value = run.metrics.get(metric)
            cells.append(Cell(ABSENT, "", "number") if value is None else Cell(write(value), value, "number"))
        rows.append({"run": index[id(run)], "kind": "" if id(run) in counted else "uncounted", "cells": cells})
    return {"headings": headings, "rows": rows}


def _kind(groups: Sequence[Group], key: str) -> str:
    return _kind_of([run.config.get(key) for group in groups for run in group.runs if run.config])


def _run_kind(runs: Sequence[ReportedRun], key: str) -> str:
    return _kind_of([run.config.get(key) for run in runs])


def _kind_of(values: Sequence[object]) -> str:
    """Whether a column sorts by number."""
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return "number" if is_number and values else "text"


def _other(run: ReportedRun, index: int) -> dict[str, Any]:
    step, loss = run.metrics.get("step"), run.metrics.get("val/loss_nats")
    return {
        "index": index,
        "name": run.name,
        "status": run.status,
        "error": run.error,
        "step": "" if step is None else f"{step:,.0f}",
        "loss": LOSS.write(loss),
        "command": run_command(run),
    }


def _samples(report: Report, index: Mapping[int, int]) -> list[dict[str, Any]]:
    """One of each configuration first, so that those which are compared stand side by side; then the other seeds."""
    by_group = [[run for run in [*group.counted, *group.runs] if run.sample] for group in report.groups]
    ordered = {
        id(runs[place]): (group, runs[place])
        for place in range(max(map(len, by_group), default=0))
        for group, runs in zip(report.groups, by_group, strict=True)
        if place < len(runs)
    }
    return [
        {
            "index": index[id(run)],
            "label": group.label if run.seed is None else f"{group.label}, seed {show(run.seed)}",
            "name": run.name,
            "step": f"{run.sample_step:,}",
            "loss": LOSS.write(run.metrics.get(LOSS.metric)),
            "status": run.status,
            "text": run.sample,
        }
        for group, run in ordered.values()
    ]


def _facts(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    names = {"git_commit": "commit of the code"}
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.facts.items():
            found.setdefault(names.get(name, name), {})[value] = None
    return [{"name": name, "texts": list(values)} for name, values in found.items()]


def _data(report: Report, index: Mapping[int, int]) -> dict[str, Any]:
    """What the page's script reads: plain finite numbers and texts."""
    tags = [(tag, title) for tag, title in CURVES if any(tag in run.curves for run in report.runs)]
    of_run = {id(run): group for group in report.groups for run in group.runs}
    counted = {id(run) for group in report.groups for run in group.counted}
    keys = [CONFIGURATION, *report.keys_to_group_by]
    titles = short_keys(keys[1:]) | {CONFIGURATION: "configuration"}

    def value(run: ReportedRun, key: str) -> str:
        if not run.config:
            return NO_CONFIG
        return of_run[id(run)].label if key == CONFIGURATION else shown(run, key)

    runs = [
        {
            "name": run.name,
            "finished": run.is_finished,
            "counted": id(run) in counted,
            "values": {key: value(run, key) for key in keys},
            "metrics": {c.metric: run.metrics[c.metric] for c in report.columns if c.metric in run.metrics},
            "curves": {tag: _points(thinned(run.curves[tag])) for tag, _ in tags if tag in run.curves},
        }
        for run in report.runs
    ]
    axes = [
        name
        for name in ("steps", "tokens", "seconds")
        if any(getattr(points, name) for run in report.runs for tag, points in run.curves.items() if tag in dict(tags))
    ]
    return {
        "headline": report.figure.metric,
        "runs": runs,
        "groups": [_group_data(group, index, report.columns, [tag for tag, _ in tags]) for group in report.groups],
        "keys": [
            {"key": key, "title": titles[key], "styles": _styles([value(run, key) for run in report.runs], key, report)}
            for key in keys
        ],
        "first_key": 0 if report.group_by is None else keys.index(report.group_by),
        "columns": [
            {"metric": c.metric, "heading": c.heading, "scale": c.scale}
            for c in report.columns
            if any(group.numbers(c.metric) for group in report.groups)
        ],
        "curves": [{"tag": tag, "title": title} for tag, title in tags],
        "axes": axes,
    }


def _styles(values: Sequence[str], key: str, report: Report) -> dict[str, dict[str, str]]:
    of_configs = [value for value in values if value != NO_CONFIG]
    order = [group.label for group in report.groups] if key == CONFIGURATION else sorted(of_configs, key=natural)
    order += [NO_CONFIG] if NO_CONFIG in values else []
    return {value: {"light": s.light, "dark": s.dark, "dash": s.dash} for value, s in styles(order).items()}


def _group_data(
    group: Group, index: Mapping[int, int], columns: Sequence[Column], tags: Sequence[str]
) -> dict[str, Any]:
    summaries = {column.metric: group.summary(column.metric) for column in columns}
    means = {tag: mean_curve(group.counted, tag) for tag in tags}
    return {
        "label": group.label,
        "runs": [index[id(run)] for run in group.runs],
        "counted": [index[id(run)] for run in group.counted],
        "summaries": {
            metric: {"n": found.n, "mean": found.mean, "margin": found.margin}
            for metric, found in summaries.items()
            if found is not None
        },
        "means": {
            tag: _points(thinned(mean.points)) | _band(mean.low, mean.high, mean.points) | {"n": mean.n}
            for tag, mean in means.items()
            if mean is not None
        },
    }


def _band(low: list[float], high: list[float], points: Points) -> dict[str, list[float]]:
    """Thinned as the mean itself is."""
    lows, highs = (thinned(Points(points.steps, values, None, None)).values for values in (low, high))
    return {"low": _rounded(lows), "high": _rounded(highs)}


def _points(points: Points) -> dict[str, Any]:
    return {
        "steps": points.steps,
        "values": _rounded(points.values),
        "tokens": None if points.tokens is None else _rounded(points.tokens, 9),
        "seconds": None if points.seconds is None else _rounded(points.seconds),
    }


def _rounded(values: Sequence[float], digits: int = DIGITS) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
