"""The loaders that Lightning asks for. What a batch holds is decided in `folio.training.batches`."""

import lightning as L
from torch.utils.data import DataLoader

from folio.config import RunConfig
from folio.data.batch import Batch
from folio.data.prepared import PreparedData
from folio.training.batches import Validation, training_loader
from folio.training.world import World


class TokenDataModule(L.LightningDataModule):
    """Batches for training, from the trainer's global step on, and for validation."""

    def __init__(
        self, config: RunConfig, data: PreparedData, validation: Validation, world: World | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.data = data
        self.validation = validation
        self.world = world or World()

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        return training_loader(self.config, self.data, self.trainer.global_step, self.world)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self.validation.loaders
