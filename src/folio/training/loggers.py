"""Where the curves of a run go."""

import csv
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from folio.config import RunConfig
from folio.training.console import log

TOGETHER = {
    title: ["Multiline", [f"train/{name}", f"val/{name}"]]
    for title, name in (("loss in nats", "loss_nats"), ("bits per byte", "bits_per_byte"), ("accuracy", "accuracy"))
}
"""Charts of the Custom Scalars tab: training and validation in one, which the other tabs show apart."""


def build_loggers(config: RunConfig, folder: Path, resumed_at: int | None = None) -> list[Logger]:
    """The loggers that the config names; a run that goes on from a step hides what it wrote after it before."""
    if config.logger.name == "tensorboard":
        return [TensorBoard(folder, purge_step=None if resumed_at is None else resumed_at + 1)]
    if config.logger.name == "csv":
        return [CSVCurves(folder / "csv" / "metrics.csv")]
    return []


class TensorBoard(TensorBoardLogger):
    """Lightning's, in the same folder for all parts of a run; trouble with its files ends the curves, not the run."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step)
        self._purge_step = purge_step
        self._guarded: WhilePossible | None = None

    @property
    def experiment(self) -> Any:
        """A SummaryWriter that warns where another would raise OSError."""
        if self._guarded is None:
            self._guarded = WhilePossible(lambda: super(TensorBoard, self).experiment, self.log_dir)
            if self._purge_step is None:  # a run that goes on has said so
                self._guarded.add_custom_scalars({"training and validation": TOGETHER})
        return self._guarded

    def save(self) -> None:
        """Lightning would write hparams.yaml; they are in config.yaml."""

    def finalize(self, status: str) -> None:
        self.experiment.close()


class WhilePossible:
    """Calls the methods of a writer until one raises OSError, and from then on none."""

    def __init__(self, make: Callable[[], Any], place: str) -> None:
        self._place = place
        self._writer: Any = None
        threading.excepthook = tensorboard_excepthook
        with self._giving_up():
            self._writer = make()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            if self._writer is not None:
                with self._giving_up():
                    getattr(self._writer, name)(*args, **kwargs)

        return call

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            log.warning(f"warning: no TensorBoard curves from here on: {self._place}: {error.strerror or error}")


def tensorboard_excepthook(args: threading.ExceptHookArgs) -> None:
    """Keeps quiet about what TensorBoard's thread raises: it raises the same again where the run calls it."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(args)


class CSVCurves(Logger):
    """Appends scalars to a CSV file of (step, name, value), a line each and at once.

    Lightning's CSVLogger deletes the lines of the run so far when the run goes on, and writes a hundred steps late.
    """

    name, version = "csv", ""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self._failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            self._append(metrics, step)
        except OSError as error:
            if not self._failed:
                log.warning(f"warning: curves are being lost: {self.file}: {error.strerror}")
            self._failed = True

    def _append(self, metrics: Mapping[str, float], step: int | None) -> None:
        is_new = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, value) for name, value in metrics.items())

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""
