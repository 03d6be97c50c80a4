"""The HTML page of a report: one file that needs no network.

The templates are in `page/`. Jinja escapes everything that is put into them, and the page's Content-Security-Policy
allows only its own script: markup that escaped the escaping would still not run.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from folio.report.colors import assign_styles
from folio.report.curves import MeanCurve, RunCurve, kept_points, mean_curve
from folio.report.grouping import NO_CONFIG, Group, short_key_names
from folio.report.metrics import CURVE_TAGS, LOSS, Column
from folio.report.reading import ReportedRun
from folio.report.report import FACT_NAMES, METHOD, Report, report_commands, run_command
from folio.report.tables import COMPARED_HEADING, compared_text
from folio.report.text import ABSENT, format_value, natural_sort_key
from folio.runtime.web_page import content_security_policy

TEMPLATES = Path(__file__).parent / "page"
CONFIGURATION = ""
"""Stands for the configuration among the keys that can color the curves. No key of a config is empty."""
N_DIGITS = 6
"""Significant digits of the curves: more than a screen shows."""


@dataclass(frozen=True)
class Heading:
    """Heading of a sortable column."""

    text: str
    kind: str
    """number or text: how the column is aligned and sorted."""
    unit: str = ""
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """Cell of a sortable table."""

    text: str
    sort_value: object
    """The value it is sorted by; empty if unknown."""
    kind: str
    spread: str = ""
    remark: str = ""


def to_html(report: Report, images: Mapping[str, bytes], now: datetime | None = None) -> str:
    """Return the whole page. The images, PNG by file name, replace the charts if scripts are off."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    index = {id(run): i for i, run in enumerate(report.runs)}
    data = _script_data(report, index)
    return environment.get_template("page.html").render(
        report=report,
        policy=content_security_policy(style, script),
        style=style,
        script=script,
        data=data,
        written=f"{now or datetime.now():%Y-%m-%d %H:%M}",
        has_curves=bool(data["curves"]),
        group_table=_group_table(report),
        run_table=_run_table(report, index),
        unfinished=[_unfinished_card(run, index[id(run)]) for run in report.unfinished],
        samples=_samples(report, index),
        commands=report_commands(report),
        facts=_facts(report.runs),
        method=METHOD,
        images=[
            {"name": name, "data": f"data:image/png;base64,{base64.b64encode(content).decode()}"}
            for name, content in images.items()
        ],
    )


# Tables


def _group_table(report: Report) -> dict[str, Any]:
    keys, names = report.grouping.keys, short_key_names(report.grouping.keys)
    kinds = {key: _kind([run.config.get(key) for group in report.groups for run in group.runs]) for key in keys}
    first, rest = _split_columns(report)
    headings = [Heading(names[key], kinds[key], title=key) for key in keys] or [Heading("configuration", "text")]
    headings.append(Heading("n", "number", title="finished runs, one for each seed"))
    headings += [Heading(column.title, "number", column.unit) for column in first]
    headings.append(Heading(COMPARED_HEADING, "text", title=f"difference in {report.primary.title}"))
    headings += [Heading(column.title, "number", column.unit) for column in rest]
    rows = []
    for i, group in enumerate(report.groups):
        cells = [_text_cell(group.values.get(key, ABSENT), kinds[key]) for key in keys]
        cells = cells or [_text_cell(group.label, "text")]
        cells.append(Cell(str(len(group.averaged)), len(group.averaged), "number"))
        cells += [_summary_cell(group, column) for column in first]
        cells.append(_comparison_cell(report, i))
        cells += [_summary_cell(group, column) for column in rest]
        cells[0] = replace(cells[0], remark=", ".join(group.tags))
        kind = "best" if i == report.comparison.best and report.comparison.has_winner else ""
        rows.append({"group": i, "kind": kind if group.averaged else "not-averaged", "cells": cells})
    return {"headings": headings, "rows": rows}


def _split_columns(report: Report) -> tuple[list[Column], list[Column]]:
    """Return the columns of losses, the primary one first because a narrow screen shows one, and the others."""
    first = [column for column in report.columns if column.metric.startswith(("val/", "test/"))]
    first.sort(key=lambda column: column.metric != report.primary.metric)
    return first, [column for column in report.columns if column not in first]


def _run_table(report: Report, index: Mapping[int, int]) -> dict[str, Any]:
    keys = [key for key in report.color_keys if key not in report.grouping.dependent_keys or key == report.group_by]
    names = short_key_names(keys)
    kinds = {key: _kind([run.config.get(key) for run in report.finished]) for key in keys}
    headings = [Heading("run", "text"), *(Heading(names[key], kinds[key]) for key in keys)]
    first, rest = _split_columns(report)
    headings += [Heading(column.title, "number", column.unit) for column in first]
    headings += [Heading("lowest loss", "number", LOSS.unit), Heading("at step", "number")]
    headings += [Heading(column.title, "number", column.unit) for column in rest]
    formatters = {column.metric: column.format for column in first}
    formatters |= {"best/val/loss_nats": LOSS.format, "best/step": lambda value: f"{value:,.0f}"}
    formatters |= {column.metric: column.format for column in rest}
    averaged = report.grouping.averaged_ids
    rows = []
    for run in report.finished:
        remark = " · ".join(str(text) for key in ("tags", "notes") if (text := run.config.get(key)))
        cells = [Cell(run.name, run.name, "text long", remark=remark)]
        cells += [_text_cell(run.config_text(key), kinds[key]) for key in keys]
        for metric, formatter in formatters.items():
            value = run.metrics.get(metric)
            cells.append(Cell(ABSENT, "", "number") if value is None else Cell(formatter(value), value, "number"))
        rows.append({"run": index[id(run)], "kind": "" if id(run) in averaged else "not-averaged", "cells": cells})
    return {"headings": headings, "rows": rows}


def _kind(values: Sequence[object]) -> str:
    """Return how a column of config values is sorted: as number or text."""
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return "number" if is_number and values else "text"


def _text_cell(text: str, kind: str) -> Cell:
    return Cell(text, text, kind)


def _summary_cell(group: Group, column: Column) -> Cell:
    summary = group.summary(column.metric)
    if summary is None:
        return Cell(ABSENT, "", "number")
    spread = column.format(summary.std) if summary.std else ""
    fewer = f"n = {summary.n}" if summary.n != len(group.averaged) else ""
    return Cell(column.format(summary.mean), summary.mean, "number", spread, fewer)


def _comparison_cell(report: Report, index: int) -> Cell:
    """Sorts the best first, then by the difference, then what is not tested."""
    difference, _, result = compared_text(report, index).partition(": ")
    test = report.comparison.tests.get(index)
    sort_value = "0" if index == report.comparison.best else "" if test is None else f"{test.difference:.9f}"
    if not result:
        return Cell(difference, sort_value, "text")
    return Cell(result, sort_value, "text", remark=difference)


# Cards


def _unfinished_card(run: ReportedRun, index: int) -> dict[str, Any]:
    step = run.metrics.get("step")
    return {
        "index": index,
        "name": run.name,
        "status": run.status,
        "error": run.error,
        "step": "" if step is None else f"{step:,.0f}",
        "loss": LOSS.format(run.metrics.get(LOSS.metric)),
        "command": run_command(run),
    }


def _samples(report: Report, index: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return one sample of each configuration, so that they stand side by side, then those of the other seeds."""
    by_group = [[run for run in [*group.averaged, *group.runs] if run.sample] for group in report.groups]
    ordered = {
        id(runs[i]): (group, runs[i])
        for i in range(max(map(len, by_group), default=0))
        for group, runs in zip(report.groups, by_group, strict=True)
        if i < len(runs)
    }
    return [
        {
            "index": index[id(run)],
            "label": group.label if run.seed is None else f"{group.label}, seed {format_value(run.seed)}",
            "name": run.name,
            "step": f"{run.sample_step:,}",
            "loss": LOSS.format(run.metrics.get(LOSS.metric)),
            "status": run.status,
            "text": run.sample,
        }
        for group, run in ordered.values()
    ]


def _facts(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.facts.items():
            values.setdefault(FACT_NAMES.get(name, name), {})[value] = None
    return [{"name": name, "texts": list(texts)} for name, texts in values.items()]


# Data of the script


def _script_data(report: Report, index: Mapping[int, int]) -> dict[str, Any]:
    """Return the data that page.js draws: finite numbers and plain text."""
    tags = [tag for tag in CURVE_TAGS if any(tag in run.curves for run in report.runs)]
    curves = [curve for run in report.runs for tag, curve in run.curves.items() if tag in tags]
    keys = [CONFIGURATION, *report.color_keys]
    titles = short_key_names(report.color_keys) | {CONFIGURATION: "configuration"}
    labels, averaged = report.grouping.labels, report.grouping.averaged_ids

    def value(run: ReportedRun, key: str) -> str:
        if not run.config:
            return NO_CONFIG
        return labels[id(run)] if key == CONFIGURATION else run.config_text(key)

    runs = [
        {
            "name": run.name,
            "finished": run.is_finished,
            "averaged": id(run) in averaged,
            "values": {key: value(run, key) for key in keys},
            "metrics": {c.metric: run.metrics[c.metric] for c in report.columns if c.metric in run.metrics},
            "curves": {tag: _curve_data(run.curves[tag]) for tag in tags if tag in run.curves},
        }
        for run in report.runs
    ]
    return {
        "primary_metric": report.primary.metric,
        "runs": runs,
        "groups": [_group_data(group, index, report.columns, tags) for group in report.groups],
        "keys": [
            {"key": key, "title": titles[key], "styles": _styles([value(run, key) for run in report.runs], key, report)}
            for key in keys
        ],
        "first_key": 0 if report.group_by is None else keys.index(report.group_by),
        "columns": [
            {"metric": c.metric, "heading": c.heading, "scale": c.scale}
            for c in report.columns
            if any(group.metric_values(c.metric) for group in report.groups)
        ],
        "curves": [{"tag": tag, "title": CURVE_TAGS[tag]} for tag in tags],
        "axes": [name for name in ("steps", "tokens", "seconds") if any(getattr(curve, name) for curve in curves)],
    }


def _styles(values: Sequence[str], key: str, report: Report) -> dict[str, dict[str, str]]:
    known = [value for value in values if value != NO_CONFIG]
    order = [group.label for group in report.groups] if key == CONFIGURATION else sorted(known, key=natural_sort_key)
    order += [NO_CONFIG] if NO_CONFIG in values else []
    return {value: {"light": s.light, "dark": s.dark, "dash": s.dash} for value, s in assign_styles(order).items()}


def _group_data(
    group: Group, index: Mapping[int, int], columns: Sequence[Column], tags: Sequence[str]
) -> dict[str, Any]:
    summaries = {column.metric: group.summary(column.metric) for column in columns}
    means = {tag: mean_curve([run.curves[tag] for run in group.averaged if tag in run.curves]) for tag in tags}
    return {
        "label": group.label,
        "runs": [index[id(run)] for run in group.runs],
        "averaged": [index[id(run)] for run in group.averaged],
        "summaries": {
            metric: {"n": summary.n, "mean": summary.mean, "margin": summary.margin}
            for metric, summary in summaries.items()
            if summary is not None
        },
        "means": {tag: _mean_curve_data(mean) for tag, mean in means.items() if mean is not None},
    }


def _curve_data(curve: RunCurve) -> dict[str, Any]:
    kept = kept_points(len(curve.steps))
    return {
        "steps": [curve.steps[i] for i in kept],
        "values": _rounded(curve.values, kept),
        "tokens": None if curve.tokens is None else _rounded(curve.tokens, kept, n_digits=9),
        "seconds": None if curve.seconds is None else _rounded(curve.seconds, kept),
    }


def _mean_curve_data(mean: MeanCurve) -> dict[str, Any]:
    kept = kept_points(len(mean.mean.steps))
    band = {"low": _rounded(mean.low, kept), "high": _rounded(mean.high, kept)}
    return _curve_data(mean.mean) | band | {"n": mean.n}


def _rounded(values: Sequence[float], kept: Sequence[int], n_digits: int = N_DIGITS) -> list[float]:
    return [float(f"{values[i]:.{n_digits}g}") for i in kept]
