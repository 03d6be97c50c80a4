"""Runs put together: what differs between them, which are equal in all but the seed, and what that did to a figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from folio.report.reading import ReportedRun, Scalar, natural
from folio.report.statistics import LEVEL, Difference, Summary, holm, summarize, welch
from folio.runtime.errors import FolioError
from folio.runtime.terminal import did_you_mean, printable

NO_EFFECT = (
    "name",
    "paths",
    "resume",
    "dry_run",
    "logger",
    "callbacks",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
)
"""Keys and sections that change where a run lies and what is seen of it, and none of its figures."""

ABSENT = "—"
"""Shown of a run that does not have the key, as SGD has no betas."""

NO_CONFIG = "no config"
"""In place of a configuration."""

N_LABEL_KEYS = 3
"""In the name of a configuration; the table has the others."""


@dataclass(frozen=True)
class Group:
    """A configuration: runs that are equal in all but the seed."""

    label: str
    values: dict[str, str]
    """Of all keys that differ, as they are shown."""
    runs: list[ReportedRun]
    counted: list[ReportedRun]
    """Those behind mean and spread: finished, and one for each seed, the one last measured."""

    def numbers(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.counted if metric in run.metrics]

    def summary(self, metric: str) -> Summary | None:
        return summarize(self.numbers(metric))


@dataclass(frozen=True)
class Grouping:
    """All runs of a report."""

    groups: list[Group]
    """Of all runs that have a config."""
    keys: list[str]
    """What was typed, and as few others as tell the configurations apart."""
    other_keys: list[str]
    """Those that differ besides; they follow from `keys` in these runs."""
    silent_keys: list[str]
    """Those that differ and change no figure."""


def group_runs(runs: Sequence[ReportedRun]) -> Grouping:
    differing = [key for key in differing_keys(runs) if key != "seed"]
    silent = [key for key in differing if _is_in(key, NO_EFFECT)]
    telling = [key for key in differing if key not in silent]
    together: dict[tuple[str, ...], list[ReportedRun]] = {}
    for run in runs:
        if run.config:
            together.setdefault(tuple(shown(run, key) for key in telling), []).append(run)
    keys = distinguishing_keys(telling, list(together), _typed_keys(runs))
    names = short_keys(keys)
    rows = [(dict(zip(telling, values, strict=True)), members) for values, members in together.items()]
    rows.sort(key=lambda row: [natural(row[0][key]) for key in keys])
    labels = _unique([_label(values, keys, names) for values, _ in rows], [members for _, members in rows])
    groups = [
        Group(label, values, members, counted(members)) for label, (values, members) in zip(labels, rows, strict=True)
    ]
    return Grouping(groups, keys, [key for key in telling if key not in keys], silent)


def differing_keys(runs: Iterable[ReportedRun]) -> list[str]:
    """Config keys with more than one value over the runs that have a config, in the order of the config."""
    configs = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({repr(config.get(key, ABSENT)) for config in configs}) > 1]


def distinguishing_keys(keys: Sequence[str], rows: Sequence[tuple[str, ...]], typed: Sequence[str]) -> list[str]:
    """Of `keys`, whose values in each configuration the rows hold, some that tell the rows apart.

    All that somebody, or a search, has typed, for these were meant to differ; of the others none too many, and the
    names of groups' options first: `optimizer.name`, and not the betas that come with it.
    """

    def n_apart(chosen: Sequence[str]) -> int:
        places = [keys.index(key) for key in chosen]
        return len({tuple(row[place] for place in places) for row in rows})

    meant = [key for key in keys if _is_typed(key, typed)]
    others = sorted((key for key in keys if key not in meant), key=lambda key: not key.endswith(".name"))
    chosen = meant.copy()
    for key in others:
        if n_apart([*chosen, key]) > n_apart(chosen):
            chosen.append(key)
    for key in reversed(chosen[len(meant) :]):
        without = [other for other in chosen if other != key]
        if n_apart(without) == len(rows):
            chosen = without
    return sorted(chosen, key=keys.index)


def counted(runs: Iterable[ReportedRun]) -> list[ReportedRun]:
    """The finished ones, one for each seed: the same seed twice is one sample, of which the last run counts."""
    by_seed: dict[str, ReportedRun] = {}
    for run in runs:
        if run.is_finished:
            by_seed[repr(run.seed)] = run
    return sorted(by_seed.values(), key=lambda run: natural(str(run.seed)))


def find_key(asked: str, runs: Sequence[ReportedRun]) -> str:
    """The config key that a person means; a group's name stands for its `name`. Raises: FolioError."""
    keys = sorted({key for run in runs for key in run.config})
    for key in (asked, f"{asked}.name"):
        if key in keys:
            return key
    raise FolioError(
        f"--group-by={printable(asked, keep='')} is not a key of these runs' configs{did_you_mean(asked, keys)}"
    )


def shown(run: ReportedRun, key: str) -> str:
    """The value of a key as a person writes it."""
    return show(run.config[key]) if key in run.config else ABSENT


def show(value: Scalar) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Names for people: `optimizer.learning_rate` is learning_rate, and `optimizer.name` is optimizer."""
    brief = {key: key.removesuffix(".name") if key.endswith(".name") else key.rpartition(".")[2] for key in keys}
    taken = list(brief.values())
    return {key: name if taken.count(name) == 1 else key for key, name in brief.items()}


def _label(values: dict[str, str], keys: Sequence[str], names: dict[str, str]) -> str:
    if not keys:
        return "all runs"
    parts = [_labelled(names[key], values[key]) for key in keys[:N_LABEL_KEYS]]
    return ", ".join(parts) + (", ..." if len(keys) > N_LABEL_KEYS else "")


def _labelled(name: str, value: str) -> str:
    """A word says what it is; a number or a switch does not."""
    says_it = value[:1].isalpha() and value not in ("true", "false", "null")
    return value if says_it else f"{name} {value}"


def _unique(labels: list[str], members: Sequence[Sequence[ReportedRun]]) -> list[str]:
    """Where the keys do not tell them apart in short, the names that people gave their runs; else with numbers."""
    if len(set(labels)) == len(labels):
        return labels
    given = [{show(run.config.get("name")) for run in runs} for runs in members]
    names = [*set.union(*given)]
    if all(len(group) == 1 for group in given) and len(names) == len(labels) and "null" not in names:
        return [next(iter(group)) for group in given]
    return [f"#{number} {label}" for number, label in enumerate(labels, start=1)]


def _typed_keys(runs: Iterable[ReportedRun]) -> list[str]:
    """What stands before the = of overrides."""
    typed = (override.lstrip("+~").partition("=")[0] for run in runs for override in run.overrides or [])
    return list(dict.fromkeys(typed))


def _is_typed(key: str, typed: Sequence[str]) -> bool:
    return key in typed or (key.endswith(".name") and key.removesuffix(".name") in typed)


def _is_in(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


@dataclass(frozen=True)
class Headline:
    """The figure that decides, or why none can."""

    metric: str | None
    title: str
    reason: str
    """In a sentence."""


BITS = Headline("val/bits_per_byte", "bits per byte", "")
NATS = Headline("val/loss_nats", "validation loss", "")


def headline(runs: Sequence[ReportedRun]) -> Headline:
    """Bits per byte where all runs have them, because they compare tokenizers too; else the loss, where it is fair."""
    finished = [run for run in runs if run.is_finished]
    if not finished:
        return Headline(None, "", "No run has finished, so there is nothing to compare.")
    texts = {run.text_sha256 for run in finished}
    if len(texts) > 1:
        return Headline(None, "", "These runs read different texts, so their losses are not compared.")
    objectives = {shown(run, "objective.name") for run in finished}
    if len(objectives) > 1:
        names = ", ".join(sorted(objectives))
        return Headline(None, "", f"These runs have different objectives ({names}), so their losses are not compared.")
    if all("val/bits_per_byte" in run.metrics for run in finished):
        return BITS
    tokenizers = {(shown(run, "tokenizer.name"), shown(run, "model.vocab_size")) for run in finished}
    if len(tokenizers) > 1:
        return Headline(
            None, "", "These runs have different tokenizers and no bits per byte, so their losses are not compared."
        )
    return NATS


@dataclass(frozen=True)
class Verdict:
    """What the figures allow to say, and the comparisons behind it."""

    sentence: str
    best: int | None = None
    """Index of the configuration with the lowest mean among those with two seeds or more."""
    against_best: dict[int, tuple[Difference, float]] | None = None
    """By the index of another one: its mean minus the best's, and Holm's p."""
    ties: tuple[int, ...] = ()
    """Those that cannot be told from the best."""


def pruner(groups: Sequence[Group], figure: Headline) -> Verdict:
    """A winner where Welch's test sees one against every other, Holm's correction for all pairs; else none.

    A single run never wins and never loses: of its spread nothing is known.
    """
    if figure.metric is None:
        return Verdict(figure.reason)
    numbers = {index: group.numbers(figure.metric) for index, group in enumerate(groups)}
    means = {index: summary.mean for index in numbers if (summary := summarize(numbers[index])) is not None}
    if not means:
        return Verdict(f"No finished run has {figure.title}.")
    if len(means) == 1:
        (index,) = means
        return Verdict(f"One configuration has finished, {groups[index].label}: there is nothing to compare it with.")
    several = [index for index in means if len(numbers[index]) > 1]
    singles = [index for index in means if len(numbers[index]) == 1]
    lowest = min(means, key=lambda index: means[index])
    if len(several) < 2:
        return Verdict(
            f"No winner: {groups[lowest].label} has the lowest {figure.title}, but a comparison needs two seeds or "
            "more of each configuration, and here fewer than two configurations have them."
        )
    best = min(several, key=lambda index: means[index])
    pairs = [(first, second) for first, second in combinations(several, 2)]
    tests = {pair: welch(numbers[pair[0]], numbers[pair[1]]) for pair in pairs}
    tested = [pair for pair in pairs if tests[pair] is not None]
    adjusted = dict(zip(tested, holm([_p(tests[pair]) for pair in tested]), strict=True))
    against: dict[int, tuple[Difference, float]] = {}
    for index in several:
        test = welch(numbers[best], numbers[index]) if index != best else None
        if test is not None:
            against[index] = (test, adjusted[min(best, index), max(best, index)])
    ties = tuple(i for i in several if i != best and (i not in against or against[i][1] >= LEVEL))
    return Verdict(_sentence(groups, figure, best, ties, several, singles, means), best, against, ties)


def _p(test: Difference | None) -> float:
    assert test is not None
    return test.p


def _sentence(
    groups: Sequence[Group],
    figure: Headline,
    best: int,
    ties: Sequence[int],
    several: Sequence[int],
    singles: Sequence[int],
    means: dict[int, float],
) -> str:
    name, n = groups[best].label, len(groups[best].numbers(figure.metric or ""))
    if ties:
        others = listed([groups[index].label for index in ties])
        text = (
            f"No winner: {name} has the lowest mean {figure.title} (n = {n}), but the difference from {others} "
            "is within the noise."
        )
    else:
        all_others = "the other" if len(several) == 2 else f"each of the other {len(several) - 1}"
        text = (
            f"{name} has the lowest mean {figure.title} (n = {n}), and its difference from {all_others} with two "
            "seeds or more is larger than the noise."
        )
    if singles:
        were = "was" if len(singles) == 1 else "were"
        text += f" {listed([groups[index].label for index in singles])} {were} run with one seed alone and not judged"
        lower = [index for index in singles if means[index] < means[best]]
        text += ", though lower in that run." if len(lower) == 1 == len(singles) else "."
    return text


def listed(names: Sequence[str], most: int = 5) -> str:
    """As a sentence says it: a, b and c."""
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
