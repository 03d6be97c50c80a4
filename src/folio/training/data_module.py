"""The loaders that Lightning asks for. What a batch holds is decided in `folio.objectives.objective`."""

import lightning as L
from torch.utils.data import DataLoader

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.data.prepared import PreparedData
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.objectives.objective import Validation
from folio.objectives.registry import training_loader


class TokenDataModule(L.LightningDataModule):
    """Batches for training, from the trainer's global step on, and for validation."""

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        validation: Validation,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        super().__init__()
        self.config = config
        self.data = data
        self.validation = validation
        self.distributed = distributed

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        return training_loader(self.config, self.data, self.trainer.global_step, self.distributed)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self.validation.loaders
