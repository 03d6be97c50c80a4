"""What a report says, before it is written in any format."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from folio.report.columns import COLUMNS, Column
from folio.report.groups import (
    Group,
    Grouping,
    Headline,
    Verdict,
    differing_keys,
    find_key,
    group_runs,
    headline,
    listed,
    pruner,
)
from folio.report.reading import ReportedRun, Sweep, read_all, short
from folio.runtime.terminal import printable

METHOD = (
    "A configuration is all runs that are equal in all but the seed. Its figures are means over its finished runs, "
    "one for each seed (n), ± the standard deviation of the sample. Two configurations are called different where "
    "Welch's two-sided t test gives p < 0.05 after Holm's correction for all pairs; an interval is the one of 95 % of "
    "its mean or its pair alone. A configuration with one seed is shown and never judged. Runs that did not finish are "
    "in no mean. Seconds are those of training, validation left out."
)


@dataclass(frozen=True)
class Report:
    """Of some runs."""

    title: str
    runs: list[ReportedRun]
    sweeps: list[Sweep]
    grouping: Grouping
    figure: Headline
    verdict: Verdict
    columns: list[Column]
    """Of the figures that any run has."""
    group_by: str | None
    """The key that colours the curves first; None for the configuration."""
    warnings: list[str]
    notes: list[str]
    """What a reader has to know to compare the figures."""
    command: str
    """Makes this report again."""

    @property
    def groups(self) -> list[Group]:
        return self.grouping.groups

    @property
    def finished(self) -> list[ReportedRun]:
        return [run for run in self.runs if run.is_finished]

    @property
    def others(self) -> list[ReportedRun]:
        """Runs that did not finish."""
        return [run for run in self.runs if not run.is_finished]

    @property
    def keys_to_group_by(self) -> list[str]:
        """All that differ between the runs, and the one that was asked for."""
        keys = [*self.grouping.keys, *self.grouping.other_keys]
        keys += [key for key in ("seed",) if key in differing_keys(self.runs)]
        return keys if self.group_by is None or self.group_by in keys else [*keys, self.group_by]

    def count(self) -> str:
        """How many runs there are, by what became of them."""
        statuses = dict.fromkeys(["finished", *(run.status for run in self.runs)])
        counts = {status: sum(run.status == status for run in self.runs) for status in statuses}
        return ", ".join(f"{n} {status}" for status, n in counts.items() if n)


def make_report(folders: Sequence[Path], group_by: str | None = None, command: Sequence[str] = ()) -> Report:
    """Read the folders and say what is in them. Raises: FolioError for a folder without runs, and an unknown key."""
    warnings: list[str] = []
    runs, sweeps = read_all(folders, warnings.append)
    key = None if group_by is None else find_key(group_by, runs)
    grouping, figure = group_runs(runs), headline(runs)
    return Report(
        title=short(", ".join(folder.resolve().name or str(folder) for folder in folders), 120),
        runs=runs,
        sweeps=sweeps,
        grouping=grouping,
        figure=figure,
        verdict=pruner(grouping.groups, figure),
        columns=[column for column in COLUMNS if any(column.metric in run.metrics for run in runs)],
        group_by=key,
        warnings=[short(warning) for warning in warnings],
        notes=list(_notes(runs, grouping)),
        command=shell(command),
    )


def _notes(runs: Sequence[ReportedRun], grouping: Grouping) -> list[str]:
    notes = []
    finished = [run for run in runs if run.is_finished]
    if others := len(runs) - len(finished):
        verb = "run has" if others == 1 else "runs have"
        notes.append(f"{others} {verb} not finished and {'is' if others == 1 else 'are'} in no mean; see below.")
    counted = [id(run) for group in grouping.groups for run in group.counted]
    again = [run.name for run in finished if id(run) not in counted]
    if again:
        notes.append(f"Not counted, because a later run has the same config and seed: {listed(again)}.")
    for fact, meaning in (
        ("device", "speed, memory and time compare devices, too"),
        ("torch", "figures may differ for that"),
        ("folio", "figures may differ for that"),
        ("git_commit", "figures may differ for that"),
    ):
        values = sorted({run.facts[fact] for run in finished if fact in run.facts})
        if len(values) > 1:
            name = {"git_commit": "commit of the code"}.get(fact, fact)
            values = [re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", value) for value in values]
            notes.append(f"More than one {name}: {listed(values)}; {meaning}.")
    if grouping.silent_keys:
        notes.append(f"Differ as well, and change no figure: {listed(grouping.silent_keys, 12)}.")
    return notes


def sweep_command(sweep: Sweep) -> str:
    return shell(["python", *sweep.command]) if sweep.command else ""


def run_command(run: ReportedRun) -> str:
    """What repeats a run; empty where nothing is known of it."""
    if run.overrides is not None:
        return shell(["python", "train.py", *run.overrides])
    if run.config:
        return shell(["python", "train.py", "--config-dir", short(run.folder), "--config-name", "config"])
    return ""


def shell(words: Sequence[str]) -> str:
    """To be pasted into a shell: nothing in a word is more than a word."""
    return printable(shlex.join(words), keep="")
