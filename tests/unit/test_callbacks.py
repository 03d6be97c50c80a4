"""Callbacks that measure, log and show progress."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_trainer import ListLogger, fake_trainer, sample_writer, training_config, untrained_module
from rich.console import Console

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.data.token_file import TokenFileInfo
from folio.models import build_model
from folio.runtime.errors import FolioError
from folio.training.callbacks import progress, throughput
from folio.training.callbacks.base import ends_step
from folio.training.callbacks.checkpoints import CheckpointCallback
from folio.training.callbacks.metrics import MetricLogger
from folio.training.callbacks.progress import DurationEstimate, ProgressBar
from folio.training.callbacks.throughput import Throughput, format_duration
from folio.training.module import LanguageModel


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages of the run."""
    lines: list[str] = []
    monkeypatch.setattr(progress.log, "info", lines.append)
    return lines


@pytest.fixture
def module(compose: Callable[..., RunConfig]) -> LanguageModel:
    return untrained_module(compose("model=debug", "tokenizer=char"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (41.6, "42 s"),
        (59.7, "1 min 0 s"),
        (245, "4 min 5 s"),
        (3599.6, "1 h 0 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations_are_readable(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_a_step_ends_with_its_last_micro_batch() -> None:
    trainer = fake_trainer(accumulate_grad_batches=3)
    assert [ends_step(trainer, index) for index in range(7)] == [False, False, True, False, False, True, False]


def read_batches(measured: Throughput, module: LanguageModel, *n_tokens: int) -> None:
    """Start training steps with batches of so many tokens."""
    for number in n_tokens:
        empty = torch.empty(0, dtype=torch.int64)
        measured.on_train_batch_start(fake_trainer(), module, Batch(empty, empty, number), 0)


def test_validation_does_not_count_as_training_time_but_as_remaining_time(clock: Clock, module: LanguageModel) -> None:
    trainer = fake_trainer()
    measured = Throughput()
    clock.now += 50  # building the trainer is no training
    measured.on_train_start(trainer, module)
    read_batches(measured, module, 100, 100, 150, 50)
    clock.now += 2
    assert measured.tokens_per_s() == pytest.approx(200)
    measured.on_validation_start(trainer, module)
    clock.now += 10
    measured.on_validation_end(trainer, module)
    read_batches(measured, module, 120, 80)
    clock.now += 2
    assert measured.tokens_per_s() == pytest.approx(100)  # 200 tokens in 2 s
    assert measured.mean_tokens_per_s() == pytest.approx(150)  # 600 tokens in 4 s
    assert measured.n_tokens == 600
    assert measured.elapsed_s == pytest.approx(14)
    assert measured.remaining_s(step=6, max_steps=9) == pytest.approx(7)


def test_all_parts_of_a_run_are_counted_but_not_the_time_between(clock: Clock, module: LanguageModel) -> None:
    first = Throughput()
    first.on_train_start(fake_trainer(), module)
    read_batches(first, module, 600)
    clock.now += 6
    second = Throughput()
    second.load_state_dict(first.state_dict())
    clock.now += 1000
    second.on_train_start(fake_trainer(global_step=6), module)
    read_batches(second, module, 100, 100)
    clock.now += 1
    assert second.tokens_per_s() == pytest.approx(200)
    assert second.mean_tokens_per_s() == pytest.approx(800 / 7)
    assert second.n_tokens == 800
    assert second.elapsed_s == pytest.approx(7)
    assert second.remaining_s(step=8, max_steps=10) == pytest.approx(1)  # at the speed of this part


@pytest.mark.parametrize(
    ("key", "value"),
    [("elapsed_s", "1"), ("validation_s", None), ("n_tokens", 1.5), ("best_loss_nats", "low"), ("best_step", "3"),
     ("train_loss_nats", "low"), ("val", {"loss_nats": "low"}), ("val", 3), ("val_step", 1.0),
     ("recent_losses", ["a"])],
)  # fmt: skip
def test_a_state_of_another_type_is_refused_when_it_is_read_not_hours_later(
    key: str, value: object, tmp_path: Path
) -> None:
    training, measured = training_config(), Throughput()
    for callback in (measured, CheckpointCallback(tmp_path, training), MetricLogger(measured, training, None)):
        state = callback.state_dict()
        callback.load_state_dict(state)
        if key in state:
            with pytest.raises(ValueError, match=r"^its .* (is|are) "):
                callback.load_state_dict(state | {key: value})
            return
    pytest.fail(f"no callback stores {key}")


def test_metrics_are_logged_every_few_steps_and_at_the_last(
    clock: Clock, module: LanguageModel, info_of: Callable[..., TokenFileInfo]
) -> None:
    logger = ListLogger()
    trainer = fake_trainer(loggers=[logger], accumulate_grad_batches=2)
    module.trainer, module.gradient_norm = trainer, torch.tensor(0.5)
    measured = Throughput(flops_per_token=600.0, peak_flop_per_s=12_000.0)
    training = training_config(max_steps=7, log_every_steps=3)
    metrics = MetricLogger(measured, training, info_of(n_tokens=10, n_bytes=20))
    for micro_batch in range(14):
        read_batches(measured, module, 4)
        metrics.on_train_batch_start(trainer, module, None, micro_batch)
        module.train_means.update(torch.tensor(float(micro_batch)), torch.tensor(0.25))
        trainer.global_step = (micro_batch + 1) // 2
        clock.now += 1
        metrics.on_train_batch_end(trainer, module, None, None, micro_batch)
    assert {step: point["train/loss_nats"] for step, point in logger.metrics.items()} == {3: 2.5, 6: 8.5, 7: 12.5}
    assert logger.metrics[6] == pytest.approx(
        {
            "train/loss_nats": 8.5,  # the mean of micro-batches 6 to 11
            "train/perplexity": torch.tensor(8.5).exp().item(),
            "train/bits_per_byte": 8.5 / 0.693147 * 0.5,
            "train/accuracy": 0.25,
            "train/learning_rate": logger.metrics[6]["train/learning_rate"],
            "train/gradient_norm": 0.5,
            "train/tokens_per_s": 4.0,  # 8 tokens in 2 s
            "train/mfu": 0.2,
        },
        rel=1e-5,
    )


def test_the_logged_learning_rate_is_that_of_the_step(module: LanguageModel) -> None:
    logger = ListLogger()
    trainer = fake_trainer(loggers=[logger])
    module.trainer, module.gradient_norm = trainer, torch.tensor(0.5)
    expected = module.learning_rate
    metrics = MetricLogger(Throughput(), training_config(), train_info=None)
    metrics.on_train_batch_start(trainer, module, None, 0)
    module.train_means.update(torch.tensor(1.0), torch.tensor(0.0))
    trainer.global_step = 1
    metrics.on_train_batch_end(trainer, module, None, None, 0)
    assert logger.metrics[1]["train/learning_rate"] == expected
    assert module.learning_rate != expected


def test_each_validation_is_logged_and_printed(module: LanguageModel, lines: list[str]) -> None:
    """Metrics that only some objectives have are included."""
    logger = ListLogger()
    module.val_metrics = {"loss_nats": 1.5, "perplexity": 4.48, "accuracy": 0.4, "unigram_accuracy": 0.125}
    trainer = fake_trainer(loggers=[logger], global_step=30)
    MetricLogger(Throughput(), training_config(), None).on_validation_end(trainer, module)
    assert logger.metrics == {
        30: {"val/loss_nats": 1.5, "val/perplexity": 4.48, "val/accuracy": 0.4, "val/unigram_accuracy": 0.125}
    }
    assert lines == ["step 30: val loss 1.5000 nats, perplexity 4.5, accuracy 0.400, unigram accuracy 0.125"]


def test_without_a_terminal_progress_is_a_line_now_and_then_and_at_the_end(
    clock: Clock, lines: list[str], module: LanguageModel
) -> None:
    trainer, measured = fake_trainer(), Throughput()
    metrics = MetricLogger(measured, training_config(max_steps=6), train_info=None)
    bar = ProgressBar(Console(file=io.StringIO()), measured, metrics, max_steps=6)
    measured.on_train_start(trainer, module)
    bar.on_train_start(trainer, module)
    for step in range(1, 7):
        read_batches(measured, module, 100)
        clock.now += 4
        trainer.global_step = step
        bar.on_train_batch_end(trainer, module, None, None, step - 1)
    bar.on_train_end(trainer, module)
    assert lines == ["step 3/6: 25 tokens/s, MFU 0, 12 s left", "step 6/6: 25 tokens/s, MFU 0, 0 s left"]


def test_a_notebook_shows_a_bar_in_place(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, lines: list[str], module: LanguageModel
) -> None:
    shown: list[str] = []

    class Handle:
        """What IPython's display returns."""

        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        Handle().update(data, raw)
        return Handle()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    trainer, measured = fake_trainer(), Throughput()
    metrics = MetricLogger(measured, training_config(max_steps=2), train_info=None)
    bar = ProgressBar(Console(force_terminal=True), measured, metrics, max_steps=2)
    measured.on_train_start(trainer, module)
    bar.on_train_start(trainer, module)
    for step in (1, 2):
        read_batches(measured, module, 100)
        clock.now += 4
        trainer.global_step = step
        bar.on_train_batch_end(trainer, module, None, None, step - 1)
    bar.on_train_end(trainer, module)
    assert shown == [
        f"{'╌' * 40} 0/2 ",
        f"{'━' * 20}{'╌' * 20} 1/2 25 tokens/s, 4 s left",
        f"{'━' * 40} 2/2 25 tokens/s, 0 s left",
    ]
    assert lines == []


def test_the_duration_is_estimated_once_and_without_the_slow_first_step(
    clock: Clock, lines: list[str], module: LanguageModel
) -> None:
    trainer, estimate = fake_trainer(), DurationEstimate(max_steps=71)
    for step in range(1, 41):
        clock.now += 100 if step == 1 else 2
        trainer.global_step = step
        estimate.on_train_batch_end(trainer, module, None, None, step - 1)
    assert lines == ["2 s a step: about 2 min 0 s to finish, without validation"]


def test_each_validation_appends_a_sample(tmp_path: Path, module: LanguageModel) -> None:
    samples, logger = sample_writer(tmp_path), ListLogger()
    for step in (5, 10):
        samples.on_validation_end(fake_trainer(global_step=step, loggers=[logger]), module)
    assert len(samples.latest) == 23
    assert (tmp_path / "samples.md").read_text() == "".join(
        f"## Step {step}\n\n    {samples.latest}\n\n" for step in (5, 10)
    )
    assert logger.texts == [("samples", f"    {samples.latest}", step) for step in (5, 10)]


def test_max_new_tokens_of_zero_writes_no_samples(tmp_path: Path, module: LanguageModel) -> None:
    sample_writer(tmp_path, max_new_tokens=0).on_validation_end(fake_trainer(), module)
    assert not (tmp_path / "samples.md").exists()


@pytest.mark.parametrize(
    ("changes", "prompt", "n_characters"),
    [
        ({"family": "encoder"}, "a[MASK]c", 3),
        ({"family": "encoder_decoder", "conditioning": "hidden_cache"}, "abc", 23),
        ({"family": "encoder_decoder", "conditioning": "cross_attention"}, "abc", 23),
    ],
)
def test_models_of_other_families_write_samples_too(
    changes: dict[str, Any], prompt: str, n_characters: int, tmp_path: Path, module: LanguageModel
) -> None:
    samples = sample_writer(tmp_path, prompt=prompt)
    module.model = build_model(replace(module.model.config, vocab_size=8, **changes)).eval()
    samples.on_fit_start(fake_trainer(), module)
    assert not (tmp_path / "samples.md").exists()
    samples.on_validation_end(fake_trainer(global_step=5), module)
    assert len(samples.latest) == n_characters
    assert samples.latest.startswith(prompt.partition("[")[0])


def test_a_prompt_that_the_model_cannot_continue_is_refused_before_the_first_step(
    tmp_path: Path, module: LanguageModel
) -> None:
    module.model = build_model(replace(module.model.config, vocab_size=8, family="encoder"))
    with pytest.raises(FolioError, match=r"callbacks\.samples\.prompt: prompt='abc' has no \[MASK\]"):
        sample_writer(tmp_path).on_fit_start(fake_trainer(), module)
    sample_writer(tmp_path, max_new_tokens=0).on_fit_start(fake_trainer(), module)
