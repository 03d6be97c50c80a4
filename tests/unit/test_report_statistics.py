"""The statistics of a report agree with tables, closed forms and calculations by hand."""

import math

import pytest

from folio.report.statistics import critical_t, holm_correction, summarize, two_sided_p_value, welch_t_test


@pytest.mark.parametrize(
    ("df", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (30, 2.0423), (120, 1.9799), (1e6, 1.9600)]
)
def test_critical_values_are_those_of_the_tables(df: float, t: float) -> None:
    assert critical_t(df) == pytest.approx(t, abs=5e-5)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0, 2.0, 10.0, -3.0])
def test_p_values_with_one_and_two_degrees_of_freedom_have_a_closed_form(t: float) -> None:
    assert two_sided_p_value(t, 1) == pytest.approx(1 - 2 * math.atan(abs(t)) / math.pi, abs=1e-12)
    assert two_sided_p_value(t, 2) == pytest.approx(1 - abs(t) / math.sqrt(2 + t * t), abs=1e-12)


def test_welchs_test_by_hand() -> None:
    """Variances 1 and 7/3 over 3 each: standard error sqrt(10/9), degrees of freedom (10/9)^2 / ((1/9 + 49/81) / 2)."""
    found = welch_t_test([1.0, 2.0, 3.0], [4.0, 5.0, 7.0])
    assert found is not None
    assert found.difference == pytest.approx(10 / 3)
    df = (10 / 9) ** 2 / ((1 / 9 + 49 / 81) / 2)
    assert found.p_value == pytest.approx(two_sided_p_value((10 / 3) / math.sqrt(10 / 9), df))
    assert found.margin == pytest.approx(critical_t(df) * math.sqrt(10 / 9))
    assert 0.04 < found.p_value < 0.05


def test_the_interval_of_a_difference_excludes_zero_if_p_is_below_five_percent() -> None:
    found = welch_t_test([0.0, 1.0, 2.0], [2.5, 3.5, 4.5])
    assert found is not None
    assert (found.margin < abs(found.difference)) == (found.p_value < 0.05)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0, 3.0]), ([], [1.0, 2.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_there_is_no_test_for_single_values_or_without_variance(first: list[float], second: list[float]) -> None:
    assert welch_t_test(first, second) is None


def test_holms_correction_by_hand() -> None:
    assert holm_correction([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_correction([0.5, 0.9]) == [1.0, 1.0]
    assert holm_correction([]) == []


def test_a_single_value_has_no_standard_deviation_and_no_interval() -> None:
    one = summarize([2.0])
    assert one is not None
    assert (one.n, one.mean, one.std, one.margin) == (1, 2.0, None, None)
    three = summarize([1.0, 2.0, 3.0])
    assert three is not None
    assert (three.std, three.margin) == (1.0, pytest.approx(4.3027 / math.sqrt(3), abs=1e-4))
    assert summarize([]) is None


def test_equal_means_are_found_different_as_rarely_as_promised() -> None:
    """1,000 pairs of three values from one distribution, by a generator that is the same everywhere."""
    state = 12345

    def uniform() -> float:
        nonlocal state
        state = (1103515245 * state + 12345) % 2**31
        return (state + 0.5) / 2**31

    def normal() -> float:
        return math.sqrt(-2 * math.log(uniform())) * math.cos(2 * math.pi * uniform())

    tests = [welch_t_test([normal() for _ in range(3)], [normal() for _ in range(3)]) for _ in range(1000)]
    n_significant = sum(test is not None and test.p_value < 0.05 for test in tests)
    assert 10 < n_significant < 65
