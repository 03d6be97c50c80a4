"""On a CPU, `trainer.precision=auto` takes bfloat16 where a probe finds it faster, and nothing speaks against it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import CPU, TINY
from torch import Tensor, nn

from folio.config.run import RunConfig
from folio.distributed import precision_probe
from folio.distributed.precision_probe import HOPELESS, MIN_SPEEDUP, MIN_WIDTH, bfloat16_speedup, with_probed_precision
from folio.models import TransformerConfig

WIDE = replace(TINY, d_model=MIN_WIDTH)


@pytest.mark.parametrize(
    ("speedup", "overrides", "changes", "expected"),
    [
        (MIN_SPEEDUP, (), {}, "bf16-mixed"),
        (MIN_SPEEDUP - 0.01, (), {}, "32-true"),
        (9.0, ("deterministic=true",), {}, "32-true"),
        (9.0, ("trainer.precision=32-true",), {}, "32-true"),
        (9.0, ("trainer.devices=2",), {}, "32-true"),
        (9.0, (), {"d_model": MIN_WIDTH - 32}, "32-true"),
    ],
)
def test_a_free_choice_goes_to_the_faster_precision(
    speedup: float,
    overrides: tuple[str, ...],
    changes: dict[str, Any],
    expected: str,
    compose: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision_probe, "bfloat16_speedup", lambda *_: speedup)
    config = compose("trainer=auto", *overrides)
    assert with_probed_precision(CPU, config, replace(WIDE, **changes)).precision == expected
    gpu = replace(CPU, accelerator="gpu", precision="16-mixed")
    assert with_probed_precision(gpu, config, WIDE) == gpu


@pytest.mark.parametrize("changes", [{}, {"norm": "rms_norm", "activation": "swiglu", "positional_encoding": "rotary"}])
def test_a_probe_changes_no_random_state_and_no_gradient(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_probe, "PROBE_S", 0.0)
    before = torch.get_rng_state()
    assert 0.0 < bfloat16_speedup(replace(WIDE, dropout=0.1, **changes), 2) < math.inf
    assert torch.equal(torch.get_rng_state(), before)


class Clock:
    """Stands in for the module `time`, and for a block on a CPU whose bfloat16 takes `mixed_s`."""

    def __init__(self, mixed_s: float) -> None:
        self.now_s, self.mixed_s, self.n_passes = 0.0, mixed_s, 0

    def perf_counter(self) -> float:
        return self.now_s

    def build(self, config: TransformerConfig) -> Callable[..., Tensor]:
        layer = nn.Linear(config.d_model, 1)

        def block(hidden: Tensor, mask: object) -> Tensor:
            self.n_passes += 1
            self.now_s += self.mixed_s if torch.is_autocast_enabled("cpu") else 0.05
            return layer(hidden)

        return block


@pytest.mark.parametrize(
    ("mixed_s", "speedup", "n_passes"),
    [(0.025, 2.0, 16), (0.1, 0.5, 10), (0.051 * HOPELESS, 0.05 / (0.051 * HOPELESS), 2)],
)
def test_the_passes_alternate_for_half_a_second_unless_bfloat16_is_hopeless(
    mixed_s: float, speedup: float, n_passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(mixed_s)
    monkeypatch.setattr(precision_probe, "time", clock)
    monkeypatch.setattr(precision_probe, "Block", clock.build)
    assert bfloat16_speedup(TINY, 2) == pytest.approx(speedup)
    assert clock.n_passes == n_passes
