"""The LightningDataModule. Objectives decide what a batch holds: `folio.objectives.objective`."""

import lightning as L
from torch.utils.data import DataLoader

from folio.data.batches.batch import Batch
from folio.objectives.evaluation import Validation
from folio.objectives.objective import Objective


class TokenDataModule(L.LightningDataModule):
    """Loads the batches of training and of validation. Training starts at the trainer's global step, else at 0."""

    def __init__(self, objective: Objective, validation: Validation) -> None:
        super().__init__()
        self.objective = objective
        self.validation = validation

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.objective.training_loader(0 if self.trainer is None else self.trainer.global_step)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self.validation.loaders
