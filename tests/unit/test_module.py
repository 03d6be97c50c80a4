"""The LightningModule clips, schedules, accumulates and validates."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from fake_trainer import untrained_module
from tiny_models import validation_of

from folio.config.run import RunConfig
from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.objectives.losses import batch_loss
from folio.objectives.metrics import metrics_from_sums, token_sums
from folio.optim.optimizers import set_learning_rate
from folio.training.module import LanguageModel
from folio.training.running_means import RunningMeans

ENCODER = ("model.family=encoder", "objective=masked_lm")
ENCODER_DECODER = ("model.family=encoder_decoder", "objective=prefix_lm", "conditioning=hidden_cache")


BuildModule = Callable[..., LanguageModel]


@pytest.fixture
def build(compose: Callable[..., RunConfig]) -> BuildModule:
    return lambda *overrides, **changes: untrained_module(compose("model=debug", *overrides), **changes)


def random_batch(n_rows: int, seed: int = 0) -> Batch:
    tokens, targets = torch.randint(7, (2, n_rows, 6), generator=torch.Generator().manual_seed(seed))
    return Batch(tokens, targets, n_tokens=tokens.numel())


def prefixed_batch(n_rows: int, seed: int = 0) -> Batch:
    batch = random_batch(n_rows, seed)
    return batch._replace(prefix=batch.targets.flip(1), prefix_lengths=torch.arange(1, n_rows + 1))


def masked_batch(n_rows: int) -> Batch:
    """Return a batch whose first row has a target at every token, the others at one."""
    batch = random_batch(n_rows)
    batch.targets[1:, 1:] = IGNORE_INDEX
    return batch._replace(lengths=torch.full((n_rows,), 6))


def validate(module: LanguageModel, *loaders: list[Batch]) -> dict[str, float]:
    """Call the hooks of a validation in Lightning's order. Returns what is logged for other callbacks."""
    logged: dict[str, float] = {}
    module.trainer = SimpleNamespace(global_step=3)
    module.log = lambda name, value, logger: logged.update({name: value})  # type: ignore[method-assign, misc]
    module.eval()
    module.on_validation_epoch_start()
    for index, loader in enumerate(loaders):
        for batch_index, batch in enumerate(loader):
            more = (index,) if len(loaders) > 1 else ()  # Lightning numbers loaders only if there are several
            module.validation_step(batch, batch_index, *more)
    module.on_validation_epoch_end()
    return logged


def gradient_norm_after_clipping(module: LanguageModel) -> float:
    """Clip gradients of norm 5, and return their norm afterwards."""
    parameters = list(module.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    parameters[0].grad.view(-1)[0], parameters[1].grad.view(-1)[0] = 3.0, 4.0
    module.configure_gradient_clipping(module.configure_optimizers())
    return torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item()


def test_gradients_are_clipped_and_their_norm_before_is_kept(build: BuildModule) -> None:
    module = build("training.gradient_clip_norm=0.5")
    assert gradient_norm_after_clipping(module) == pytest.approx(0.5, rel=1e-4)
    assert module.gradient_norm == 5.0


@pytest.mark.parametrize("norm", ["null", "6.0"])
def test_gradients_below_the_norm_are_unchanged(norm: str, build: BuildModule) -> None:
    module = build(f"training.gradient_clip_norm={norm}")
    assert gradient_norm_after_clipping(module) == 5.0
    assert module.gradient_norm == 5.0


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-3 / 3), (2, 1e-3)])
def test_all_parameter_groups_get_the_learning_rate_of_the_schedule(step: int, rate: float, build: BuildModule) -> None:
    module = build("optimizer.learning_rate=1e-3", "schedule.warmup_steps=2")
    module.trainer = SimpleNamespace(global_step=step)
    optimizer = module.configure_optimizers()
    set_learning_rate(optimizer, module.learning_rate)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])


def test_noam_sets_the_learning_rate_from_the_width_of_the_model(build: BuildModule) -> None:
    module = build("schedule=noam", "schedule.warmup_steps=4", "optimizer.learning_rate=7", "optimizer=muon")
    module.trainer = SimpleNamespace(global_step=15)
    optimizer = module.configure_optimizers()
    set_learning_rate(optimizer, module.learning_rate)
    rate = module.config.model.d_model**-0.5 / 4  # step 16
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate] * 3)


def test_a_validation_is_the_mean_over_all_targets_of_all_its_batches(build: BuildModule) -> None:
    module, batches = build(), [random_batch(4, seed=1), random_batch(1, seed=2)]
    logged = validate(module, batches)
    assert module.val_metrics == metrics_from_sums(sum(token_sums(module.model, batch) for batch in batches), None)
    assert logged == {f"val/{name}": value for name, value in module.val_metrics.items()}
    again = validate(module, batches)
    assert again == logged, "a second validation must not count the first"


def test_the_second_loader_has_the_shuffled_prefixes(build: BuildModule) -> None:
    module, own, others = build(*ENCODER_DECODER), prefixed_batch(4), prefixed_batch(4)
    others = others._replace(prefix=others.prefix.roll(1, dims=0))
    validate(module, [own], [others])
    right, shuffled = (metrics_from_sums(token_sums(module.model, batch), None) for batch in (own, others))
    assert module.val_metrics == {**right, "shuffled_prefix_loss_nats": shuffled["loss_nats"]}
    assert right["loss_nats"] != shuffled["loss_nats"]


def test_a_baseline_is_logged_with_each_validation(build: BuildModule) -> None:
    baseline = {"unigram_loss_nats": 2.5, "unigram_accuracy": 0.1}
    module = build(*ENCODER, validation=validation_of(baseline=baseline))
    logged = validate(module, [masked_batch(3)])
    assert logged.keys() == {f"val/{name}" for name in ("loss_nats", "perplexity", "accuracy", *baseline)}
    assert module.val_metrics.items() >= baseline.items()


def test_micro_batches_with_their_weights_take_the_step_of_the_whole_batch(
    build: BuildModule,
) -> None:
    """6 of 8 targets are in the first row: without weights the others would count three times as much."""
    module, whole = build(*ENCODER), masked_batch(3)

    def part(rows: slice, n_targets: int) -> Batch:
        tensors = {name: getattr(whole, name)[rows] for name in ("tokens", "targets", "lengths")}
        return whole._replace(**tensors, weight=n_targets * 2 / 8)

    module.training_step(whole).backward()
    gradients = [parameter.grad for parameter in module.model.parameters()]
    means = module.train_means.compute_and_reset()
    module.zero_grad()
    for batch in (part(slice(0, 1), 6), part(slice(1, 3), 2)):
        (module.training_step(batch) / 2).backward()  # Lightning divides by the number of micro-batches
    torch.testing.assert_close([parameter.grad for parameter in module.model.parameters()], gradients)
    assert module.train_means.compute_and_reset() == pytest.approx(means)
    assert means == pytest.approx([value.item() for value in batch_loss(module.model, whole)])


def test_running_means_are_over_the_steps_since_the_last_call() -> None:
    means = RunningMeans()
    for loss, accuracy in [(3.0, 0.25), (5.0, 0.75)]:
        means.update(torch.tensor(loss, requires_grad=True), torch.tensor(accuracy))
    assert means.compute_and_reset() == (4.0, 0.5)
    means.update(torch.tensor(1.0), torch.tensor(0.0))
    assert means.compute_and_reset() == (1.0, 0.0)


def test_running_means_continue_from_a_checkpoint() -> None:
    before, after = RunningMeans(), RunningMeans()
    before.update(torch.tensor(3.0), torch.tensor(0.5))
    after.load_state_dict(before.state_dict())
    after.update(torch.tensor(1.0), torch.tensor(0.0))
    assert after.compute_and_reset() == (2.0, 0.25)


def test_running_means_continue_on_the_device_of_the_losses() -> None:
    """A checkpoint is loaded on the CPU. The meta device, like a GPU, refuses to mix with it."""
    before, after = RunningMeans(), RunningMeans()
    before.update(torch.zeros(()), torch.zeros(()))
    after.load_state_dict(before.state_dict())
    after.update(torch.zeros((), device="meta"), torch.zeros((), device="meta"))
    assert after.state_dict()["sums"].device.type == "meta"
