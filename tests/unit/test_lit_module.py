"""What one step of training does besides the model's own computation."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from folio.config import RunConfig, plain
from folio.data.tokenizers import CharTokenizer
from folio.models import GPT
from folio.training.checkpoint import Contents
from folio.training.lit_module import LanguageModel, RunningMeans


@pytest.fixture
def build(compose: Callable[..., RunConfig]) -> Callable[..., LanguageModel]:
    def built(*overrides: str) -> LanguageModel:
        config = compose("model=debug", *overrides)
        model = GPT(config.gpt_config(7))
        contents = Contents(plain(config), model.config, CharTokenizer("abcdefg"))
        return LanguageModel(
            model=model, config=config, contents=contents, val_tokens_per_byte=1.0, fused_optimizer=False
        )

    return built


def gradient_norm_after_clipping(module: LanguageModel) -> float:
    """Of gradients whose norm was 5."""
    parameters = list(module.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    parameters[0].grad.view(-1)[0], parameters[1].grad.view(-1)[0] = 3.0, 4.0
    module.configure_gradient_clipping(module.configure_optimizers())
    return torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item()


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_kept(build: Callable[..., LanguageModel]) -> None:
    module = build("training.gradient_clip_norm=0.5")
    assert gradient_norm_after_clipping(module) == pytest.approx(0.5, rel=1e-4)
    assert module.gradient_norm == 5.0


@pytest.mark.parametrize("norm", ["null", "6.0"])
def test_gradients_below_the_norm_stay_as_they_are(norm: str, build: Callable[..., LanguageModel]) -> None:
    module = build(f"training.gradient_clip_norm={norm}")
    assert gradient_norm_after_clipping(module) == 5.0
    assert module.gradient_norm == 5.0


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-3 / 3), (2, 1e-3)])
def test_all_groups_step_at_the_rate_of_the_schedule(
    step: int, rate: float, build: Callable[..., LanguageModel]
) -> None:
    module = build("optimizer.learning_rate=1e-3", "schedule.warmup_steps=2")
    module.trainer = SimpleNamespace(global_step=step)
    optimizer = module.configure_optimizers()
    module.on_before_optimizer_step(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])


def test_running_means_are_over_what_came_since_the_last_look() -> None:
    means = RunningMeans()
    for loss, accuracy in [(3.0, 0.25), (5.0, 0.75)]:
        means.add(torch.tensor(loss, requires_grad=True), torch.tensor(accuracy))
    assert means.take() == (4.0, 0.5)
    means.add(torch.tensor(1.0), torch.tensor(0.0))
    assert means.take() == (1.0, 0.0)


def test_running_means_go_on_where_a_checkpoint_left_them() -> None:
    before, after = RunningMeans(), RunningMeans()
    before.add(torch.tensor(3.0), torch.tensor(0.5))
    after.load_state(before.state())
    after.add(torch.tensor(1.0), torch.tensor(0.0))
    assert after.take() == (2.0, 0.25)


def test_running_means_go_on_on_the_device_of_the_losses() -> None:
    """A checkpoint comes back on the CPU. The meta device stands for a GPU: it refuses to mix as well."""
    before, after = RunningMeans(), RunningMeans()
    before.add(torch.zeros(()), torch.zeros(()))
    after.load_state(before.state())
    after.add(torch.zeros((), device="meta"), torch.zeros((), device="meta"))
    assert after.state()["sums"].device.type == "meta"
