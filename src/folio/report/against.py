"""Compare runs with a published record: is their result within the spread that the record leads one to expect?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from folio.config.migrations import migrate_config
from folio.report.grouping import Group
from folio.report.records import Record, Study, find_row, identity_of
from folio.report.statistics import Summary
from folio.report.text import ABSENT, Scalar, fixed_point, format_value, join_names
from folio.runs.folders import read_config

RULE = (
    "Rule: the mean of m new seeds is within the spread of n recorded ones if it lies in the 95 % prediction interval "
    "of a t distribution, mean ± t(n - 1) s sqrt(1/n + 1/m). One recorded seed has no spread and gives no verdict."
)

METRICS = {"val/bits_per_byte": "bits per byte", "val/loss_nats": "validation loss, nats"}
"""Metrics to compare: the first one that both have."""

write_loss = fixed_point(4)


@dataclass(frozen=True)
class Verdict:
    """The comparison of one configuration with its row of a record."""

    configuration: str
    recorded: str
    measured: str
    is_within: bool | None
    """None if there is no verdict."""
    reason: str
    notes: list[str]
    """Differences that may explain a result, and those of single seeds."""
    command: str
    """The command that repeats the row."""

    @property
    def result(self) -> str:
        answer = {None: "no verdict", True: "within the spread", False: "outside the spread"}[self.is_within]
        return f"{answer}: {self.reason}"


def compare_with_record(groups: Sequence[Group], study: Study) -> list[Verdict]:
    """Return a verdict for each configuration that has finished runs. Raises: FolioError if a config cannot be read."""
    return [_compare(group, study) for group in groups if group.averaged]


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what is printed: the rule, and for each configuration both results, the verdict and what it rests on."""
    lines = ["", RULE]
    for verdict in verdicts:
        lines += ["", f"{verdict.configuration}: {verdict.result}"]
        if verdict.recorded != ABSENT:
            lines += [f"  record     {verdict.recorded}", f"  these runs {verdict.measured}"]
        lines += [f"  {note}" for note in verdict.notes]
        lines += [f"  repeat it with: {verdict.command}"] if verdict.command else []
    return lines


def _compare(group: Group, study: Study) -> Verdict:
    first = group.averaged[0]
    config = migrate_config(read_config(first.folder))
    identity = identity_of(config, first.text_sha256)
    place = find_row(study.rows, identity, first.overrides)
    if place is None:
        return Verdict(group.label, ABSENT, ABSENT, None, _nearest(study, identity), [], "")
    row = study.rows[place]
    common = [name for name in METRICS if row.summary(name) and group.summary(name)]
    if not common:
        return Verdict(group.label, ABSENT, ABSENT, None, "no figure in common", [], row.repeat_command())
    metric = next((name for name in common if _has_spread(row.summary(name))), common[0])
    old, new = row.summary(metric), group.summary(metric)
    assert old is not None
    assert new is not None
    is_within, reason = judge(old, new)
    notes = [*_seed_notes(row, group, metric), *_other_notes(row, group, config)]
    return Verdict(
        group.label,
        f"{_written(old)} {METRICS[metric]}",
        _written(new),
        is_within,
        reason,
        notes,
        row.repeat_command(),
    )


def judge(old: Summary, new: Summary) -> tuple[bool | None, str]:
    """Return whether new seeds are within the spread of the recorded ones, and why; None without a spread."""
    margin = old.prediction_margin(new.n)
    if margin is None:
        return None, "the record has one seed, so its spread is unknown" if old.n == 1 else "the record has no spread"
    low, high = old.mean - margin, old.mean + margin
    is_within = low <= new.mean <= high
    verb = "lies in" if is_within else "is not in"
    return is_within, f"{write_loss(new.mean)} {verb} {write_loss(low)} to {write_loss(high)}"


def _has_spread(summary: Summary | None) -> bool:
    """A transcribed row may have the spread of one figure alone."""
    return summary is not None and bool(summary.std)


def _written(summary: Summary) -> str:
    std = f" ± {write_loss(summary.std)}" if summary.std else ""
    return f"{write_loss(summary.mean)}{std} (n = {summary.n})"


def _seed_notes(row: Record, group: Group, metric: str) -> list[str]:
    recorded = {run.seed: run.metrics[metric] for run in row.runs if metric in run.metrics}
    differences = [
        f"seed {run.seed} {run.metrics[metric] - recorded[run.seed]:+.4f}"
        for run in group.averaged
        if isinstance(run.seed, int) and run.seed in recorded and metric in run.metrics
    ]
    return [f"against the same seed: {', '.join(differences)}"] if differences else []


def _other_notes(row: Record, group: Group, config: dict[str, Any]) -> list[str]:
    """Return how the machines differ, and how long each took."""
    notes = []
    if row.config:
        theirs, ours = row.config.get("trainer") or {}, config.get("trainer") or {}
        keys = [key for key in ("precision", "devices", "strategy") if theirs.get(key) != ours.get(key)]
        notes += [f"trainer.{key}: {theirs.get(key)} in the record, {ours.get(key)} here" for key in keys]
    for fact in ("torch", "folio"):
        theirs = {run.versions[fact] for run in row.runs if fact in run.versions}
        ours = {run.facts[fact] for run in group.averaged if fact in run.facts}
        if theirs and ours and theirs != ours:
            notes.append(f"{fact}: {join_names(sorted(theirs))} in the record, {join_names(sorted(ours))} here")
    times = row.summary("elapsed_s"), group.summary("elapsed_s")
    if times[0] and times[1]:
        notes.append(f"time: {times[0].mean:,.0f} s in the record, {times[1].mean:,.0f} s here")
    return notes


def _nearest(study: Study, identity: dict[str, Scalar]) -> str:
    """Say that no row has this configuration, and how the most similar one differs."""
    distances = [(_differing(row.identity, identity), row) for row in study.rows if row.config]
    if not distances:
        return "no row has this configuration or this command"
    keys, row = min(distances, key=lambda pair: len(pair[0]))
    changes = [
        f"{key} {format_value(row.identity.get(key))} there, {format_value(identity.get(key))} here" for key in keys
    ]
    return f"no row has this configuration; the nearest has {join_names(changes, 4)}"


def _differing(first: dict[str, Scalar], second: dict[str, Scalar]) -> list[str]:
    return [key for key in {**first, **second} if first.get(key) != second.get(key)]
