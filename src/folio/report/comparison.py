"""Compare configurations by their primary metric, with Welch's t-test and Holm's correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from folio.report.grouping import Group
from folio.report.metrics import PrimaryMetric
from folio.report.statistics import SIGNIFICANCE_LEVEL, WelchTest, holm_correction, summarize, welch_t_test
from folio.report.text import join_names


@dataclass(frozen=True)
class Comparison:
    """The conclusion of a report, and the tests behind it. Groups are given by their index."""

    conclusion: str
    best: int | None = None
    """The group with the lowest mean among those with at least two seeds."""
    tests: Mapping[int, WelchTest] = field(default_factory=dict)
    """Test of each other group against the best. Its p-value is adjusted for the number of all pairs."""
    tied: Sequence[int] = ()
    """Groups whose difference from the best is not significant."""

    @property
    def has_winner(self) -> bool:
        return self.best is not None and not self.tied


def compare_groups(groups: Sequence[Group], primary: PrimaryMetric) -> Comparison:
    """Find the group with the lowest mean. It wins if its difference from every other tested group is significant.

    A group with a single seed neither wins nor loses, because its variance is unknown.
    """
    if primary.metric is None:
        return Comparison(primary.reason)
    values = {i: group.metric_values(primary.metric) for i, group in enumerate(groups)}
    means = {i: summary.mean for i in values if (summary := summarize(values[i])) is not None}
    if not means:
        return Comparison(f"No finished run has {primary.title}.")
    if len(means) == 1:
        (only,) = means
        return Comparison(f"Only one configuration has finished, {groups[only].label}: there is nothing to compare.")
    tested = [i for i in means if len(values[i]) > 1]
    if len(tested) < 2:
        lowest = min(means, key=lambda i: means[i])
        return Comparison(
            f"No winner: {groups[lowest].label} has the lowest {primary.title}, but a comparison needs at least two "
            "seeds of each configuration, and fewer than two configurations have them."
        )
    best = min(tested, key=lambda i: means[i])
    tests = _test_against(best, {i: values[i] for i in tested})
    tied = [i for i in tested if i != best and (i not in tests or tests[i].p_value >= SIGNIFICANCE_LEVEL)]
    conclusion = _winner_sentence(groups, primary.title, best, tied, tested, n_seeds=len(values[best]))
    untested = [i for i in means if i not in tested]
    if untested:
        conclusion += _untested_sentence(groups, untested, is_lower=means[untested[0]] < means[best])
    return Comparison(conclusion, best, tests, tied)


def _test_against(best: int, values: Mapping[int, Sequence[float]]) -> dict[int, WelchTest]:
    """Test each group against the best. Every pair counts for the correction: the best was chosen after the fact."""
    pairs = {
        (first, second): test
        for first, second in combinations(values, 2)
        if (test := welch_t_test(values[first], values[second])) is not None
    }
    adjusted = dict(zip(pairs, holm_correction([test.p_value for test in pairs.values()]), strict=True))
    tests = {i: welch_t_test(values[best], values[i]) for i in values if i != best}
    return {
        i: replace(test, p_value=adjusted[min(best, i), max(best, i)]) for i, test in tests.items() if test is not None
    }


def _winner_sentence(
    groups: Sequence[Group], title: str, best: int, tied: Sequence[int], tested: Sequence[int], n_seeds: int
) -> str:
    lowest = f"{groups[best].label} has the lowest mean {title} (n = {n_seeds})"
    if tied:
        others = join_names([groups[i].label for i in tied])
        return f"No winner: {lowest}, but its difference from {others} is not significant."
    if len(tested) == 2:
        return f"{lowest}. Its difference from the other configuration with at least two seeds is significant."
    return f"{lowest}. Its differences from all {len(tested) - 1} others with at least two seeds are significant."


def _untested_sentence(groups: Sequence[Group], untested: Sequence[int], *, is_lower: bool) -> str:
    labels = join_names([groups[i].label for i in untested])
    if len(untested) > 1:
        return f" {labels} have only one seed each and are not tested."
    return f" {labels} has only one seed and is not tested{', although its value is lower' if is_lower else ''}."
