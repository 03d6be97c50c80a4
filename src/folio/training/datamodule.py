"""The loaders that Lightning asks for. What a batch holds is decided in `folio.training.batches`."""

import lightning as L
from torch.utils.data import DataLoader

from folio.config import RunConfig
from folio.data.batch import Batch
from folio.data.prepared import PreparedData
from folio.training.batches import Validation, training_loader


class TokenDataModule(L.LightningDataModule):
    """Batches for training, from the trainer's global step on, and for validation."""

    def __init__(self, config: RunConfig, data: PreparedData, validation: Validation) -> None:
        super().__init__()
        self.config = config
        self.data = data
        self.validation = validation

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        return training_loader(self.config, self.data, first_step=self.trainer.global_step)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self.validation.loaders
