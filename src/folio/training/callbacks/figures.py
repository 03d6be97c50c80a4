"""Pictures of a run for TensorBoard's Images tab; `scripts/figures.py` draws the same ones as files."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from folio.figures.attention import attention_figure
from folio.figures.inspection import attention_weights, is_trained, positional_tables
from folio.figures.labelled_prompt import label_prompt
from folio.figures.plots import pixels, positional_figure, schedule_figure
from folio.optim.schedules import learning_rates
from folio.runtime.console import log
from folio.runtime.errors import FolioError
from folio.training.callbacks.samples import SampleWriter
from folio.training.module import LanguageModel
from folio.training.trainer_state import is_sharded


class FigureLogger(Callback):
    """Draws schedule and positions before the first step; attention, and positions that are trained, after the last.

    Attention is drawn for what samples begin with; an encoder-decoder reads that as its prefix, and continues it with
    its sample. Stands behind the checkpoints, which should not have to wait for it, and in front of the pace, of whose
    training time it is no part.
    """

    def __init__(self, samples: SampleWriter, max_steps: int) -> None:
        self.samples = samples
        self.max_steps = max_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        writers = tensorboard_writers(trainer)
        if not writers or trainer.global_step > 0:  # a run that goes on has drawn them
            return
        show(writers, "schedule", schedule_figure(learning_rates(pl_module.config), "Learning rate"), 0)
        self._show_positions(writers, pl_module, 0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        writers, step = tensorboard_writers(trainer), trainer.global_step
        if not writers or step < self.max_steps:
            return
        self._show_attention(writers, pl_module, step)
        if is_trained(pl_module.model):
            self._show_positions(writers, pl_module, step)

    def _show_positions(self, writers: list[Any], module: LanguageModel, step: int) -> None:
        encoding = module.model.config.positional_encoding
        for part, table in positional_tables(module.model).items():
            title = f"Positional encoding: {encoding}"
            figure = positional_figure(table, encoding, f"{title}, {part}" if part else title)
            show(writers, f"positional_encoding_{part}" if part else "positional_encoding", figure, step)

    def _show_attention(self, writers: list[Any], module: LanguageModel, step: int) -> None:
        model, begin = module.model, self.samples.config.prompt
        prompt, prefix = begin, None
        if model.config.family == "encoder_decoder":
            prompt, prefix = self.samples.latest.removeprefix(begin), begin
        try:
            labelled = label_prompt(model.config, self.samples.tokenizer, prompt, prefix)
        except FolioError as error:
            log.info(f"no picture of attention: {error}")
            return
        # Compiled blocks would be compiled again for the length of the prompt.
        with torch.compiler.set_stance("force_eager"):
            weights = attention_weights(model, labelled)
        rows, columns = labelled.row_labels, labelled.column_labels
        title = f"Attention after step {step:,}"
        show(writers, "attention", attention_figure(weights, rows, columns, title, divider=labelled.divider), step)


def tensorboard_writers(trainer: L.Trainer) -> list[Any]:
    """Those of this process: the first of a run writes for all, and none does where each holds a share of the model."""
    if not trainer.is_global_zero or is_sharded(trainer):
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def show(writers: list[Any], name: str, figure: Figure, step: int) -> None:
    """Enter a figure in the Images tab; `add_figure` would go through pyplot.

    Time Series sorts all groups by name and opens at the first: that is `train`, before `val` and `visuals`.
    """
    image = pixels(figure)
    for writer in writers:
        writer.add_image(f"visuals/{name}", image, step, dataformats="HWC")
