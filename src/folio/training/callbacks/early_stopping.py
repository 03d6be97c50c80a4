"""Stop a run whose metric no longer improves."""

from typing import Any

import lightning as L
from lightning.pytorch import callbacks

from folio.training.callbacks.monitored import check_metric


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping, with the patience of the config in a resumed run, too."""

    state_key = "early_stopping"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: ConfigError if there is no such metric."""
        check_metric("callbacks.early_stopping.monitor", self.monitor, trainer.callback_metrics)
        super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
