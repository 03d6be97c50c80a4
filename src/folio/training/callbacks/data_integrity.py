"""Check that the token files do not change during training."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.data.prepared import PreparedData
from folio.runtime.errors import FolioError

BLOCK_TOKENS = 1 << 20


class DataIntegrity(Callback):
    """Prevents checkpoints of steps on tokens that another process overwrote while they were being read."""

    def __init__(self, data: PreparedData) -> None:
        self.data = data

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the data before anything is saved. Raises: FolioError."""
        self.check()

    def check(self) -> None:
        """Raises: FolioError if a token file has changed since it was opened."""
        for file in self.data.files:
            file.check_unchanged()

    def check_ids(self) -> None:
        """Read all tokens. Raises: FolioError if one is outside the vocabulary."""
        for file in self.data.files:
            for first in range(0, len(file.tokens), BLOCK_TOKENS):
                largest = int(file.tokens[first : first + BLOCK_TOKENS].max())
                if largest >= file.info.vocab_size:
                    raise FolioError(
                        f"{file.path} holds the id {largest}, and tokenizer={file.info.tokenizer} has "
                        f"{file.info.vocab_size} symbols; name the tokenizer that made it"
                    )
