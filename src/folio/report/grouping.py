"""Group runs into configurations, and find the config keys that tell the configurations apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from folio.report.reading import ReportedRun
from folio.report.statistics import Summary, summarize
from folio.report.text import ABSENT, format_value, natural_sort_key
from folio.runtime.errors import FolioError
from folio.runtime.terminal import did_you_mean, printable

KEYS_WITHOUT_EFFECT = (
    "name",
    "tags",
    "notes",
    "paths",
    "resume",
    "dry_run",
    "logger",
    "callbacks",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
)
"""Keys and sections that change where a run is written and what it shows, but none of its results."""

NO_CONFIG = "no config"
"""Shown as the configuration of a run without a config."""

MAX_LABEL_KEYS = 3
"""Number of keys in the label of a configuration; the table has the others."""


@dataclass(frozen=True)
class Group:
    """The runs of one configuration: their configs are equal except for the seed."""

    label: str
    values: dict[str, str]
    """Text of every key that differs between configurations."""
    runs: list[ReportedRun]
    averaged: list[ReportedRun]
    """The runs in the mean: the last finished one of each seed."""

    @property
    def tags(self) -> list[str]:
        """The tags that any of its runs has."""
        return list(dict.fromkeys(tag for run in self.runs for tag in run.tags))

    def metric_values(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.averaged if metric in run.metrics]

    def summary(self, metric: str) -> Summary | None:
        return summarize(self.metric_values(metric))


@dataclass(frozen=True)
class Grouping:
    """The configurations of a report, and the keys in which its runs differ."""

    groups: list[Group]
    """Groups of all runs that have a config."""
    keys: list[str]
    """The keys that were typed, and as few others as tell the configurations apart."""
    dependent_keys: list[str]
    """The other keys that differ: in these runs they follow from `keys`."""
    keys_without_effect: list[str]
    """Keys that differ but change no result."""

    @property
    def averaged_ids(self) -> set[int]:
        """`id` of every run that counts in a mean."""
        return {id(run) for group in self.groups for run in group.averaged}

    @property
    def labels(self) -> dict[int, str]:
        """Label of the configuration of each run that has one, by the run's `id`."""
        return {id(run): group.label for group in self.groups for run in group.runs}


def group_runs(runs: Sequence[ReportedRun]) -> Grouping:
    differing = [key for key in differing_keys(runs) if key != "seed"]
    without_effect = [key for key in differing if _is_in(key, KEYS_WITHOUT_EFFECT)]
    relevant = [key for key in differing if key not in without_effect]
    by_values: dict[tuple[str, ...], list[ReportedRun]] = {}
    for run in runs:
        if run.config:
            by_values.setdefault(tuple(run.config_text(key) for key in relevant), []).append(run)
    keys = distinguishing_keys(relevant, list(by_values), _typed_keys(runs))
    names = short_key_names(keys)
    rows = [(dict(zip(relevant, values, strict=True)), members) for values, members in by_values.items()]
    rows.sort(key=lambda row: [natural_sort_key(row[0][key]) for key in keys])
    labels = _unique_labels([_label(values, keys, names) for values, _ in rows], [members for _, members in rows])
    groups = [
        Group(label, values, members, select_averaged(members))
        for label, (values, members) in zip(labels, rows, strict=True)
    ]
    return Grouping(groups, keys, [key for key in relevant if key not in keys], without_effect)


def select_averaged(runs: Iterable[ReportedRun]) -> list[ReportedRun]:
    """Return the last finished run of each seed: two runs with the same seed are one sample."""
    by_seed = {repr(run.seed): run for run in runs if run.is_finished}
    return sorted(by_seed.values(), key=lambda run: natural_sort_key(str(run.seed)))


# Keys


def differing_keys(runs: Iterable[ReportedRun]) -> list[str]:
    """Return the config keys that have more than one value, in the order of the config."""
    configs = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({repr(config.get(key, ABSENT)) for config in configs}) > 1]


def distinguishing_keys(keys: Sequence[str], rows: Sequence[tuple[str, ...]], typed: Sequence[str]) -> list[str]:
    """Return the keys that tell the rows apart. A row holds the values of `keys` in one configuration.

    These are all keys that a person or a search set, since they were meant to differ, and as few others as possible.
    Names of options come before their values: `optimizer.name`, and not the betas that come with it.
    """

    def n_distinct(chosen: Sequence[str]) -> int:
        indices = [keys.index(key) for key in chosen]
        return len({tuple(row[index] for index in indices) for row in rows})

    chosen = [key for key in keys if _is_typed(key, typed)]
    n_typed = len(chosen)
    for key in sorted((key for key in keys if key not in chosen), key=lambda key: not key.endswith(".name")):
        if n_distinct([*chosen, key]) > n_distinct(chosen):
            chosen.append(key)
    for key in reversed(chosen[n_typed:]):
        without = [other for other in chosen if other != key]
        if n_distinct(without) == len(rows):
            chosen = without
    return sorted(chosen, key=keys.index)


def find_key(typed: str, runs: Sequence[ReportedRun]) -> str:
    """Return the config key for --group-by; the name of a group means its `name`. Raises: FolioError if unknown."""
    keys = sorted({key for run in runs for key in run.config})
    for key in (typed, f"{typed}.name"):
        if key in keys:
            return key
    raise FolioError(
        f"--group-by={printable(typed, keep='')} is not a key of these runs' configs{did_you_mean(typed, keys)}"
    )


def short_key_names(keys: Sequence[str]) -> dict[str, str]:
    """Return unique short names: learning_rate for optimizer.learning_rate, and optimizer for optimizer.name."""
    short = {key: key.removesuffix(".name") if key.endswith(".name") else key.rpartition(".")[2] for key in keys}
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}


def _typed_keys(runs: Iterable[ReportedRun]) -> list[str]:
    keys = (override.lstrip("+~").partition("=")[0] for run in runs for override in run.overrides or [])
    return list(dict.fromkeys(keys))


def _is_typed(key: str, typed: Sequence[str]) -> bool:
    return key in typed or (key.endswith(".name") and key.removesuffix(".name") in typed)


def _is_in(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


# Labels


def _label(values: dict[str, str], keys: Sequence[str], names: dict[str, str]) -> str:
    if not keys:
        return "all runs"
    parts = [_label_part(names[key], values[key]) for key in keys[:MAX_LABEL_KEYS]]
    return ", ".join(parts) + (", ..." if len(keys) > MAX_LABEL_KEYS else "")


def _label_part(name: str, value: str) -> str:
    """A word is clear without its key; a number or a switch is not."""
    is_clear = value[:1].isalpha() and value not in ("true", "false", "null")
    return value if is_clear else f"{name} {value}"


def _unique_labels(labels: list[str], members: Sequence[Sequence[ReportedRun]]) -> list[str]:
    """Make labels unique, by the names that people gave the runs if those are unique, else by numbers."""
    if len(set(labels)) == len(labels):
        return labels
    given = [{format_value(run.config.get("name")) for run in runs} for runs in members]
    names = [*set.union(*given)]
    if all(len(group) == 1 for group in given) and len(names) == len(labels) and "null" not in names:
        return [next(iter(group)) for group in given]
    return [f"#{number} {label}" for number, label in enumerate(labels, start=1)]
