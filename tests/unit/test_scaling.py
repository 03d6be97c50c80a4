"""Power laws are fitted if the runs allow it, and refused if they do not."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.report import make_report
from folio.report.plots import plot_scaling
from folio.report.scaling import fit_power_law, fit_scaling
from folio.runtime.errors import FolioError

WriteRun = Callable[..., Path]


@pytest.fixture
def runs_of_four_sizes(write_run: WriteRun, tmp_path: Path) -> Path:
    """loss = 10 N^-0.1 with seed 1 and 10 N^-0.12 with seed 2, at four sizes and three lengths."""
    for seed, exponent in ((1, 0.1), (2, 0.12)):
        for d_model, n_parameters in ((8, 1e3), (16, 1e4), (32, 1e5), (64, 1e6)):
            write_run(
                f"sweep/{d_model}-{seed}",
                {"seed": seed, "model.d_model": d_model},
                loss=10.0 * n_parameters**-exponent,
                n_parameters_without_embeddings=n_parameters,
                n_tokens_seen=768_000,
            )
    return tmp_path / "sweep"


@given(
    factor=st.floats(0.1, 100.0),
    exponent=st.floats(-0.5, 2.0),
    xs=st.lists(st.integers(1, 10**9), min_size=3, max_size=20, unique=True),
)
def test_a_power_law_without_noise_is_recovered(factor: float, exponent: float, xs: list[int]) -> None:
    law = fit_power_law([(x, factor * x**-exponent) for x in xs])
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    for x in xs:
        assert law(x) == pytest.approx(factor * x**-exponent, rel=1e-5)


def test_the_exponent_has_a_standard_deviation_over_seeds(runs_of_four_sizes: Path) -> None:
    scaling = fit_scaling(make_report([runs_of_four_sizes]), "parameters")
    assert (scaling.exponents.n, scaling.exponents.mean) == (2, pytest.approx(0.11))
    assert scaling.exponents.std == pytest.approx(0.02 / math.sqrt(2))
    assert scaling.law.exponent == pytest.approx(0.11)
    assert [x for x, _, _ in scaling.rows] == [1e3, 1e4, 1e5, 1e6]
    assert scaling.max_relative_error < 0.02
    assert plot_scaling(scaling).axes[0].get_xlabel() == "parameters without embeddings"


def test_compute_is_six_flops_per_parameter_and_token(runs_of_four_sizes: Path) -> None:
    scaling = fit_scaling(make_report([runs_of_four_sizes]), "compute")
    assert [x for x, _, _ in scaling.rows] == [6.0 * 768_000 * n for n in (1e3, 1e4, 1e5, 1e6)]


def test_unfinished_runs_are_not_fitted(runs_of_four_sizes: Path, write_run: WriteRun) -> None:
    write_run("sweep/wild", {"model.d_model": 128}, loss=99.0, status="diverged", n_parameters_without_embeddings=1e7)
    assert len(fit_scaling(make_report([runs_of_four_sizes]), "parameters").rows) == 4


def test_with_too_few_different_sizes_the_error_says_what_to_sweep(runs_of_four_sizes: Path) -> None:
    with pytest.raises(FolioError, match=r"--along=tokens: a power law needs at least three .* training\.max_steps"):
        fit_scaling(make_report([runs_of_four_sizes]), "tokens")


def test_losses_on_different_texts_are_not_fitted(runs_of_four_sizes: Path, write_run: WriteRun) -> None:
    other = write_run("sweep/other", {"model.d_model": 128})
    (other / "preflight.json").write_text('{"text_sha256": "1"}')
    with pytest.raises(FolioError, match="different texts"):
        fit_scaling(make_report([runs_of_four_sizes]), "parameters")
