"""What happens around the steps happens when it should, and a stop loses nothing."""

import io
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import CPU, validation_of

from folio.config.callbacks import SamplesConfig
from folio.config.run import RunConfig
from folio.config.training import TrainingConfig
from folio.data.batches.batch import Batch
from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers.registry import CharTokenizer
from folio.models import GPT, build_model
from folio.runs.checkpoints import CheckpointMetadata
from folio.runtime.errors import FolioError
from folio.runtime.signals import Interrupted, stop_signals
from folio.training.callbacks import progress, throughput
from folio.training.callbacks.checkpoints import CheckpointCallback
from folio.training.callbacks.metrics import MetricLogger
from folio.training.callbacks.progress import DurationEstimate, ProgressBar
from folio.training.callbacks.samples import SampleWriter
from folio.training.callbacks.stopping import StopOnSignal, ValidateAtEnd
from folio.training.callbacks.throughput import Throughput, duration
from folio.training.module import LanguageModel
from folio.training.trainer_state import ends_step

TOKENIZER = CharTokenizer("abcdefg")


class Clock:
    """Seconds that pass only when they are told to."""

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
    """What the run says."""
    lines: list[str] = []
    monkeypatch.setattr(progress.log, "info", lines.append)
    return lines


@pytest.fixture
def module(compose: Callable[..., RunConfig]) -> LanguageModel:
    config = compose("model=debug", "tokenizer=char")
    torch.manual_seed(0)
    model = GPT(config.transformer_config(TOKENIZER.vocab_size)).eval()
    metadata = CheckpointMetadata(config.model_dump(), model.config, TOKENIZER)
    return LanguageModel(model=model, config=config, metadata=metadata, device=CPU, validation=validation_of())


def training(**changes: int) -> TrainingConfig:
    every_step = {"validate_every_steps": 1, "log_every_steps": 1, "checkpoint_every_steps": 1}
    of_nan = {"on_nan": "stop", "max_nan_steps": 10}
    values: dict[str, Any] = {"max_steps": 10, "batch_size": 1, **of_nan, **every_step, **changes}
    return TrainingConfig(micro_batch_size=None, gradient_clip_norm=None, **values)


def fake_trainer(**changes: Any) -> SimpleNamespace:
    """As much of Lightning's Trainer as callbacks look at; `saved` lists (step, file)."""
    trainer = SimpleNamespace(global_step=0, accumulate_grad_batches=1, should_stop=False, loggers=[], saved=[])
    trainer.is_global_zero, trainer.strategy = True, None
    trainer.save_checkpoint = lambda path: trainer.saved.append((trainer.global_step, path.name))
    vars(trainer).update(changes)
    return trainer


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
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_step_ends_with_its_last_micro_batch() -> None:
    trainer = fake_trainer(accumulate_grad_batches=3)
    assert [ends_step(trainer, index) for index in range(7)] == [False, False, True, False, False, True, False]


def read(pace: Throughput, module: LanguageModel, *tokens_of_batches: int) -> None:
    """Let training begin with batches of so many tokens."""
    for n_tokens in tokens_of_batches:
        empty = torch.empty(0, dtype=torch.int64)
        pace.on_train_batch_start(fake_trainer(), module, Batch(empty, empty, n_tokens), 0)


def test_pace_leaves_validation_out_of_the_speed_and_in_the_time_left(clock: Clock, module: LanguageModel) -> None:
    trainer = fake_trainer()
    pace = Throughput()
    clock.now += 50  # building the trainer is no training
    pace.on_train_start(trainer, module)
    read(pace, module, 100, 100, 150, 50)
    clock.now += 2
    assert pace.tokens_per_s() == pytest.approx(200)
    pace.on_validation_start(trainer, module)
    clock.now += 10
    pace.on_validation_end(trainer, module)
    read(pace, module, 120, 80)
    clock.now += 2
    assert pace.tokens_per_s() == pytest.approx(100)  # 200 tokens in 2 s
    assert pace.mean_tokens_per_s() == pytest.approx(150)  # 600 tokens in 4 s
    assert pace.n_tokens == 600
    assert pace.elapsed_s == pytest.approx(14)
    assert pace.remaining_s(step=6, max_steps=9) == pytest.approx(7)


def test_pace_counts_all_parts_of_a_run_but_not_the_time_between(clock: Clock, module: LanguageModel) -> None:
    first = Throughput()
    first.on_train_start(fake_trainer(), module)
    read(first, module, 600)
    clock.now += 6
    second = Throughput()
    second.load_state_dict(first.state_dict())
    clock.now += 1000
    second.on_train_start(fake_trainer(global_step=6), module)
    read(second, module, 100, 100)
    clock.now += 1
    assert second.tokens_per_s() == pytest.approx(200)
    assert second.mean_tokens_per_s() == pytest.approx(800 / 7)
    assert second.n_tokens == 800
    assert second.elapsed_s == pytest.approx(7)
    assert second.remaining_s(step=8, max_steps=10) == pytest.approx(1)  # at the pace of this part


class ListLogger:
    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.setdefault(step, {}).update(metrics)


def test_curves_have_a_point_every_few_steps_and_at_the_last(
    clock: Clock, module: LanguageModel, info_of: Callable[..., TokenFileInfo]
) -> None:
    logger = ListLogger()
    trainer = fake_trainer(loggers=[logger], accumulate_grad_batches=2)
    module.trainer, module.gradient_norm = trainer, torch.tensor(0.5)
    pace = Throughput()
    curves = MetricLogger(pace, training(max_steps=7, log_every_steps=3), info_of(n_tokens=10, n_bytes=20))
    for micro_batch in range(14):
        read(pace, module, 4)
        curves.on_train_batch_start(trainer, module, None, micro_batch)
        module.train_means.add(torch.tensor(float(micro_batch)), torch.tensor(0.25))
        trainer.global_step = (micro_batch + 1) // 2
        clock.now += 1
        curves.on_train_batch_end(trainer, module, None, None, micro_batch)
    assert {step: point["train/loss_nats"] for step, point in logger.logged.items()} == {3: 2.5, 6: 8.5, 7: 12.5}
    assert logger.logged[6] == pytest.approx(
        {
            "train/loss_nats": 8.5,  # the mean of micro batches 6 to 11
            "train/perplexity": torch.tensor(8.5).exp().item(),
            "train/bits_per_byte": 8.5 / 0.693147 * 0.5,
            "train/accuracy": 0.25,
            "train/learning_rate": logger.logged[6]["train/learning_rate"],
            "train/gradient_norm": 0.5,
            "train/tokens_per_s": 4.0,  # 8 tokens in 2 s
        },
        rel=1e-5,
    )


def test_curves_show_the_rate_that_the_step_was_taken_at(module: LanguageModel) -> None:
    logger = ListLogger()
    trainer = fake_trainer(loggers=[logger])
    module.trainer, module.gradient_norm = trainer, torch.tensor(0.5)
    expected = module.learning_rate
    curves = MetricLogger(Throughput(), training(), train_info=None)
    curves.on_train_batch_start(trainer, module, None, 0)
    module.train_means.add(torch.tensor(1.0), torch.tensor(0.0))
    trainer.global_step = 1
    curves.on_train_batch_end(trainer, module, None, None, 0)
    assert logger.logged[1]["train/learning_rate"] == expected
    assert module.learning_rate != expected


def test_the_figures_of_each_validation_become_curves_and_a_line(module: LanguageModel, lines: list[str]) -> None:
    """Also those that only some objectives have."""
    logger = ListLogger()
    module.val = {"loss_nats": 1.5, "perplexity": 4.48, "accuracy": 0.4, "unigram_accuracy": 0.125}
    MetricLogger(Throughput(), training(), None).on_validation_end(
        fake_trainer(loggers=[logger], global_step=30), module
    )
    assert logger.logged == {
        30: {"val/loss_nats": 1.5, "val/perplexity": 4.48, "val/accuracy": 0.4, "val/unigram_accuracy": 0.125}
    }
    assert lines == ["step 30: val loss 1.5000 nats, perplexity 4.5, accuracy 0.400, unigram accuracy 0.125"]


def test_off_a_terminal_progress_is_a_line_now_and_then_and_at_the_end(
    clock: Clock, lines: list[str], module: LanguageModel
) -> None:
    trainer, pace = fake_trainer(), Throughput()
    curves = MetricLogger(pace, training(max_steps=6), train_info=None)
    bar = ProgressBar(Console(file=io.StringIO()), pace, curves, max_steps=6)
    pace.on_train_start(trainer, module)
    bar.on_train_start(trainer, module)
    for step in range(1, 7):
        read(pace, module, 100)
        clock.now += 4
        trainer.global_step = step
        bar.on_train_batch_end(trainer, module, None, None, step - 1)
    bar.on_train_end(trainer, module)
    assert lines == ["step 3/6: 25 tokens/s, 12 s left", "step 6/6: 25 tokens/s, 0 s left"]


def test_the_time_to_the_end_is_told_once_and_leaves_out_the_slow_first_step(
    clock: Clock, lines: list[str], module: LanguageModel
) -> None:
    trainer, estimate = fake_trainer(), DurationEstimate(max_steps=71)
    for step in range(1, 41):
        clock.now += 100 if step == 1 else 2
        trainer.global_step = step
        estimate.on_train_batch_end(trainer, module, None, None, step - 1)
    assert lines == ["2 s a step: about 2 min 0 s to finish, validation apart"]


def samples(tmp_path: Path, max_new_tokens: int = 20, prompt: str = "abc") -> SampleWriter:
    config = SamplesConfig(prompt=prompt, max_new_tokens=max_new_tokens, temperature=0.8, top_k=None)
    return SampleWriter(config, TOKENIZER, seed=1, file=tmp_path / "samples.md")


def test_each_validation_appends_a_text_to_the_samples(tmp_path: Path, module: LanguageModel) -> None:
    callback = samples(tmp_path)
    for step in (5, 10):
        callback.on_validation_end(fake_trainer(global_step=step), module)
    assert len(callback.latest) == 23
    assert (tmp_path / "samples.md").read_text() == "".join(
        f"## Step {step}\n\n    {callback.latest}\n\n" for step in (5, 10)
    )


def test_html_in_a_sample_is_text_in_markdown_and_in_tensorboard(
    tmp_path: Path, module: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TensorBoard's own reader; the same without the indent would be a picture and a heading."""
    with warnings.catch_warnings():  # of a package in it, which TensorBoard has a copy of
        warnings.simplefilter("ignore")
        from tensorboard.plugin_util import markdown_to_safe_html
    hostile = "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\r\n# A heading\n[a](javascript:alert(1))"
    callback, logger = samples(tmp_path), TensorBoardLogger(tmp_path, name="", version="")
    monkeypatch.setattr(callback, "_pieces", lambda _: iter([hostile]))
    callback.on_validation_end(fake_trainer(global_step=5, loggers=[logger]), module)
    logger.experiment.flush()
    (event,) = EventAccumulator(str(tmp_path)).Reload().Tensors("samples/text_summary")
    (text,) = event.tensor_proto.string_val
    shown = markdown_to_safe_html(text)
    assert "<h1>" in markdown_to_safe_html(hostile)
    assert re.findall(r"<[^>]*>", shown) == ["<pre>", "<code>", "</code>", "</pre>"]
    heading, *lines = (tmp_path / "samples.md").read_text().splitlines()
    assert heading == "## Step 5"
    assert all(line.startswith("    ") for line in lines if line)


def test_no_samples_are_written_where_none_are_wanted(tmp_path: Path, module: LanguageModel) -> None:
    samples(tmp_path, max_new_tokens=0).on_validation_end(fake_trainer(), module)
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
    callback = samples(tmp_path, prompt=prompt)
    module.model = build_model(replace(module.model.config, vocab_size=8, **changes)).eval()
    callback.on_fit_start(fake_trainer(), module)
    assert not (tmp_path / "samples.md").exists()
    callback.on_validation_end(fake_trainer(global_step=5), module)
    assert len(callback.latest) == n_characters
    assert callback.latest.startswith(prompt.partition("[")[0])


def test_a_prompt_that_a_model_cannot_write_from_is_refused_before_the_first_step(
    tmp_path: Path, module: LanguageModel
) -> None:
    module.model = build_model(replace(module.model.config, vocab_size=8, family="encoder"))
    with pytest.raises(FolioError, match=r"callbacks\.samples\.prompt: prompt='abc' has no \[MASK\]"):
        samples(tmp_path).on_fit_start(fake_trainer(), module)
    samples(tmp_path, max_new_tokens=0).on_fit_start(fake_trainer(), module)


def train(
    checkpoints: CheckpointCallback, trainer: SimpleNamespace, module: LanguageModel, losses: Iterator[float]
) -> None:
    """The hooks of a run in Lightning's order."""
    config = checkpoints.training
    for step in range(trainer.global_step + 1, config.max_steps + 1):
        trainer.global_step = step
        checkpoints.on_train_batch_end(trainer, module, None, None, step - 1)
        if step % config.validate_every_steps == 0 or step == config.max_steps:
            module.val = {"loss_nats": next(losses)}
            trainer.saved.append((step, "validation"))
            checkpoints.on_validation_end(trainer, module)


every = st.integers(1, 12)


def test_last_is_saved_once_whenever_due_and_after_the_validation_of_its_step(
    module: LanguageModel, tmp_path: Path
) -> None:
    @given(max_steps=st.integers(1, 40), validate_every=every, checkpoint_every=every)
    def holds(max_steps: int, validate_every: int, checkpoint_every: int) -> None:
        config = training(
            max_steps=max_steps, validate_every_steps=validate_every, checkpoint_every_steps=checkpoint_every
        )
        trainer = fake_trainer()
        train(CheckpointCallback(tmp_path, config), trainer, module, losses=iter([1.0] * max_steps))
        due = [step for step in range(1, max_steps + 1) if step % checkpoint_every == 0 or step == max_steps]
        assert [step for step, name in trainer.saved if name == "last.ckpt"] == due
        for step in due:
            of_step = [name for at, name in trainer.saved if at == step]
            assert of_step[-1] == "last.ckpt"

    holds()


def test_best_is_saved_at_each_new_lowest_validation_loss(module: LanguageModel, tmp_path: Path) -> None:
    trainer, losses = fake_trainer(), iter([3.0, 2.0, 2.5, 2.0, 1.5])
    checkpoints = CheckpointCallback(tmp_path, training(max_steps=5))
    train(checkpoints, trainer, module, losses)
    assert [step for step, name in trainer.saved if name == "best.ckpt"] == [1, 2, 5]
    assert (checkpoints.best_step, checkpoints.best_loss_nats) == (5, 1.5)


def test_best_is_saved_before_last_so_that_last_knows_it(module: LanguageModel, tmp_path: Path) -> None:
    trainer = fake_trainer()
    train(CheckpointCallback(tmp_path, training(max_steps=1)), trainer, module, iter([3.0]))
    assert trainer.saved == [(1, "validation"), (1, "best.ckpt"), (1, "last.ckpt")]


def test_kept_steps_are_saved_once_each_after_their_validation_and_before_last(
    module: LanguageModel, tmp_path: Path
) -> None:
    @given(max_steps=st.integers(1, 40), validate_every=every, checkpoint_every=every, keep_every=every)
    def holds(max_steps: int, validate_every: int, checkpoint_every: int, keep_every: int) -> None:
        config = training(
            max_steps=max_steps, validate_every_steps=validate_every, checkpoint_every_steps=checkpoint_every
        )
        trainer = fake_trainer()
        train(CheckpointCallback(tmp_path, config, keep_every), trainer, module, losses=iter([1.0] * max_steps))
        kept = range(keep_every, max_steps + 1, keep_every)
        saved = [(step, name) for step, name in trainer.saved if name.startswith("step=")]
        assert saved == [(step, f"step={step}.ckpt") for step in kept]
        for step in kept:
            of_step = [name for at, name in trainer.saved if at == step]
            order = ["validation", "best.ckpt", f"step={step}.ckpt", "last.ckpt"]
            assert of_step == [name for name in order if name in of_step]

    holds()


def test_no_step_is_kept_where_none_is_wanted(module: LanguageModel, tmp_path: Path) -> None:
    trainer = fake_trainer()
    train(CheckpointCallback(tmp_path, training(max_steps=4)), trainer, module, iter([1.0] * 4))
    assert {name for _, name in trainer.saved} == {"validation", "best.ckpt", "last.ckpt"}


def test_a_run_that_goes_on_keeps_a_best_that_is_still_the_best(module: LanguageModel, tmp_path: Path) -> None:
    first = CheckpointCallback(tmp_path, training(max_steps=2))
    train(first, fake_trainer(), module, iter([3.0, 2.0]))
    second, trainer = CheckpointCallback(tmp_path, training(max_steps=4)), fake_trainer(global_step=2)
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
    """Listening, as in the middle of a run."""
    callback = StopOnSignal(CheckpointCallback(tmp_path, training(validate_every_steps=3)))
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
    """A run that goes on from there would not make up for it."""
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


def test_a_signal_in_the_last_step_lets_the_run_end_by_itself(
    stop_on_signal: StopOnSignal, module: LanguageModel
) -> None:
    trainer = fake_trainer(global_step=10, should_stop=True)
    signal.raise_signal(signal.SIGINT)
    stop_on_signal.on_train_batch_end(trainer, module, None, None, 9)
    assert trainer.saved == []


def test_a_step_that_was_saved_after_its_validation_is_not_saved_again(module: LanguageModel, tmp_path: Path) -> None:
    trainer, checkpoints = fake_trainer(global_step=3), CheckpointCallback(tmp_path, training(validate_every_steps=3))
    module.val = {"loss_nats": 2.0}
    stop = StopOnSignal(checkpoints)
    with stop:
        signal.raise_signal(signal.SIGTERM)
        checkpoints.on_validation_end(trainer, module)
        with pytest.raises(Interrupted):
            stop.on_validation_end(trainer, module)
    assert trainer.saved == [(3, "best.ckpt"), (3, "last.ckpt")]


def test_signals_are_handled_as_before_once_the_run_is_over(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in stop_signals()]
    callback = StopOnSignal(CheckpointCallback(tmp_path, training()))
    with callback:
        assert [signal.getsignal(number) for number in stop_signals()] != before
    assert [signal.getsignal(number) for number in stop_signals()] == before
