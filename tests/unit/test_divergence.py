"""NaN and infinite gradients or weights stop a run, or skip a step, before they are saved."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from folio.config.run import RunConfig
from folio.optim.optimizers import build_optimizer
from folio.training.divergence import Diverged, GradientMonitor, SpikeDetector, all_finite
from folio.training.running_means import RunningMeans

NAN, INF = math.nan, math.inf


@pytest.fixture
def watch(compose: Callable[..., RunConfig]) -> Callable[..., GradientMonitor]:
    return lambda *overrides: GradientMonitor(compose("model=debug", *overrides).training)


def norms(watch: GradientMonitor, *values: float) -> list[bool]:
    return [watch.should_step(step, 0.01, torch.tensor(value)) for step, value in enumerate(values, 1)]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_gradients_that_are_not_finite_stop_a_run(
    value: float, watch: Callable[..., GradientMonitor]
) -> None:
    words = rf"step 3 are not finite: learning rate 0\.01, gradient norm {value};.*training\.on_nan=skip"
    with pytest.raises(Diverged, match=words):
        norms(watch(), 1.0, 1e30, value)


def test_too_many_in_a_row_stop_a_run_that_skips_them(watch: Callable[..., GradientMonitor]) -> None:
    seen = watch("training.on_nan=skip", "training.max_nan_steps=3")
    assert norms(seen, NAN, 1.0, INF, NAN, 1.0, NAN, NAN) == [False, True, False, False, True, False, False]
    assert seen.n_skipped == 5
    with pytest.raises(Diverged, match=r"step 8 are not finite, the last of 3 such steps in a row"):
        seen.should_step(8, 0.01, torch.tensor(NAN))


def test_a_resumed_run_continues_to_count(watch: Callable[..., GradientMonitor]) -> None:
    first, second = (watch("training.on_nan=skip", "training.max_nan_steps=3") for _ in range(2))
    norms(first, NAN, NAN)
    second.load_state_dict(first.state_dict())
    assert second.n_skipped == 2
    with pytest.raises(Diverged, match=r"3 such steps in a row"):
        norms(second, NAN)


class OnAnotherDevice:
    """A norm that must not be read before the check; torch's meta device has no values to stack."""

    device = torch.device("meta")


def test_on_a_gpu_nothing_is_read_before_the_check(
    watch: Callable[..., GradientMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, norm = watch(), OnAnotherDevice()
    assert [seen.should_step(step, 0.01, norm) for step in (1, 2, 3)] == [True, True, True]  # type: ignore[arg-type]
    read: list[Any] = []
    monkeypatch.setattr(torch, "stack", lambda norms: read.append(norms) or torch.tensor([1.0, INF, NAN]))
    with pytest.raises(Diverged, match="step 2 are not finite"):
        seen.check()
    assert read == [[norm] * 3]
    seen.check()
    assert len(read) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_step_without_gradients_changes_nothing(
    optimizer: str, fused: bool, compose: Callable[..., RunConfig]
) -> None:
    """`training.on_nan=skip` relies on it: neither weights nor state nor the count of steps change."""
    config = compose("model=debug", f"optimizer={optimizer}").optimizer
    torch.manual_seed(0)
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(4, 4)])
    model.output = nn.Linear(4, 2, bias=False)
    used = build_optimizer(model, config, fused)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    used.step()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    state = {key: dict(value) for key, value in used.state_dict()["state"].items()}
    state = {
        key: {name: torch.as_tensor(part).clone() for name, part in value.items() if part is not None}
        for key, value in state.items()
    }
    used.zero_grad()
    used.step()
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    for key, value in used.state_dict()["state"].items():
        for name, part in state[key].items():
            assert torch.equal(part, torch.as_tensor(value[name])), name


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_weight_that_is_not_finite_is_found(value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    assert all_finite(model)
    with torch.no_grad():
        model[1].bias[2] = value
    assert not all_finite(model)


def test_a_skipped_step_is_not_in_the_means() -> None:
    means = RunningMeans()
    for losses, taken in (((1.0, 3.0), True), ((NAN, 5.0), False), ((2.0, 6.0), True), ((NAN, NAN), False)):
        for loss in losses:
            means.update(torch.tensor(loss), torch.tensor(0.5))
        means.commit() if taken else means.rollback()
    assert means.compute_and_reset() == (3.0, 0.5)
    means.update(torch.tensor(NAN), torch.tensor(0.5))
    means.rollback()
    assert means.compute_and_reset() is None


def test_a_spike_is_a_loss_a_nat_above_the_median_before() -> None:
    watch = SpikeDetector()
    falling = [9.0, 5.0, 4.0, 3.5, 3.3, 3.2]
    assert [watch.update(loss) for loss in falling] == [None] * 6
    assert watch.update(4.7) is None  # the median is 3.75
    assert watch.update(5.1) == 4.0
    assert watch.update(3.0) is None


def test_the_first_losses_are_never_spikes() -> None:
    watch = SpikeDetector()
    assert [watch.update(loss) for loss in (1.0, 1.0, 9.0, 1.0, 9.0)] == [None] * 5
    assert watch.update(9.0) == 1.0


def test_only_the_last_losses_count() -> None:
    watch = SpikeDetector([1.0] * 5 + [5.0] * SpikeDetector.WINDOW)
    assert watch.update(5.5) is None
