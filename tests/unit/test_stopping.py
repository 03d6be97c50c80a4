"""Checkpoints are saved when they should be, and a signal stops a run without losing anything."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import ListLogger, fake_trainer, training_config, untrained_module
from hypothesis import given
from hypothesis import strategies as st

from folio.config.run import RunConfig
from folio.runtime.signals import Interrupted, stop_signals
from folio.training.callbacks.checkpoints import CheckpointCallback
from folio.training.callbacks.stopping import StopOnSignal, ValidateAtEnd
from folio.training.module import LanguageModel

every = st.integers(1, 12)


@pytest.fixture
def module(compose: Callable[..., RunConfig]) -> LanguageModel:
    return untrained_module(compose("model=debug", "tokenizer=char"))


def train(checkpoints: CheckpointCallback, trainer: Any, module: LanguageModel, losses: Iterator[float]) -> None:
    """Call the hooks of a run in Lightning's order."""
    training = checkpoints.training
    for step in range(trainer.global_step + 1, training.max_steps + 1):
        trainer.global_step = step
        checkpoints.on_train_batch_end(trainer, module, None, None, step - 1)
        if step % training.validate_every_steps == 0 or step == training.max_steps:
            module.val_metrics = {"loss_nats": next(losses)}
            trainer.saved.append((step, "validation"))
            checkpoints.on_validation_end(trainer, module)


def test_last_is_saved_once_whenever_due_and_after_the_validation_of_its_step(
    module: LanguageModel, tmp_path: Path
) -> None:
    @given(max_steps=st.integers(1, 40), validate_every=every, checkpoint_every=every)
    def holds(max_steps: int, validate_every: int, checkpoint_every: int) -> None:
        training = training_config(
            max_steps=max_steps, validate_every_steps=validate_every, checkpoint_every_steps=checkpoint_every
        )
        trainer = fake_trainer()
        train(CheckpointCallback(tmp_path, training), trainer, module, losses=iter([1.0] * max_steps))
        due = [step for step in range(1, max_steps + 1) if step % checkpoint_every == 0 or step == max_steps]
        assert [step for step, name in trainer.saved if name == "last.ckpt"] == due
        for step in due:
            of_step = [name for at, name in trainer.saved if at == step]
            assert of_step[-1] == "last.ckpt"

    holds()


def test_best_is_saved_at_each_new_lowest_validation_loss(module: LanguageModel, tmp_path: Path) -> None:
    trainer, losses = fake_trainer(), iter([3.0, 2.0, 2.5, 2.0, 1.5])
    checkpoints = CheckpointCallback(tmp_path, training_config(max_steps=5))
    train(checkpoints, trainer, module, losses)
    assert [step for step, name in trainer.saved if name == "best.ckpt"] == [1, 2, 5]
    assert (checkpoints.best_step, checkpoints.best_loss_nats) == (5, 1.5)


def test_best_is_saved_before_last_so_that_last_holds_its_loss(module: LanguageModel, tmp_path: Path) -> None:
    trainer = fake_trainer()
    train(CheckpointCallback(tmp_path, training_config(max_steps=1)), trainer, module, iter([3.0]))
    assert trainer.saved == [(1, "validation"), (1, "best.ckpt"), (1, "last.ckpt")]


def test_loggers_are_flushed_before_each_checkpoint(module: LanguageModel, tmp_path: Path) -> None:
    logger = ListLogger()
    trainer = fake_trainer(loggers=[logger], global_step=1)
    trainer.save_checkpoint = lambda path: logger.calls.append(path.name)
    CheckpointCallback(tmp_path, training_config()).save_last(trainer)
    assert logger.calls == ["flush", "last.ckpt"]


def test_kept_steps_are_saved_once_each_after_their_validation_and_before_last(
    module: LanguageModel, tmp_path: Path
) -> None:
    @given(max_steps=st.integers(1, 40), validate_every=every, checkpoint_every=every, keep_every=every)
    def holds(max_steps: int, validate_every: int, checkpoint_every: int, keep_every: int) -> None:
        training = training_config(
            max_steps=max_steps, validate_every_steps=validate_every, checkpoint_every_steps=checkpoint_every
        )
        trainer = fake_trainer()
        train(CheckpointCallback(tmp_path, training, keep_every), trainer, module, losses=iter([1.0] * max_steps))
        kept = range(keep_every, max_steps + 1, keep_every)
        saved = [(step, name) for step, name in trainer.saved if name.startswith("step=")]
        assert saved == [(step, f"step={step}.ckpt") for step in kept]
        for step in kept:
            of_step = [name for at, name in trainer.saved if at == step]
            order = ["validation", "best.ckpt", f"step={step}.ckpt", "last.ckpt"]
            assert of_step == [name for name in order if name in of_step]

    holds()


def test_kept_epochs_are_saved_at_the_step_that_completes_them(module: LanguageModel, tmp_path: Path) -> None:
    @given(max_steps=st.integers(1, 40), keep_every=every, tokens_per_step=st.integers(1, 30))
    def holds(max_steps: int, keep_every: int, tokens_per_step: int) -> None:
        trainer, training = fake_trainer(), training_config(max_steps=max_steps)
        callback = CheckpointCallback(tmp_path, training, None, keep_every, lambda step: step * tokens_per_step // 10)
        train(callback, trainer, module, losses=iter([1.0] * max_steps))
        saved = {name: step for step, name in trainer.saved if name.startswith("epoch=")}
        assert len(saved) == len([name for _, name in trainer.saved if name.startswith("epoch=")])
        for name, step in saved.items():
            epoch = int(name.removeprefix("epoch=").removesuffix(".ckpt"))
            assert epoch % keep_every == 0
            assert (step - 1) * tokens_per_step < 10 * epoch <= step * tokens_per_step
        if tokens_per_step <= 10 * keep_every:  # a step never skips an epoch that is kept
            assert len(saved) == max_steps * tokens_per_step // 10 // keep_every

    holds()


def test_by_default_no_other_checkpoints_are_kept(module: LanguageModel, tmp_path: Path) -> None:
    trainer = fake_trainer()
    train(CheckpointCallback(tmp_path, training_config(max_steps=4)), trainer, module, iter([1.0] * 4))
    assert {name for _, name in trainer.saved} == {"validation", "best.ckpt", "last.ckpt"}


def test_a_resumed_run_keeps_a_best_that_is_still_the_best(module: LanguageModel, tmp_path: Path) -> None:
    first = CheckpointCallback(tmp_path, training_config(max_steps=2))
    train(first, fake_trainer(), module, iter([3.0, 2.0]))
    second, trainer = CheckpointCallback(tmp_path, training_config(max_steps=4)), fake_trainer(global_step=2)
    second.load_state_dict(first.state_dict())
    train(second, trainer, module, iter([2.5, 1.0]))
    assert [step for step, name in trainer.saved if name == "best.ckpt"] == [4]


def test_the_last_step_stops_the_run_and_no_step_before(module: LanguageModel) -> None:
    callback = ValidateAtEnd(max_steps=3)
    stopping = []
    for step in (1, 2, 3):
        trainer = fake_trainer(global_step=step)
        callback.on_train_batch_end(trainer, module, None, None, step - 1)
        stopping.append(trainer.should_stop)
    assert stopping == [False, False, True]


@pytest.fixture
def stop_on_signal(tmp_path: Path) -> Iterator[StopOnSignal]:
    """The callback in the middle of a run, where every third step validates."""
    training = training_config(validate_every_steps=3)
    callback = StopOnSignal(CheckpointCallback(tmp_path, training), training)
    with callback:
        yield callback


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    number: signal.Signals, exit_code: int, stop_on_signal: StopOnSignal, module: LanguageModel
) -> None:
    trainer = fake_trainer(global_step=3, accumulate_grad_batches=2)
    stop_on_signal.on_train_batch_end(trainer, module, None, None, 5)
    signal.raise_signal(number)
    stop_on_signal.on_train_batch_end(trainer, module, None, None, 6)  # half a step
    assert trainer.saved == []
    trainer.global_step = 4
    with pytest.raises(Interrupted, match=number.name) as stopped:
        stop_on_signal.on_train_batch_end(trainer, module, None, None, 7)
    assert trainer.saved == [(4, "last.ckpt")]
    assert stopped.value.exit_code == exit_code


def test_a_step_that_validates_is_saved_after_its_validation(
    stop_on_signal: StopOnSignal, module: LanguageModel
) -> None:
    """A run resumed from there would not repeat the validation."""
    trainer = fake_trainer(global_step=3)
    signal.raise_signal(signal.SIGTERM)
    stop_on_signal.on_train_batch_end(trainer, module, None, None, 2)
    assert trainer.saved == []
    with pytest.raises(Interrupted):
        stop_on_signal.on_validation_end(trainer, module)
    assert trainer.saved == [(3, "last.ckpt")]


def test_a_second_signal_stops_at_once(stop_on_signal: StopOnSignal) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.at_once
    assert stopped.value.exit_code == 130


def test_a_signal_in_the_last_step_lets_the_run_end_normally(
    stop_on_signal: StopOnSignal, module: LanguageModel
) -> None:
    trainer = fake_trainer(global_step=10, should_stop=True)
    signal.raise_signal(signal.SIGINT)
    stop_on_signal.on_train_batch_end(trainer, module, None, None, 9)
    assert trainer.saved == []


def test_a_step_that_was_saved_after_its_validation_is_not_saved_again(module: LanguageModel, tmp_path: Path) -> None:
    training = training_config(validate_every_steps=3)
    trainer, checkpoints = fake_trainer(global_step=3), CheckpointCallback(tmp_path, training)
    module.val_metrics = {"loss_nats": 2.0}
    stop = StopOnSignal(checkpoints, training)
    with stop:
        signal.raise_signal(signal.SIGTERM)
        checkpoints.on_validation_end(trainer, module)
        with pytest.raises(Interrupted):
            stop.on_validation_end(trainer, module)
    assert trainer.saved == [(3, "best.ckpt"), (3, "last.ckpt")]


def test_the_previous_signal_handlers_are_restored(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in stop_signals()]
    with StopOnSignal(CheckpointCallback(tmp_path, training_config()), training_config()):
        assert [signal.getsignal(number) for number in stop_signals()] != before
    assert [signal.getsignal(number) for number in stop_signals()] == before
