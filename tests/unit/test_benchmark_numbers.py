"""What the benchmark makes of its numbers, and what it refuses. Nothing here is timed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from benchmarks.contenders.selection import PEERS, choose_peers
from benchmarks.parts.scaling import exponents, write_empty_tokens
from benchmarks.parts.training import step_ms
from benchmarks.report.plots import FIGURES, write_plots
from benchmarks.report.results import Report, Series, read_report
from benchmarks.report.statistics import (
    exponent,
    first_at_most,
    largest_difference,
    median_ratio,
    model_flops_per_token,
    number,
    short_number,
)
from benchmarks.workloads import WORKS
from folio.data.token_file import LARGEST_HASHED_BYTES, TokenFile, sidecar_path
from folio.models import GPT, GPTConfig
from folio.runtime.errors import FolioError

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "gpu": None, "torch": "2.13.0"}


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that slows down tenfold in the last round slows both sides, which is no news."""
    slow, fast = [2.0, 2.0, 20.0], [1.0, 1.0, 10.0]
    assert median_ratio(slow, fast) == 2.0
    assert median_ratio([3.0, 1.0, 8.0], [1.0, 1.0, 2.0]) == 3.0


@pytest.mark.parametrize(("unit", "ahead"), [("ms a step", 2.0), ("tokens/s", 0.5), ("MiB", 2.0)])
def test_ahead_means_less_time_and_higher_rates(unit: str, ahead: float) -> None:
    ours, to_gpt2_state = (Series("step", "a", side, unit, values) for side, values in (("x", [1.0]), ("y", [2.0])))
    assert ours.ahead_of(to_gpt2_state) == ahead


def test_model_flops_are_those_counted_by_hand() -> None:
    """GPT-2 of 1 layer, D 4, T 8, V 10: every product of the step, forward and twice backward."""
    n_layers, d_model, context, vocab = 1, 4, 8, 10
    # Weights: fused QKV, output, two of the feed-forward layer, the head that is the embedding.
    products = 3 * d_model * d_model + d_model * d_model + 2 * 4 * d_model * d_model + vocab * d_model
    biases_and_norms = 3 * d_model + d_model + 4 * d_model + d_model + 3 * 2 * d_model
    attention = 2 * (2 * context * d_model)  # q k and the weighted sum of v, two FLOPs for each product
    by_hand = 3 * (2 * (products + biases_and_norms) + n_layers * attention)
    model = GPT(GPTConfig(vocab_size=vocab, context_length=context, n_layers=1, n_heads=2, d_model=d_model))
    n_parameters = sum(p.numel() for p in model.parameters()) - context * d_model
    assert n_parameters == products + biases_and_norms
    counted = model_flops_per_token(
        n_parameters=n_parameters, n_layers=n_layers, d_model=d_model, context_length=context
    )
    assert counted == by_hand


@given(power=st.floats(-3, 3), factor=st.floats(1e-3, 1e3))
def test_the_exponent_of_a_power_law_is_found(power: float, factor: float) -> None:
    sizes = [1, 2, 4, 8, 100]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-6)


def test_the_exponent_of_what_is_flat_but_for_noise_is_near_zero() -> None:
    noise = np.random.default_rng(0).uniform(0.95, 1.05, 4)
    assert abs(exponent([1e6, 1e8, 2e9, 2e10], list(40 * noise))) < 0.02


def test_the_exponent_of_a_constant_and_a_line_lies_between() -> None:
    assert 0 < exponent([1, 2, 4, 8], [10 + size for size in (1, 2, 4, 8)]) < 1


def test_a_loss_that_is_no_number_is_infinitely_far() -> None:
    assert largest_difference([1.0, 2.0], [1.0, 2.5, 9.0]) == 0.5
    assert largest_difference([1.0, math.nan], [1.0, 2.0]) == math.inf
    assert largest_difference([], [1.0]) == 0.0


def test_the_goal_is_passed_by_the_first_loss_that_is_low_enough() -> None:
    assert first_at_most([3.0, 1.9, 1.8, 2.0], 1.9) == 1
    assert first_at_most([3.0], 1.9) is None


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.03368, 2.345, 99.94, 116.4, 6762.3)] == [
        "0.0337",
        "2.35",
        "99.9",
        "116",
        "6,762",
    ]
    assert [short_number(value) for value in (1, 64, 1024, 65_536, 2e10)] == ["1", "64", "1.02k", "65.5k", "20G"]


def test_a_step_bears_the_share_of_a_checkpoint_that_falls_on_it() -> None:
    """Saved once in 2 steps here, once in 100 in a run: the time of the save counts a fiftieth."""
    blocks = [
        {"elapsed_s": 1.2, "n_steps": 2, "checkpoint_s": [0.2]},
        {"elapsed_s": 2.0, "n_steps": 2, "checkpoint_s": []},
    ]
    assert step_ms(blocks, [0.2], period=100) == pytest.approx([502.0, 1002.0])
    assert step_ms(blocks[1:], [], period=100) == [1000.0]


def test_a_checkpoint_falls_into_the_timed_blocks_of_every_work() -> None:
    for work in WORKS.values():
        for rounds in range(1, 8):
            every = work.block_steps * (1 if work.checkpoint_each_block else rounds)
            first, last = 3, 2 + rounds * work.block_steps  # after two steps of warming up
            assert any(step % every == 0 for step in range(first, last + 1))


def test_the_empty_token_file_of_any_size_can_be_opened_and_takes_no_room(tmp_path: Path) -> None:
    small = write_empty_tokens(tmp_path / "small" / "tokens.bin", 10_000, vocab_size=1024)
    assert TokenFile.open(small).tokens.shape == (5_000,)
    large = write_empty_tokens(tmp_path / "large" / "tokens.bin", LARGEST_HASHED_BYTES + 2, vocab_size=1024)
    opened = TokenFile.open(large)
    assert (len(opened.tokens), opened.tokens[-1]) == (LARGEST_HASHED_BYTES // 2 + 1, 0)
    assert large.stat().st_blocks * 512 < 10**6
    assert sidecar_path(large).is_file()


def test_nanogpt_takes_part_where_there_is_a_checkout(tmp_path: Path) -> None:
    assert choose_peers(None, None).names == ("bare", "hf")
    (tmp_path / "model.py").touch()
    assert choose_peers(None, tmp_path).names == PEERS
    assert choose_peers("bare", tmp_path).names == ("bare",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [("bear", "--peers=bear is not one of bare, hf, nanogpt"), ("nanogpt", "add --nanogpt PATH")],
)
def test_a_peer_that_there_is_not_is_refused(asked: str, message: str) -> None:
    with pytest.raises(FolioError, match=message):
        choose_peers(asked, None)


def test_a_checkout_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"has no model\.py"):
        choose_peers(None, tmp_path)


def test_a_peer_whose_model_is_another_function_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    shape = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=1, d_model=4, positional_encoding="rotary")
    able, reasons = choose_peers("bare,nanogpt", tmp_path).able(shape)
    assert able == ["bare"]
    assert reasons == ["nanoGPT is left out: positional_encoding=rotary, and its model knows learned alone"]
    tanh = GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=1, d_model=4)
    assert choose_peers("nanogpt", tmp_path).able(tanh)[0] == []


def a_report() -> Report:
    """With a little of every part that has a picture."""
    report = Report(MACHINE, checks=[{"what": "losses at work a", "side": "bare"}], skipped=["one thing"])
    for work in ("a", "b"):
        for factor, side in enumerate(("Folio", "bare loop", "nanoGPT"), 1):
            report.series.append(Series("step", work, side, "ms a step", [factor * 1.0, factor * 1.1]))
            report.series.append(Series("memory", work, side, "MiB", [factor * 400.0]))
        for factor, side in ((1.02, "Folio"), (1.0, "bare loop")):
            report.series.append(Series("overhead", work, side, "ms a step", [factor, 2 * factor]))
    report.series += [Series("generation", "64 tokens", side, "tokens/s", [9.0, 8.0]) for side in ("Folio", "nanoGPT")]
    report.series += [Series("startup", "start", side, "s", [1.0, 2.0]) for side in ("import lightning", "train.py")]
    for axis in ("context", "corpus"):
        for size in (1, 10, 100):
            facts = {"axis": axis, "size": size, "unit": "tokens"}
            for kind, unit in (("time", "ms a step"), ("memory", "MiB over the start")):
                report.series.append(Series("scaling", f"{axis}: {kind}", str(size), unit, [2.0 * size], facts=facts))
    curve = {"train_s": [1.0, 2.0], "val_loss_nats": [2.4, 1.8], "goal_nats": 1.898}
    for units in ("characters", "GPT-2's tokens"):
        report.series += [Series("quality", units, side, "nats", [1.8], facts=curve) for side in ("x", "y")]
    return report


def test_the_json_holds_everything_and_can_be_read_again(tmp_path: Path) -> None:
    report = a_report()
    text = report.to_json()
    values = json.loads(text)
    assert values.keys() == {"format", "machine", "series", "comparisons", "checks", "skipped"}
    assert values["machine"] == MACHINE
    first = values["series"][0]
    assert first.keys() == {"part", "subject", "side", "unit", "values", "note", "facts", "median"}
    assert (first["values"], first["median"]) == ([1.0, 1.1], 1.05)
    comparison = next(one for one in values["comparisons"] if (one["part"], one["against"]) == ("step", "nanoGPT"))
    assert comparison["side"] == "Folio"
    assert comparison["ahead"] == pytest.approx(3.0)
    assert comparison["ahead_by_round"] == pytest.approx([3.0, 3.0])
    (tmp_path / "report.json").write_text(text)
    assert read_report(tmp_path / "report.json") == report


def test_exponents_are_those_of_the_medians() -> None:
    assert exponents(a_report()) == pytest.approx(
        {"context: time": 1.0, "context: memory": 1.0, "corpus: time": 1.0, "corpus: memory": 1.0}
    )


def test_every_part_with_a_picture_is_drawn(tmp_path: Path) -> None:
    paths = write_plots(a_report(), tmp_path / "plots")
    assert [path.stem for path in paths] == list(FIGURES)
    for path in paths:
        assert imread(path).std() > 0


def test_a_report_without_pictures_draws_none(tmp_path: Path) -> None:
    assert write_plots(Report(MACHINE), tmp_path) == []


@pytest.mark.parametrize("part", FIGURES)
def test_nothing_is_cut_off_and_every_axis_is_named(part: str) -> None:
    figure = FIGURES[part](a_report())
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_title() or len(figure.axes) > 1
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


def test_nothing_but_its_script_needs_the_benchmark() -> None:
    root = Path(__file__).parents[2]
    sources = [root / "train.py", *(root / "scripts").glob("*.py"), *(root / "src").rglob("*.py")]
    users = {path for path in sources if "benchmarks" in path.read_text(encoding="utf-8")}
    assert not users
