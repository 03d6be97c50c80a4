"""The best learning rate of each width, and what the narrowest model's costs a wide one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from folio.report import make_report
from folio.report.plots import plot_rates
from folio.report.rate_transfer import compare_rates
from folio.runtime.errors import FolioError

WriteRun = Callable[..., Path]

LOSSES = {
    ("mup", 64): {0.004: 2.1, 0.008: 2.0},
    ("mup", 128): {0.004: 1.9, 0.008: 1.8},
    ("mup", 256): {0.004: 1.8, 0.008: 1.7},
    ("standard", 128): {0.004: 1.8, 0.008: 1.9},
    ("standard", 256): {0.004: 1.7, 0.008: 2.3},
}


@pytest.fixture
def sweep(write_run: WriteRun, tmp_path: Path) -> Path:
    for (parametrization, width), losses in LOSSES.items():
        for rate, loss in losses.items():
            for seed in (1, 2):
                config = {
                    "seed": seed,
                    "model.d_model": width,
                    "model.parametrization": parametrization,
                    "model.mup_base_d_model": 64 if parametrization == "mup" else 128,
                    "optimizer.learning_rate": rate,
                }
                name = f"sweep/{parametrization}-{width}-{rate}-{seed}"
                write_run(name, config, loss=loss + 0.01 * seed, n_parameters_without_embeddings=48.0 * width**2)
    return tmp_path / "sweep"


def test_at_the_base_width_the_runs_of_mup_are_those_of_standard_too(sweep: Path) -> None:
    transfer = compare_rates(make_report([sweep]))
    assert list(transfer.sweeps) == ["standard", "mup"]
    for sweeps in transfer.sweeps.values():
        assert [each.d_model for each in sweeps] == [64, 128, 256]
    assert [each.best_rate for each in transfer.sweeps["mup"]] == [0.008, 0.008, 0.008]
    assert [each.best_rate for each in transfer.sweeps["standard"]] == [0.008, 0.004, 0.004]


def test_the_table_shows_what_the_rate_of_the_narrowest_costs(sweep: Path) -> None:
    headings, rows = compare_rates(make_report([sweep])).table()
    assert headings[-1] == "at the best of d_model 64"
    shown = {(row[0], row[1]): row[2:] for row in rows}
    assert shown["mup", "256"][0] == shown["standard", "64"][0] == "0.008"
    assert shown["mup", "256"][1] == shown["mup", "256"][2].removesuffix(" (0.008)")
    assert shown["standard", "256"][0] == "0.004"
    assert shown["standard", "256"][1] < shown["standard", "256"][2]


def test_the_exponents_are_those_of_one_rate_and_of_each_widths_own(sweep: Path) -> None:
    transfer = compare_rates(make_report([sweep]))
    one_rate, own = transfer.laws("standard")
    assert one_rate is not None
    assert own is not None
    assert one_rate.exponent < 0.0 < own.exponent
    assert len(plot_rates(transfer).axes) == 2


def test_a_single_width_is_refused_with_what_to_sweep(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("one/a", {"model.d_model": 64, "optimizer.learning_rate": 0.1})
    with pytest.raises(FolioError, match=r"sweep model\.d_model and optimizer\.learning_rate"):
        compare_rates(make_report([tmp_path / "one"]))
