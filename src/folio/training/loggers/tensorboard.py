"""Metrics, texts, figures and hyperparameters for TensorBoard."""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from folio.config.run import RunConfig
from folio.figures.plots import pixels
from folio.training.loggers.base import Outcome, RunLogger
from folio.training.loggers.hparams import log_end, log_start

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COMBINED_CHARTS = {
    title: ["Multiline", [f"train/{name}", f"val/{name}"]]
    for title, name in (("loss in nats", "loss_nats"), ("bits per byte", "bits_per_byte"), ("accuracy", "accuracy"))
}
"""Charts of the Custom Scalars tab with training and validation in one, which the other tabs show separately."""


class TensorBoardLogger(RunLogger):
    """Writes to the folder tensorboard/, the same one in all parts of a resumed run.

    Lightning's TensorBoardLogger would write hparams.yaml, and log hyperparameters in a form that the HParams tab
    cannot compare.
    """

    shows_figures = True

    @property
    def event_folder(self) -> Path:
        """The folder of the event files."""
        return self.folder / "tensorboard"

    @cached_property
    def experiment(self) -> "SummaryWriter":
        """The SummaryWriter. TensorBoard hides what it has after resumed_at.

        Every part of a run writes a start event (purge_step), the first one too: TensorBoard's own reader takes the
        first start event of a run for its beginning, whatever its step, and only those after it for a restart.
        """
        from torch.utils.tensorboard import SummaryWriter

        purge_step = 0 if self.resumed_at is None else self.resumed_at + 1
        threading.excepthook = _ignore_writer_errors
        writer = SummaryWriter(self.event_folder, purge_step=purge_step)
        if self.resumed_at is None:  # a resumed run has done it
            writer.add_custom_scalars({"training and validation": COMBINED_CHARTS})
        return writer

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        log_start(self.event_folder, config.model_dump(), compared, resumed=self.resumed_at is not None)
        if config.tags or config.notes:
            notes = "".join(f"\n    {line}" for line in (config.notes or "").splitlines())  # as plain text
            self.log_text("notes", f"tags: {', '.join(config.tags) or 'none'}\n{notes}", self.resumed_at or 0)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self.experiment.add_text(name, text, step)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Show a figure in the Images tab. The writer's own `add_figure` would use pyplot.

        Time Series sorts all groups by name and opens at the first one: `train` must come before `visuals`.
        """
        self.experiment.add_image(f"visuals/{name}", pixels(figure), step, dataformats="HWC")

    def flush(self) -> None:
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Close the event file. Lightning calls it at the end of `fit`, whatever its outcome."""
        self.experiment.close()

    def end_run(self, outcome: Outcome) -> None:
        if outcome != "stopped":
            log_end(self.event_folder, succeeded=outcome == "finished")


def _ignore_writer_errors(args: threading.ExceptHookArgs) -> None:
    """Print no OSError of TensorBoard's writer thread, which raises it again where the run calls the writer."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(args)
