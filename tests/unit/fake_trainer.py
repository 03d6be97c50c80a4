"""Stand-ins for what callbacks use of a run: Lightning's Trainer, the config of the loop, the module, the loggers."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from matplotlib.figure import Figure
from tiny_models import CPU, validation_of

from folio.config.callbacks import SamplesConfig
from folio.config.run import RunConfig
from folio.config.training import TrainingConfig
from folio.data.tokenizers.char import CharTokenizer
from folio.models import build_model
from folio.runs.checkpoints import CheckpointMetadata
from folio.training.callbacks.samples import SampleWriter
from folio.training.loggers.base import RunLogger
from folio.training.module import LanguageModel

TOKENIZER = CharTokenizer("abcdefg")


def training_config(**changes: int) -> TrainingConfig:
    """Ten steps, with a log line, a validation and a checkpoint after each."""
    values: dict[str, Any] = {
        "max_steps": 10,
        "batch_size": 1,
        "micro_batch_size": None,
        "gradient_clip_norm": None,
        "validate_every_steps": 1,
        "log_every_steps": 1,
        "checkpoint_every_steps": 1,
        "on_nan": "stop",
        "max_nan_steps": 10,
        "loss_on": "all",
    }
    return TrainingConfig(**(values | changes))


def fake_trainer(**changes: Any) -> Any:
    """What callbacks use of Lightning's Trainer; `saved` lists (step, file)."""
    trainer = SimpleNamespace(global_step=0, accumulate_grad_batches=1, should_stop=False, is_global_zero=True)
    trainer.loggers, trainer.callbacks, trainer.saved = [], [], []
    trainer.callback_metrics, trainer.strategy = {}, None
    trainer.save_checkpoint = lambda path: trainer.saved.append((trainer.global_step, path.name))
    vars(trainer).update(changes)
    return trainer


def untrained_module(config: RunConfig, **changes: Any) -> LanguageModel:
    """A module with new weights, for texts of seven letters."""
    torch.manual_seed(0)
    model = build_model(config.transformer_config(TOKENIZER.vocab_size)).eval()
    metadata = CheckpointMetadata(config, model.config, TOKENIZER)
    arguments = {"device": CPU, "validation": validation_of(), **changes}
    return LanguageModel(model=model, config=config, metadata=metadata, **arguments).eval()


def sample_writer(tmp_path: Path, max_new_tokens: int = 20, prompt: str = "abc") -> SampleWriter:
    config = SamplesConfig(prompt=prompt, max_new_tokens=max_new_tokens, temperature=0.8, top_k=None)
    return SampleWriter(config, TOKENIZER, seed=1, file=tmp_path / "samples.md")


class ListLogger(RunLogger):
    """Keeps what is logged."""

    shows_figures = True

    def __init__(self) -> None:
        super().__init__()
        self.open("list", Path())
        self.metrics: dict[int, dict[str, float]] = {}
        self.texts: list[tuple[str, str, int]] = []
        self.figures: list[tuple[str, int]] = []
        self.calls: list[str] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.metrics.setdefault(step, {}).update(metrics)

    def log_text(self, name: str, text: str, step: int) -> None:
        self.texts.append((name, text, step))

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        assert figure.axes
        self.figures.append((name, step))

    def flush(self) -> None:
        self.calls.append("flush")
