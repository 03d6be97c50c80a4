"""The LightningDataModule. Objectives decide what a batch holds: `folio.objectives.objective`."""

import lightning as L
from torch.utils.data import DataLoader

from folio.data.batches.batch import Batch
from folio.objectives.evaluation import Validation
from folio.objectives.objective import Objective


class TokenDataModule(L.LightningDataModule):
    """Loads the batches of training and of validation. Training starts at the trainer's global step, else at 0.

    Example:

        >>> from pathlib import Path
        >>> from folio.cli.compose import composed, load_config
        >>> from folio.config.tokenizer import choose_tokenizer
        >>> from folio.data.corpora.single_text import TextFile
        >>> from folio.objectives.objective import build_objective
        >>> from folio.runtime.commands import CHECKOUT
        >>> _ = Path("my.txt").write_text("To be, or not to be. " * 20)
        >>> data = TextFile("my.txt").prepare(choose_tokenizer("char"), Path("data"), log=lambda line: None)
        >>> with composed(["model=debug", "tokenizer=char", "training.batch_size=2"], CHECKOUT / "conf") as cfg:
        ...     objective = build_objective(load_config(cfg), data)
        >>> module = TokenDataModule(objective, objective.validation(data.val))
        >>> next(iter(module.train_dataloader())).tokens.shape
        torch.Size([2, 8])
    """

    def __init__(self, objective: Objective, validation: Validation) -> None:
        super().__init__()
        self.objective = objective
        self.validation = validation

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.objective.training_loader(0 if self.trainer is None else self.trainer.global_step)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return self.validation.loaders
