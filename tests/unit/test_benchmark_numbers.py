"""How the benchmark computes and shows its numbers, and which options it refuses. Nothing here is timed."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from benchmarks.contenders.selection import PEERS, Peers, choose_peers
from benchmarks.parts.scaling import write_empty_tokens
from benchmarks.parts.training import step_times_ms
from benchmarks.report.plots import FIGURES, write_plots
from benchmarks.report.results import BenchmarkReport, Series, group_exponent, read_report
from benchmarks.report.statistics import (
    first_at_most,
    fit_exponent,
    format_number,
    format_tick,
    largest_difference,
    median_ratio,
)
from benchmarks.workloads import WORKLOADS
from folio.data.token_file import LARGEST_HASHED_BYTES, TokenFile, sidecar_path
from folio.models import GPTConfig
from folio.runtime.errors import FolioError

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "gpu": None, "torch": "2.13.0"}


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that slows down tenfold in the last round slows down both contenders."""
    slow, fast = [2.0, 2.0, 20.0], [1.0, 1.0, 10.0]
    assert median_ratio(slow, fast) == 2.0
    assert median_ratio([3.0, 1.0, 8.0], [1.0, 1.0, 2.0]) == 3.0


@pytest.mark.parametrize(("unit", "advantage"), [("ms/step", 2.0), ("tokens/s", 0.5), ("MiB", 2.0)])
def test_better_means_less_time_and_higher_rates(unit: str, advantage: float) -> None:
    ours, other = (Series("step", "a", name, unit, values) for name, values in (("x", [1.0]), ("y", [2.0])))
    assert ours.advantage_over(other) == advantage


@given(power=st.floats(-3, 3), factor=st.floats(1e-3, 1e3))
def test_the_exponent_of_a_power_law_is_found(power: float, factor: float) -> None:
    sizes = [1, 2, 4, 8, 100]
    assert fit_exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-6)


def test_the_exponent_of_noise_around_a_constant_is_near_zero() -> None:
    noise = np.random.default_rng(0).uniform(0.95, 1.05, 4)
    assert abs(fit_exponent([1e6, 1e8, 2e9, 2e10], list(40 * noise))) < 0.02


def test_the_exponent_of_a_constant_plus_a_line_is_between_0_and_1() -> None:
    assert 0 < fit_exponent([1, 2, 4, 8], [10 + size for size in (1, 2, 4, 8)]) < 1


def test_a_nan_loss_is_infinitely_far() -> None:
    assert largest_difference([1.0, 2.0], [1.0, 2.5, 9.0]) == 0.5
    assert largest_difference([1.0, math.nan], [1.0, 2.0]) == math.inf
    assert largest_difference([], [1.0]) == 0.0


def test_the_first_low_enough_loss_reaches_the_goal() -> None:
    assert first_at_most([3.0, 1.9, 1.8, 2.0], 1.9) == 1
    assert first_at_most([3.0], 1.9) is None


def test_numbers_are_written_with_three_digits() -> None:
    assert [format_number(value) for value in (0.03368, 2.345, 99.94, 116.4, 6762.3)] == [
        "0.0337",
        "2.35",
        "99.9",
        "116",
        "6,762",
    ]
    assert [format_tick(value) for value in (1, 64, 1024, 65_536, 2e10)] == ["1", "64", "1.02k", "65.5k", "20G"]


def test_a_step_includes_its_share_of_a_checkpoint() -> None:
    """The measurement saves every 2 steps and a run every 100, so a fiftieth of the save counts."""
    blocks = [
        {"elapsed_s": 1.2, "n_steps": 2, "checkpoint_s": [0.2]},
        {"elapsed_s": 2.0, "n_steps": 2, "checkpoint_s": []},
    ]
    assert step_times_ms(blocks, [0.2], period=100) == pytest.approx([502.0, 1002.0])
    assert step_times_ms(blocks[1:], [], period=100) == [1000.0]


def test_the_timed_blocks_of_every_workload_include_a_checkpoint() -> None:
    for workload in WORKLOADS.values():
        for rounds in range(1, 8):
            every = workload.block_steps * (1 if workload.checkpoint_each_block else rounds)
            first, last = 3, 2 + rounds * workload.block_steps  # after two warm-up steps
            assert any(step % every == 0 for step in range(first, last + 1))


def test_an_empty_token_file_of_any_size_can_be_opened_and_takes_no_disk_space(tmp_path: Path) -> None:
    small = write_empty_tokens(tmp_path / "small" / "tokens.bin", 10_000, vocab_size=1024)
    assert TokenFile.open(small).tokens.shape == (5_000,)
    large = write_empty_tokens(tmp_path / "large" / "tokens.bin", LARGEST_HASHED_BYTES + 2, vocab_size=1024)
    opened = TokenFile.open(large)
    assert (len(opened.tokens), opened.tokens[-1]) == (LARGEST_HASHED_BYTES // 2 + 1, 0)
    assert large.stat().st_blocks * 512 < 10**6
    assert sidecar_path(large).is_file()


def test_nanogpt_takes_part_if_there_is_a_checkout(tmp_path: Path) -> None:
    assert choose_peers(None, None).names == ("bare", "hf")
    (tmp_path / "model.py").touch()
    assert choose_peers(None, tmp_path).names == PEERS
    assert choose_peers("bare", tmp_path).names == ("bare",)


@pytest.mark.parametrize(
    ("names", "message"),
    [("bear", "--peers=bear is not one of bare, hf, nanogpt"), ("nanogpt", "add --nanogpt PATH")],
)
def test_an_unavailable_peer_is_refused(names: str, message: str) -> None:
    with pytest.raises(FolioError, match=message):
        choose_peers(names, None)


def test_a_checkout_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"has no model\.py"):
        choose_peers(None, tmp_path)


def test_a_peer_with_another_model_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    config = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=1, d_model=4, positional_encoding="rotary")
    names, reasons = choose_peers("bare,nanogpt", tmp_path).supporting(config)
    assert names == ["bare"]
    assert reasons == ["nanoGPT is left out: its model supports only positional_encoding=learned, not rotary"]
    tanh = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=1, d_model=4)
    assert choose_peers("nanogpt", tmp_path).supporting(tanh)[0] == []


def make_report() -> BenchmarkReport:
    """Return a report with a little of every part that has a plot."""
    report = BenchmarkReport(
        MACHINE, checks=[{"what": "losses on workload a", "contender": "bare"}], skipped=["one thing"]
    )
    for workload in ("a", "b"):
        for factor, name in enumerate(("Folio", "bare loop", "nanoGPT"), 1):
            report.series.append(Series("step", workload, name, "ms/step", [factor * 1.0, factor * 1.1]))
            report.series.append(Series("memory", workload, name, "MiB", [factor * 400.0]))
        for factor, name in ((1.02, "Folio"), (1.0, "bare loop")):
            report.series.append(Series("overhead", workload, name, "ms/step", [factor, 2 * factor]))
    report.series += [Series("generation", "64 tokens", name, "tokens/s", [9.0, 8.0]) for name in ("Folio", "nanoGPT")]
    report.series += [Series("startup", "start", name, "s", [1.0, 2.0]) for name in ("import lightning", "train.py")]
    for axis in ("context", "corpus"):
        for size in (1, 10, 100):
            facts = {"axis": axis, "size": size, "unit": "tokens"}
            for kind, unit in (("time", "ms/step"), ("memory", "MiB above the imports")):
                report.series.append(Series("scaling", f"{axis}: {kind}", str(size), unit, [2.0 * size], facts=facts))
    curve = {"train_s": [1.0, 2.0], "val_loss_nats": [2.4, 1.8], "goal_nats": 1.898}
    for units in ("characters", "GPT-2's tokens"):
        report.series += [Series("quality", units, name, "nats", [1.8], facts=curve) for name in ("x", "y")]
    return report


def test_the_json_contains_everything_and_can_be_read_again(tmp_path: Path) -> None:
    report = make_report()
    text = report.to_json()
    values = json.loads(text)
    assert values.keys() == {"format", "machine", "series", "comparisons", "checks", "skipped"}
    assert values["machine"] == MACHINE
    first = values["series"][0]
    assert first.keys() == {"part", "subject", "contender", "unit", "values", "note", "facts", "median"}
    assert (first["values"], first["median"]) == ([1.0, 1.1], 1.05)
    comparison = next(one for one in values["comparisons"] if (one["part"], one["against"]) == ("step", "nanoGPT"))
    assert comparison["contender"] == "Folio"
    assert comparison["ahead"] == pytest.approx(3.0)
    assert comparison["ahead_by_round"] == pytest.approx([3.0, 3.0])
    (tmp_path / "report.json").write_text(text)
    assert read_report(tmp_path / "report.json") == report


def test_results_of_the_first_format_can_still_be_read(tmp_path: Path) -> None:
    series = {"part": "step", "subject": "a", "side": "Folio", "unit": "ms a step", "values": [1.0], "note": ""}
    check = {"what": "losses at work a", "side": "bare"}
    values = {"format": 1, "machine": MACHINE, "series": [series | {"facts": {}, "median": 1.0}], "checks": [check]}
    (tmp_path / "report.json").write_text(json.dumps(values | {"comparisons": [], "skipped": []}))
    report = read_report(tmp_path / "report.json")
    assert report.series == [Series("step", "a", "Folio", "ms a step", [1.0])]
    assert report.checks[0]["contender"] == "bare"


def test_exponents_are_those_of_the_medians() -> None:
    assert [group_exponent(group) for group in make_report().groups("scaling")] == pytest.approx([1.0] * 4)


def test_every_part_with_a_plot_is_drawn(tmp_path: Path) -> None:
    paths = write_plots(make_report(), tmp_path / "plots")
    assert [path.stem for path in paths] == list(FIGURES)
    for path in paths:
        assert imread(path).std() > 0


def test_an_empty_report_draws_no_plots(tmp_path: Path) -> None:
    assert write_plots(BenchmarkReport(MACHINE), tmp_path) == []


@pytest.mark.parametrize("part", FIGURES)
def test_nothing_is_cut_off_and_every_axis_has_a_label(part: str) -> None:
    figure = FIGURES[part](make_report())
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_title() or len(figure.axes) > 1
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, None),
        ({"final_norm": True, "scale_embedding": False, "tie_weights": True, "attention_bias": True}, None),
        ({"final_norm": False}, "final_norm"),
        ({"output_bias": True}, "output_bias"),
        ({"attention_bias": False}, "attention_has_bias"),
        ({"feed_forward_dropout": 0.1}, "feed_forward_dropout"),
        ({"positional_encoding": "concatenated"}, "positional_encoding"),
    ],
    ids=str,
)
def test_nanogpt_takes_part_if_it_can_compute_the_model(changes: dict[str, Any], word: str | None) -> None:
    config = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=1, d_model=8, activation="gelu", **changes)
    names, reasons = Peers(("nanogpt",), None).supporting(config)
    assert names == ([] if word else ["nanogpt"])
    assert [reason for reason in reasons if f"only {word}=" in reason] == reasons


def test_nothing_that_users_run_imports_the_benchmark() -> None:
    root = Path(__file__).parents[2]
    sources = [root / "train.py", *(root / "scripts").glob("*.py"), *(root / "src").rglob("*.py")]
    imported = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    importers = [path.name for path in sources if imported.search(path.read_text(encoding="utf-8"))]
    assert importers == ["gpu_check.py"], "which is the maintainers' own"
