"""Each figure is logged once, and training does not notice."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_trainer import ListLogger, fake_trainer, sample_writer, untrained_module

from folio.config.run import RunConfig
from folio.training.callbacks.figures import FigureLogger
from folio.training.loggers.base import RunLogger
from folio.training.module import LanguageModel

ENCODER_DECODER = (
    "model=encoder_decoder_small",
    "objective=prefix_lm",
    "conditioning=hidden_cache",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_model=8",
)

BuildModule = Callable[..., LanguageModel]


@pytest.fixture
def build_module(compose: Callable[..., RunConfig]) -> BuildModule:
    return lambda *overrides: untrained_module(compose("tokenizer=char", *(overrides or ("model=debug",))))


@pytest.fixture
def logger() -> ListLogger:
    return ListLogger()


def figure_logger(tmp_path: Path, prompt: str = "abc", latest: str = "") -> FigureLogger:
    samples = sample_writer(tmp_path, max_new_tokens=0, prompt=prompt)
    samples.latest = latest
    return FigureLogger(samples, max_steps=10)


def test_a_run_starts_with_schedule_and_positions_and_ends_with_attention(
    tmp_path: Path, logger: ListLogger, build_module: BuildModule
) -> None:
    module, callback = build_module(), figure_logger(tmp_path)
    callback.on_train_start(fake_trainer(loggers=[logger]), module)
    assert logger.figures == [("schedule", 0), ("positional_encoding", 0)]
    for step in (5, 10):
        callback.on_validation_end(fake_trainer(global_step=step, loggers=[logger]), module)
    assert logger.figures[2:] == [("attention", 10), ("positional_encoding", 10)]


def test_positions_that_are_not_trained_are_drawn_once(
    tmp_path: Path, logger: ListLogger, build_module: BuildModule
) -> None:
    module, callback = build_module("model=debug", "positional_encoding=rotary"), figure_logger(tmp_path)
    callback.on_train_start(fake_trainer(loggers=[logger]), module)
    callback.on_validation_end(fake_trainer(global_step=10, loggers=[logger]), module)
    assert [name for name, _ in logger.figures] == ["schedule", "positional_encoding", "attention"]


def test_an_encoder_decoder_reads_the_prompt_of_the_samples_as_its_prefix(
    tmp_path: Path, logger: ListLogger, build_module: BuildModule
) -> None:
    callback = figure_logger(tmp_path, "abc", latest="abcdefg")
    callback.on_validation_end(fake_trainer(global_step=10, loggers=[logger]), build_module(*ENCODER_DECODER))
    assert [name for name, _ in logger.figures] == [
        "attention",
        "positional_encoding_encoder",
        "positional_encoding_decoder",
    ]


@pytest.mark.parametrize(("step", "is_global_zero"), [(5, True), (0, False)])
def test_a_resumed_run_and_other_ranks_draw_nothing_at_the_start(
    step: int, is_global_zero: bool, tmp_path: Path, logger: ListLogger, build_module: BuildModule
) -> None:
    trainer = fake_trainer(global_step=step, loggers=[logger], is_global_zero=is_global_zero)
    figure_logger(tmp_path).on_train_start(trainer, build_module())
    assert logger.figures == []


def test_nothing_is_drawn_for_a_logger_without_figures(
    tmp_path: Path, build_module: BuildModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ListLogger, "shows_figures", RunLogger.shows_figures)
    logger = ListLogger()
    callback = figure_logger(tmp_path)
    callback.on_train_start(fake_trainer(loggers=[logger]), build_module())
    callback.on_validation_end(fake_trainer(global_step=10, loggers=[logger]), build_module())
    assert logger.figures == []


def test_drawing_leaves_the_generator_of_training_alone(
    tmp_path: Path, logger: ListLogger, build_module: BuildModule
) -> None:
    module, callback = build_module(), figure_logger(tmp_path)
    before = torch.get_rng_state()
    callback.on_train_start(fake_trainer(loggers=[logger]), module)
    callback.on_validation_end(fake_trainer(global_step=10, loggers=[logger]), module)
    assert torch.equal(before, torch.get_rng_state())
    assert logger.figures


def test_a_prompt_that_cannot_be_encoded_costs_the_figure_and_not_the_run(
    tmp_path: Path, logger: ListLogger, build_module: BuildModule
) -> None:
    callback = figure_logger(tmp_path, prompt="xyz")
    callback.on_validation_end(fake_trainer(global_step=10, loggers=[logger]), build_module())
    assert [name for name, _ in logger.figures] == ["positional_encoding"]
