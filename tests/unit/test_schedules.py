"""Learning rates computed by hand, and properties of all schedules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.config.schedule import (
    ConstantScheduleConfig,
    CosineScheduleConfig,
    NoamScheduleConfig,
    ScheduleConfig,
    WSDScheduleConfig,
)

PEAK, MAX_STEPS, D_MODEL = 1e-3, 14, 128
COSINE = CosineScheduleConfig(name="cosine", warmup_steps=4, min_learning_rate=1e-4)


def rate_of(
    schedule: ScheduleConfig, step: int, *, peak: float = PEAK, max_steps: int = MAX_STEPS, d_model: int = D_MODEL
) -> float:
    return schedule.load_code()(step, schedule, peak, max_steps, d_model)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 2e-4),  # 1/5 of the peak
        (3, 8e-4),  # 4/5 of it
        (4, 1e-3),
        (9, 5.5e-4),  # halfway: (1e-3 + 1e-4) / 2
        (13, 1.2202457e-4),  # 1e-4 + 9e-4 x (1 + cos 162 deg) / 2, with cos 162 deg = -0.95105652
        (14, 1e-4),
        (1000, 1e-4),  # the learning rate does not rise again after max_steps
    ],
)
def test_cosine_has_the_rates_computed_by_hand(step: int, rate: float) -> None:
    assert rate_of(COSINE, step) == pytest.approx(rate, rel=1e-7)


def test_without_warmup_the_first_step_has_the_peak() -> None:
    schedule = CosineScheduleConfig(name="cosine", warmup_steps=0, min_learning_rate=0.0)
    assert rate_of(schedule, 0) == PEAK


def test_constant_stays_at_the_peak_after_the_warmup() -> None:
    schedule = ConstantScheduleConfig(name="constant", warmup_steps=3)
    rates = [rate_of(schedule, step) for step in range(20)]
    assert rates[:3] == pytest.approx([2.5e-4, 5e-4, 7.5e-4])
    assert rates[3:] == [PEAK] * 17


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 2e-4),  # 1/5 of the peak
        (4, 1e-3),
        (8, 1e-3),  # 20 - 0.6 x 20: the last step at the peak
        (14, 5.5e-4),  # halfway: (1e-3 + 1e-4) / 2
        (19, 1.75e-4),  # 1e-4 + 9e-4 / 12
        (20, 1e-4),
        (1000, 1e-4),
    ],
)
def test_wsd_has_the_rates_computed_by_hand(step: int, rate: float) -> None:
    schedule = WSDScheduleConfig(name="wsd", warmup_steps=4, decay_share=0.6, min_learning_rate=1e-4)
    assert rate_of(schedule, step, max_steps=20) == pytest.approx(rate, rel=1e-7)


@given(
    warmup_steps=st.integers(0, 50),
    n_cosine_steps=st.integers(1, 200),
    peak=st.floats(1e-6, 1.0),
    min_share=st.floats(0.0, 1.0),
)
def test_cosine_rises_to_the_peak_then_falls_to_the_minimum(
    warmup_steps: int, n_cosine_steps: int, peak: float, min_share: float
) -> None:
    minimum = peak * min_share
    schedule = CosineScheduleConfig(name="cosine", warmup_steps=warmup_steps, min_learning_rate=minimum)
    max_steps = warmup_steps + n_cosine_steps
    rates = [rate_of(schedule, step, peak=peak, max_steps=max_steps) for step in range(max_steps + 1)]
    rising, falling = rates[: warmup_steps + 1], rates[warmup_steps:]
    assert rising == sorted(set(rising))
    assert falling == sorted(falling, reverse=True)
    assert rates[0] > 0
    assert max(rates) == rates[warmup_steps] == pytest.approx(peak)
    assert rates[-1] == pytest.approx(minimum, abs=1e-12)


def noam(step: int, peak: float = PEAK, warmup_steps: int = 4000, scale: float = 1.0, d_model: int = 128) -> float:
    schedule = NoamScheduleConfig(name="noam", warmup_steps=warmup_steps, scale=scale)
    return rate_of(schedule, step, peak=peak, d_model=d_model)


@pytest.mark.parametrize(
    ("number", "rate"),
    [
        (1, 3.4938562e-7),  # 128^-0.5 x 4000^-1.5 = 0.088388348 x 3.9528471e-6
        (3999, 1.39719310e-3),
        (4000, 1.39754249e-3),  # the highest: (128 x 4000)^-0.5 = 512000^-0.5
        (4001, 1.39736783e-3),
        (16_000, 6.98771243e-4),  # half of it at four times the step
        (100_000, 0.000279508497),  # golden
    ],
)
def test_noam_has_the_rates_of_the_paper(number: int, rate: float) -> None:
    assert noam(number - 1) == pytest.approx(rate, rel=1e-7)


@given(step=st.integers(0, 10_000), warmup_steps=st.integers(1, 5_000), scale=st.floats(0.01, 10.0))
def test_noam_is_proportional_to_its_scale_depends_on_the_width_and_ignores_the_peak(
    step: int, warmup_steps: int, scale: float
) -> None:
    plain = noam(step, warmup_steps=warmup_steps)
    assert noam(step, peak=0.5, warmup_steps=warmup_steps) == plain
    assert noam(step, warmup_steps=warmup_steps, scale=scale) == pytest.approx(scale * plain)
    assert noam(step, warmup_steps=warmup_steps, d_model=512) == pytest.approx(plain / 2)


@given(warmup_steps=st.integers(1, 100))
def test_noam_is_highest_when_the_warmup_ends(warmup_steps: int) -> None:
    rates = [noam(step, warmup_steps=warmup_steps) for step in range(2 * warmup_steps)]
    assert rates.index(max(rates)) == warmup_steps - 1
