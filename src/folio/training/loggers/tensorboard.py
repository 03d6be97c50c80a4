"""Where the curves of a run go."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from folio.runtime.console import log

TOGETHER = {
    title: ["Multiline", [f"train/{name}", f"val/{name}"]]
    for title, name in (("loss in nats", "loss_nats"), ("bits per byte", "bits_per_byte"), ("accuracy", "accuracy"))
}
"""Charts of the Custom Scalars tab: training and validation in one, which the other tabs show apart."""


class TensorBoard(TensorBoardLogger):
    """Lightning's, in the same folder for all parts of a run; trouble with its files ends the curves, not the run."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step)
        self._purge_step = purge_step
        self._guarded: BestEffortWriter | None = None

    @property
    def experiment(self) -> Any:
        """A SummaryWriter that warns where another would raise OSError."""
        if self._guarded is None:
            self._guarded = BestEffortWriter(lambda: super(TensorBoard, self).experiment, self.log_dir)
            if self._purge_step is None:  # a run that goes on has said so
                self._guarded.add_custom_scalars({"training and validation": TOGETHER})
        return self._guarded

    def save(self) -> None:
        """Lightning would write hparams.yaml; they are in config.yaml."""

    def finalize(self, status: str) -> None:
        self.experiment.close()


class BestEffortWriter:
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
