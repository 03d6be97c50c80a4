"""Figures of a run, for example for TensorBoard's Images tab; `scripts/figures.py` saves the same ones as files."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from folio.figures.attention import attention_figure
from folio.figures.inspection import attention_weights, has_trained_positions, positional_tables
from folio.figures.labeled_prompt import label_prompt
from folio.figures.plots import positional_figure, schedule_figure
from folio.models import Model
from folio.optim.schedules import learning_rates
from folio.runtime.console import log
from folio.runtime.errors import FolioError
from folio.training.callbacks.base import validated_weights, whole_model
from folio.training.callbacks.samples import SampleWriter
from folio.training.loggers.base import RunLogger, run_loggers
from folio.training.module import LanguageModel


class FigureLogger(Callback):
    """Draws schedule and positions before the first step; attention, and trained positions again, after the last one.

    Attention is drawn for the prompt of the samples. An encoder-decoder reads it as its prefix, followed by its sample.
    """

    def __init__(self, samples: SampleWriter, max_steps: int) -> None:
        self.samples = samples
        self.max_steps = max_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        loggers = _figure_loggers(trainer)
        if trainer.global_step > 0:  # a resumed run has drawn them
            return
        model = whole_model(trainer, pl_module)
        if model is None or not loggers:
            return
        figure = schedule_figure(learning_rates(pl_module.config), "Learning rate")
        for logger in loggers:
            logger.log_figure("schedule", figure, 0)
        self._log_positions(loggers, model, 0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        loggers, step = _figure_loggers(trainer), trainer.global_step
        if not (step == self.max_steps or trainer.should_stop):
            return
        with validated_weights(trainer, pl_module):
            model = whole_model(trainer, pl_module)
            if model is None or not loggers:
                return
            self._log_attention(loggers, model, step)
            if has_trained_positions(model):
                self._log_positions(loggers, model, step)

    def _log_positions(self, loggers: list[RunLogger], model: Model, step: int) -> None:
        encoding = model.config.positional_encoding
        for part, table in positional_tables(model).items():
            title = f"Positional encoding: {encoding}"
            figure = positional_figure(table, encoding, f"{title}, {part}" if part else title)
            for logger in loggers:
                logger.log_figure(f"positional_encoding_{part}" if part else "positional_encoding", figure, step)

    def _log_attention(self, loggers: list[RunLogger], model: Model, step: int) -> None:
        begin = self.samples.config.prompt
        prompt, prefix = begin, None
        if model.config.family == "encoder_decoder":
            prompt, prefix = self.samples.latest.removeprefix(begin), begin
        try:
            labeled = label_prompt(model.config, self.samples.tokenizer, prompt, prefix)
        except FolioError as error:
            log.info(f"no figure of attention: {error}")
            return
        # Compiled blocks would be compiled again for the length of the prompt.
        with torch.compiler.set_stance("force_eager"):
            weights = attention_weights(model, labeled)
        rows, columns = labeled.row_labels, labeled.column_labels
        figure = attention_figure(weights, rows, columns, f"Attention after step {step:,}", divider=labeled.divider)
        for logger in loggers:
            logger.log_figure("attention", figure, step)


def _figure_loggers(trainer: L.Trainer) -> list[RunLogger]:
    """Return the loggers of this process that show figures: none, but in the first process."""
    return [logger for logger in run_loggers(trainer) if logger.shows_figures]
