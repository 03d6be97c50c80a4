"""A law of size and tokens is recovered, says how sure it is, and suggests what to train in a given time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.distributed.cost_model import step_flops
from folio.models import TransformerConfig
from folio.report import make_report
from folio.report.joint_law import (
    EXPONENTS,
    HEADINGS,
    JointFit,
    JointLaw,
    Point,
    fit_joint_law,
    points_of_report,
    read_points,
)
from folio.report.suggestion import MIN_STEPS, suggest
from folio.runtime.errors import FolioError

WriteRun = Callable[..., Path]

LAW = JointLaw(of_size=8.0, size_exponent=float(EXPONENTS[24]), of_tokens=30.0, token_exponent=float(EXPONENTS[27]))
"""Exponents of about 0.2 and 0.3."""


def points_of(law: JointLaw, noise: float = 0.0, seed: int = 0) -> list[Point]:
    chance = np.random.default_rng(seed)
    sizes, tokens = (5e4, 2e5, 8e5, 3e6), (2e5, 4e5, 8e5)
    return [Point("1", n, d, law(n, d) * (1 + noise * chance.standard_normal())) for n in sizes for d in tokens]


@pytest.fixture(scope="module")
def noisy() -> JointFit:
    return fit_joint_law(points_of(LAW, noise=0.01))


def test_a_law_without_noise_is_recovered() -> None:
    law = fit_joint_law(points_of(LAW)).law
    assert (law.size_exponent, law.token_exponent) == (LAW.size_exponent, LAW.token_exponent)
    assert (law.of_size, law.of_tokens) == (pytest.approx(LAW.of_size), pytest.approx(LAW.of_tokens))


@given(st.floats(0.05, 0.8), st.floats(0.05, 0.8))
@settings(max_examples=3, deadline=None)
def test_between_the_measured_points_it_predicts_any_such_law(first: float, second: float) -> None:
    law = JointLaw(1e5**first, first, 1e5**second, second)
    assert fit_joint_law(points_of(law)).law(4e5, 3e5) == pytest.approx(law(4e5, 3e5), rel=0.03)


def test_the_interval_holds_new_runs_as_often_as_it_says_and_widens_away_from_the_points(noisy: JointFit) -> None:
    low, high = noisy.interval(4e5, 3e5)
    new_runs = LAW(4e5, 3e5) * (1 + 0.01 * np.random.default_rng(1).standard_normal(1000))
    assert 0.8 < np.mean((low < new_runs) & (new_runs < high)) <= 1.0
    far_low, far_high = noisy.interval(1e9, 1e9)
    assert (far_high - far_low) / far_low > (high - low) / low


def test_what_lies_outside_the_measured_range_is_named(noisy: JointFit) -> None:
    assert noisy.extrapolated(4e5, 4e5) == []
    assert noisy.extrapolated(4e5, 9e6) == ["9,000,000 tokens, measured were 200,000 to 800,000"]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least three different numbers of parameters, and there are 0"),
        ([Point("1", n, 1.0, 1.0) for n in (1.0, 2.0, 3.0)], "three different numbers of tokens, and there is 1"),
        ([Point("1", n, n, 1.0) for n in (1.0, 2.0, 3.0)], "at least six runs, and there are 3"),
    ],
)
def test_too_few_runs_are_refused_in_one_line(points: list[Point], message: str) -> None:
    with pytest.raises(FolioError, match=message):
        fit_joint_law(points)


def test_points_come_from_finished_runs_and_from_a_file_of_them(write_run: WriteRun, tmp_path: Path) -> None:
    for width, steps in ((8, 10), (16, 20)):
        counts = {"n_parameters_without_embeddings": float(width), "n_tokens_seen": steps}
        write_run(f"runs/{width}", {"model.d_model": width, "seed": 3}, loss=4.0 / width, **counts)
    report = make_report([tmp_path / "runs"])
    points = points_of_report(report)
    assert [point[:3] for point in points] == [("3", 8.0, 10), ("3", 16.0, 20)]
    file = tmp_path / "points.csv"
    file.write_text("\n".join(",".join(map(str, row)) for row in [[*HEADINGS, report.primary.metric], *points]))
    assert read_points(file) == (report.primary.metric, points)


FIRST = "seed,parameters,tokens,val/bits_per_byte\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not begin with a line like seed,parameters,tokens,val/"),
        ("a,b\n", "does not begin with a line like"),
        (f"{FIRST}1,2,3\n", "no seed and three numbers in line 2"),
        (f"{FIRST}1,2,3,x\n", "no seed and three numbers in line 2"),
        (f"{FIRST}1,2,3,nan\n", "not above 0"),
        (f"{FIRST}1,2,-3,1\n", "not above 0"),
    ],
)
def test_a_file_that_holds_no_points_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text(content)
    with pytest.raises(FolioError, match=message) as refused:
        read_points(file)
    assert "\n" not in str(refused.value)


MODEL = TransformerConfig(vocab_size=65, context_length=128, n_layers=4, n_heads=4, d_model=128)
FIXED_S, FLOPS_PER_S = 0.02, 1e11


def step_of(model: TransformerConfig) -> float:
    return FIXED_S + step_flops(model, 6) / FLOPS_PER_S


def test_the_suggested_size_has_the_lowest_loss_of_all_that_the_time_allows(noisy: JointFit) -> None:
    asked: list[int] = []

    def measure(model: TransformerConfig) -> float:
        asked.append(model.d_model)
        return step_of(model)

    found = suggest(MODEL, 6, 300.0, noisy, measure)
    assert found is not None
    best = found.best
    assert asked[:2] == [32, 256]
    assert best.model.d_model in asked
    assert len(asked) == len(set(asked))
    assert best.n_steps == int(300.0 / step_of(best.model))
    assert best.n_tokens == best.n_steps * 6 * 128
    assert best in found.shown
    assert all(best.loss <= other.loss for other in found.shown)
    assert best.interval[0] < best.loss < best.interval[1]
    assert found.widths[0] <= best.model.d_model <= found.widths[1]


def test_more_time_gives_a_larger_model_and_more_layers_once_it_is_wide(noisy: JointFit) -> None:
    found = [suggest(MODEL, 6, seconds, noisy, step_of) for seconds in (30.0, 300.0, 30_000.0)]
    best = [each.best for each in found if each is not None]
    assert [each.parameters for each in best] == sorted({each.parameters for each in best})
    assert [each.loss for each in best] == sorted((each.loss for each in best), reverse=True)
    assert best[0].model.n_layers == 4 < best[-1].model.n_layers
    for each in best:
        assert each.model.d_model / each.model.n_layers <= 64


def test_widths_are_those_that_the_heads_divide(noisy: JointFit) -> None:
    found = suggest(replace(MODEL, n_heads=12, d_model=96), 6, 300.0, noisy, step_of)
    assert found is not None
    assert all(each.model.d_model % 24 == 0 for each in found.shown)
    with pytest.raises(FolioError, match=r"model\.n_heads=11: .* use model\.n_heads=4"):
        suggest(replace(MODEL, n_heads=11, d_model=88), 6, 300.0, noisy, step_of)


def test_too_little_time_for_any_size_gives_no_suggestion(noisy: JointFit) -> None:
    assert suggest(MODEL, 6, 0.5 * MIN_STEPS * FIXED_S, noisy, step_of) is None
