"""TODO folio.training.callbacks.data_integrity."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.data.prepared import PreparedData


class DataIntegrity(Callback):
    """Sees to it that no checkpoint holds steps on tokens that something wrote over while they were being read."""

    def __init__(self, data: PreparedData) -> None:
        self.data = data

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises: FolioError, and nothing is saved."""
        self.check()

    def check(self) -> None:
        """Raises: FolioError where something has written to the tokens since they were opened."""
        for file in self.data.files:
            file.check_unchanged()
