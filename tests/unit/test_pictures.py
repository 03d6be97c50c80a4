"""TensorBoard gets each picture once, and training does not notice."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tiny_models import CPU, validation_of

from folio.config.callbacks import SamplesConfig
from folio.config.run import RunConfig
from folio.data.tokenizers.char import CharTokenizer
from folio.models import build_model
from folio.runs.checkpoints import CheckpointMetadata
from folio.training.callbacks.figures import FigureLogger
from folio.training.callbacks.samples import SampleWriter
from folio.training.module import LanguageModel

TOKENIZER = CharTokenizer("abcdefg")
ENCODER_DECODER = (
    "model=encoder_decoder_small",
    "objective=prefix_lm",
    "conditioning=hidden_cache",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_model=8",
)


class Board:
    """What the Images tab would hold."""

    def __init__(self) -> None:
        self.images: list[tuple[str, int]] = []

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        assert image.shape[2] == 3
        self.images.append((tag.removeprefix("visuals/"), step))


class BoardLogger(TensorBoardLogger):
    board = Board()

    @property
    def experiment(self) -> Any:
        return self.board


@pytest.fixture
def logger(tmp_path: Path) -> BoardLogger:
    logger = BoardLogger(tmp_path)
    logger.board = Board()
    return logger


@pytest.fixture
def module_of(compose: Callable[..., RunConfig]) -> Callable[..., LanguageModel]:
    def made(*overrides: str) -> LanguageModel:
        config = compose("tokenizer=char", *(overrides or ("model=debug",)))
        model = build_model(config.transformer_config(TOKENIZER.vocab_size)).eval()
        metadata = CheckpointMetadata(config.model_dump(), model.config, TOKENIZER)
        return LanguageModel(model=model, config=config, metadata=metadata, device=CPU, validation=validation_of())

    return made


def trainer_at(step: int, logger: BoardLogger, *, is_global_zero: bool = True) -> Any:
    return SimpleNamespace(global_step=step, loggers=[logger], is_global_zero=is_global_zero, strategy=None)


def pictures(tmp_path: Path, prompt: str = "abc", latest: str = "") -> FigureLogger:
    config = SamplesConfig(prompt=prompt, max_new_tokens=0, temperature=0.8, top_k=None)
    samples = SampleWriter(config, TOKENIZER, seed=1, file=tmp_path / "samples.md")
    samples.latest = latest
    return FigureLogger(samples, max_steps=10)


def test_a_run_begins_with_schedule_and_positions_and_ends_with_attention(
    tmp_path: Path, logger: BoardLogger, module_of: Callable[..., LanguageModel]
) -> None:
    module, callback = module_of(), pictures(tmp_path)
    callback.on_train_start(trainer_at(0, logger), module)
    assert logger.board.images == [("schedule", 0), ("positional_encoding", 0)]
    for step in (5, 10):
        callback.on_validation_end(trainer_at(step, logger), module)
    assert logger.board.images[2:] == [("attention", 10), ("positional_encoding", 10)]


def test_positions_that_are_not_trained_are_drawn_once(
    tmp_path: Path, logger: BoardLogger, module_of: Callable[..., LanguageModel]
) -> None:
    module, callback = module_of("model=debug", "positional_encoding=rotary"), pictures(tmp_path)
    callback.on_train_start(trainer_at(0, logger), module)
    callback.on_validation_end(trainer_at(10, logger), module)
    assert [tag for tag, _ in logger.board.images] == ["schedule", "positional_encoding", "attention"]


def test_an_encoder_decoder_reads_the_prompt_of_samples_as_its_prefix(
    tmp_path: Path, logger: BoardLogger, module_of: Callable[..., LanguageModel]
) -> None:
    pictures(tmp_path, "abc", latest="abcdefg").on_validation_end(trainer_at(10, logger), module_of(*ENCODER_DECODER))
    assert [tag for tag, _ in logger.board.images] == [
        "attention",
        "positional_encoding_encoder",
        "positional_encoding_decoder",
    ]


@pytest.mark.parametrize(("step", "is_global_zero"), [(5, True), (0, False)])
def test_a_run_that_goes_on_and_a_process_that_is_not_the_first_draw_no_beginning(
    step: int, is_global_zero: bool, tmp_path: Path, logger: BoardLogger, module_of: Callable[..., LanguageModel]
) -> None:
    trainer = trainer_at(step, logger, is_global_zero=is_global_zero)
    pictures(tmp_path).on_train_start(trainer, module_of())
    assert logger.board.images == []


def test_drawing_leaves_the_generator_of_training_alone(
    tmp_path: Path, logger: BoardLogger, module_of: Callable[..., LanguageModel]
) -> None:
    module, callback = module_of(), pictures(tmp_path)
    before = torch.get_rng_state()
    callback.on_train_start(trainer_at(0, logger), module)
    callback.on_validation_end(trainer_at(10, logger), module)
    assert torch.equal(before, torch.get_rng_state())
    assert logger.board.images


def test_a_prompt_that_cannot_be_read_costs_the_picture_and_not_the_run(
    tmp_path: Path, logger: BoardLogger, module_of: Callable[..., LanguageModel]
) -> None:
    pictures(tmp_path, prompt="xyz").on_validation_end(trainer_at(10, logger), module_of())
    assert [tag for tag, _ in logger.board.images] == ["positional_encoding"]
