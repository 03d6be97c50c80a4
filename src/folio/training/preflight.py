"""What a run is about to do, before it does it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from folio.config import RunConfig
from folio.data.prepare import PreparedData
from folio.models import GPT, GPTConfig
from folio.training.devices import Device


@dataclass(frozen=True)
class Preflight:
    """The figures that decide whether a run is the one that was meant."""

    run_folder: str
    device: str
    precision: str
    data: str
    text_sha256: str
    """Of the whole corpus: a run goes on only with the text that it began with."""
    train_tokens: int
    val_tokens: int
    tokenizer: str
    vocab_size: int
    model: str
    n_parameters: int
    n_trainable_parameters: int
    n_parameters_without_embeddings: int
    tokens_per_step: int
    steps: int
    epochs: float
    """Times that as many tokens are seen as the training split holds."""
    optimizer: str
    seed: int

    def table(self) -> Table:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(overflow="fold")  # a long folder is shown whole
        rows = {
            "run folder": self.run_folder,
            "device": f"{self.device}, precision {self.precision}",
            "data": f"{self.data}: {self.train_tokens:,} training and {self.val_tokens:,} validation tokens",
            "tokenizer": f"{self.tokenizer}, {self.vocab_size:,} symbols",
            "model": self.model,
            "parameters": f"{self.n_parameters:,} ({self.n_trainable_parameters:,} trainable, "
            f"{self.n_parameters_without_embeddings:,} without embeddings)",
            "optimizer": self.optimizer,
            "steps": f"{self.steps:,} of {self.tokens_per_step:,} tokens = {self.epochs:.2f} epochs",
            "seed": str(self.seed),
        }
        for name, value in rows.items():
            table.add_row(name, value)
        return table

    def to_plain(self) -> dict[str, object]:
        return asdict(self)


def preflight(config: RunConfig, shape: GPTConfig, data: PreparedData, device: Device, folder: Path) -> Preflight:
    """The figures of a run. The model is built without memory for its weights, so any size is quick."""
    with torch.device("meta"):
        model = GPT(shape)
    training, n_train = config.training, data.train.info.n_tokens
    tokens_per_step = training.batch_size * shape.context_length
    return Preflight(
        run_folder=str(folder),
        device=device.name,
        precision=device.precision,
        data=config.data.path or config.data.name,
        text_sha256=data.train.info.source_sha256,
        train_tokens=n_train,
        val_tokens=data.val.info.n_tokens,
        tokenizer=config.tokenizer.name,
        vocab_size=shape.vocab_size,
        model=f"{config.model.name}: {shape.n_layers} layers, {shape.n_heads} heads, d_model {shape.d_model}, "
        f"context {shape.context_length}, {shape.positional_encoding} positions",
        n_parameters=model.count_parameters(),
        n_trainable_parameters=model.count_parameters(trainable_only=True),
        n_parameters_without_embeddings=model.count_parameters(embeddings=False),
        tokens_per_step=tokens_per_step,
        steps=training.max_steps,
        epochs=training.max_steps * tokens_per_step / n_train,
        optimizer=f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}, "
        f"schedule {config.schedule.name}",
        seed=config.seed,
    )
