"""The contents of a report, independent of the format in which it is written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from folio.config.stored_words import check_words
from folio.report.comparison import Comparison, compare_groups
from folio.report.grouping import Group, Grouping, differing_keys, find_key, group_runs
from folio.report.metrics import COLUMNS, Column, PrimaryMetric, choose_primary_metric
from folio.report.reading import ReportedRun, Sweep, read_folders
from folio.report.text import clean_text, join_names
from folio.runtime.commands import override, quote_for_shell
from folio.runtime.errors import FolioError
from folio.runtime.terminal import did_you_mean

METHOD = (
    "A configuration is all runs whose configs are equal except for the seed. Each value is the mean over its finished "
    "runs, one for each of its n seeds, ± the sample standard deviation. The difference between two configurations is "
    "called significant if Welch's two-sided t-test gives p < 0.05 after Holm's correction for all pairs. A confidence "
    "interval (95 %) is that of a single mean or a single pair, without a correction. A configuration with one seed is "
    "shown but not tested. Runs that did not finish are in no mean. Seconds are training time, without validation."
)

FACT_NAMES = {"git_commit": "commit of the code"}
"""Names for people of what a run used, if they differ from those in metrics.json."""


@dataclass(frozen=True)
class Report:
    """Runs, grouped by configuration and compared."""

    title: str
    runs: list[ReportedRun]
    sweeps: list[Sweep]
    grouping: Grouping
    primary: PrimaryMetric
    comparison: Comparison
    columns: list[Column]
    """Columns of the metrics that at least one run has."""
    group_by: str | None
    """The key that colors the curves at first; None for the configuration."""
    warnings: list[str]
    """Damaged files and runs that were left out."""
    notes: list[str]
    """Differences between the runs that affect the comparison."""
    command: str
    """The command that made this report."""

    @property
    def has_tags(self) -> bool:
        return any(run.tags for run in self.runs)

    @property
    def groups(self) -> list[Group]:
        return self.grouping.groups

    @property
    def finished(self) -> list[ReportedRun]:
        return [run for run in self.runs if run.is_finished]

    @property
    def unfinished(self) -> list[ReportedRun]:
        return [run for run in self.runs if not run.is_finished]

    @property
    def color_keys(self) -> list[str]:
        """Keys that can color the curves: all that differ, and the one that was asked for."""
        keys = [*self.grouping.keys, *self.grouping.dependent_keys]
        keys += [key for key in ("seed",) if key in differing_keys(self.runs)]
        return keys if self.group_by is None or self.group_by in keys else [*keys, self.group_by]

    def status_counts(self) -> str:
        """Return the number of runs with each status, as text."""
        statuses = dict.fromkeys(["finished", *(run.status for run in self.runs)])
        counts = {status: sum(run.status == status for run in self.runs) for status in statuses}
        return ", ".join(f"{n} {status}" for status, n in counts.items() if n)


def make_report(
    folders: Sequence[Path],
    group_by: str | None = None,
    tags: Sequence[str] = (),
    command: Sequence[str] = (),
    with_test: bool = False,
) -> Report:
    """Read the folders and compare their runs, or those that have all the tags.

    `with_test` shows figures of the test split too, which is better done once, at the end.

    Raises: FolioError for a folder without runs, an unknown key, tags that no run has, or no figures of a test split.
    """
    warnings: list[str] = []
    runs, sweeps = read_folders(folders, warnings.append)
    runs = _with_tags(runs, tags)
    if with_test:
        runs = _with_test_metrics(runs)
    color_key = None if group_by is None else find_key(group_by, runs)
    grouping, primary = group_runs(runs), choose_primary_metric(runs)
    return Report(
        title=_title(folders, runs, sweeps, grouping),
        runs=runs,
        sweeps=sweeps,
        grouping=grouping,
        primary=primary,
        comparison=compare_groups(grouping.groups, primary),
        columns=[column for column in COLUMNS if any(column.metric in run.metrics for run in runs)],
        group_by=color_key,
        warnings=[clean_text(warning) for warning in warnings],
        notes=list(_notes(runs, grouping)),
        command=shell_command(command),
    )


def _with_tags(runs: list[ReportedRun], tags: Sequence[str]) -> list[ReportedRun]:
    chosen = [run for run in runs if set(tags) <= set(run.tags)]
    if not chosen:
        known = sorted({tag for run in runs for tag in run.tags})
        options = " ".join(f"--tag={tag}" for tag in tags)
        reason = did_you_mean(tags[0], known) if len(tags) == 1 else ""
        there = f"; the runs have {join_names(known, 12)}" if known else "; no run has a tag: give one by tags=[...]"
        raise FolioError(
            f"{clean_text(options)}: no run has {'this tag' if len(tags) == 1 else 'these tags'}{reason or there}"
        )
    return chosen


def _with_test_metrics(runs: list[ReportedRun]) -> list[ReportedRun]:
    if not any(run.test_metrics for run in runs):
        raise FolioError(
            "--test: none of these runs has a figure of its test split; measure one by python scripts/evaluate.py RUN "
            "--split test"
        )
    return [replace(run, metrics=run.metrics | run.test_metrics) for run in runs]


def _title(folders: Sequence[Path], runs: Sequence[ReportedRun], sweeps: Sequence[Sweep], grouping: Grouping) -> str:
    """Return the names of the folders; for a sweep, which is named by its time, after the keys that it varied."""
    names = ", ".join(folder.resolve().name or str(folder) for folder in folders)
    is_sweep = len(folders) == len(sweeps) == 1 and folders[0].resolve() == sweeps[0].folder.resolve()
    varied = [*grouping.keys, *(key for key in ("seed",) if key in differing_keys(runs))] if is_sweep else []
    return clean_text(f"{', '.join(key.removesuffix('.name') for key in varied)}: {names}" if varied else names, 120)


def _notes(runs: Sequence[ReportedRun], grouping: Grouping) -> list[str]:
    notes = []
    finished = [run for run in runs if run.is_finished]
    if n := len(runs) - len(finished):
        did = "1 run did not finish and is" if n == 1 else f"{n} runs did not finish and are"
        notes.append(f"{did} in no mean; see below.")
    replaced = [run.name for run in finished if run.config and id(run) not in grouping.averaged_ids]
    if replaced:
        notes.append(f"Not counted, because a later run has the same config and seed: {join_names(replaced)}.")
    for fact, consequence in (
        ("device", "throughput, memory and time differ between devices"),
        ("torch", "results may differ for that reason"),
        ("folio", "results may differ for that reason"),
        ("git_commit", "results may differ for that reason"),
    ):
        values = sorted({run.facts[fact] for run in finished if fact in run.facts})
        if len(values) > 1:
            values = [re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", value) for value in values]
            notes.append(f"More than one {FACT_NAMES.get(fact, fact)}: {join_names(values)}; {consequence}.")
    if looks := describe_test_looks(runs):
        notes.append(looks)
    if grouping.keys_without_effect:
        notes.append(f"These keys differ too, but change no result: {join_names(grouping.keys_without_effect, 12)}.")
    return notes


def describe_test_looks(runs: Sequence[ReportedRun]) -> str:
    """Return how often the test split of the runs was looked at, as a sentence; empty if it never was."""
    looked = [run for run in runs if run.n_test_looks]
    if not looked:
        return ""
    n_looks = sum(run.n_test_looks for run in looked)
    times = {1: "once", 2: "twice"}.get(n_looks, f"{n_looks} times")
    differ = len({run.test_sha256 for run in looked if run.test_sha256}) > 1
    not_compared = "; it is not the same split and tokenizer in all of them, so test losses do not compare" * differ
    return f"The test split was looked at {times}, in {len(looked)} of {len(runs)} runs{not_compared}."


# Commands


def report_commands(report: Report) -> list[str]:
    """Return the commands that repeat the sweeps, the runs outside of them, and the report."""
    sweeps = [sweep for sweep in report.sweeps if sweep.command and check_words(sweep.command[1:]) is None]
    swept = {run.folder.parent.resolve() for run in report.runs} & {sweep.folder.resolve() for sweep in sweeps}
    lines = [shell_command(["python", "train.py", *sweep.command[1:]]) for sweep in sweeps]
    lines += [run_command(run) for run in report.runs if run.folder.parent.resolve() not in swept]
    return [line for line in [*dict.fromkeys(lines), report.command] if line]


def run_command(run: ReportedRun) -> str:
    """Return the command that repeats a run: what was typed, if that only says what to train; empty if not known."""
    if run.overrides is not None and check_words(run.overrides) is None:
        return shell_command(["python", "train.py", *run.overrides])
    return f"python train.py {override('repeat', run.folder)}" if run.config else ""


def shell_command(words: Sequence[str]) -> str:
    """Quote the words for a shell, in which each of them stays one word whatever it contains."""
    return " ".join(map(quote_for_shell, words))
