"""The loaders that Lightning asks for. What a batch holds is decided in `folio.data.windows`."""

import lightning as L
from torch.utils.data import DataLoader

from folio.config import RunConfig
from folio.data.loaders import Batch, token_loader, validation_loader
from folio.data.prepare import PreparedData
from folio.data.windows import TrainingBatches, TrainingWindows


class TokenDataModule(L.LightningDataModule):
    """Batches of (tokens, targets), both (B, T) int64. Training goes on at the trainer's global step."""

    def __init__(self, config: RunConfig, data: PreparedData) -> None:
        super().__init__()
        self.config = config
        self.data = data

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        training = self.config.training
        windows = TrainingWindows(self.data.train.tokens, self.config.model.context_length)
        batches = TrainingBatches(
            window_order=self.config.data.window_order,
            n_starts=len(windows),
            seed=self.config.seed,
            batch_size=training.batch_size,
            micro_batch_size=training.sequences_at_once,
            first_step=self.trainer.global_step,
            n_steps=training.max_steps,
        )
        return token_loader(windows, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        return validation_loader(
            self.data.val.tokens, self.config.model.context_length, self.config.training.sequences_at_once
        )
