"""The typed schema of a run, and the checks that need nothing but the config.

Imports neither torch nor lightning, so that a mistake is answered at once. `folio.cli.compose` turns a Hydra config
into a `RunConfig`; everything below the entry points sees only these plain, frozen values.
"""

import re
from typing import Annotated

from pydantic import Field

from folio.config.callbacks import CallbacksConfig
from folio.config.data import DataSources
from folio.config.hparams_search import SearchConfig
from folio.config.logger import LoggerConfig
from folio.config.model import ModelConfig, PositionalEncodingConfig
from folio.config.objective import Objectives, PrefixLMConfig
from folio.config.optimizer import Optimizers
from folio.config.schedule import Schedules
from folio.config.section import ConfigError, Name, Section, Text
from folio.config.tokenizer import TokenizerConfig, WordTokenizerConfig
from folio.config.trainer import TrainerConfig
from folio.config.training import TrainingConfig
from folio.models import TransformerConfig
from folio.models.transformer_config import Conditioning


class PathsConfig(Section):
    data_dir: Text
    """Prepared token files and downloaded assets."""
    output_dir: Text
    """Run folders."""


class RunConfig(Section):
    """One run, whole: with the code it repeats the run."""

    sweep: Text | None = Field(default=None, exclude=True)
    """`latest` or the folder of a sweep: run what is missing or failed there. Of the command, not of a run."""
    hparams_search: SearchConfig | None = Field(default=None, exclude=True)
    """Of the command, too."""

    name: Name | None
    """Of the run folder; <data>-<model> when null."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    deterministic: bool
    dry_run: bool
    resume: Text | None
    """`latest` or a run folder: go on there with its own config."""
    init_from: str | None
    """A folder of Hugging Face's GPT-2 to begin with; it decides the size. See `folio.cli.init_from`."""
    paths: PathsConfig
    data: Annotated[DataSources, Field(discriminator="name")]
    tokenizer: Annotated[TokenizerConfig | WordTokenizerConfig, Field(discriminator="name")]
    model: ModelConfig
    conditioning: Conditioning | None
    """Of an encoder-decoder: how the decoder reads the encoder."""
    positional_encoding: PositionalEncodingConfig
    objective: Annotated[Objectives, Field(discriminator="name")]
    optimizer: Annotated[Optimizers, Field(discriminator="name")]
    schedule: Annotated[Schedules, Field(discriminator="name")]
    training: TrainingConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig

    @property
    def run_name(self) -> str:
        return self.name or f"{self.data.name}-{self.model.name}"

    @property
    def micro_batch_size(self) -> int:
        """On a device."""
        return self.training.micro_batch_size or self.training.batch_size // self.trainer.n_processes

    @property
    def accumulate_grad_batches(self) -> int:
        """Micro batches of a device in one optimizer step."""
        return self.training.batch_size // (self.micro_batch_size * self.trainer.n_processes)

    def transformer_config(self, vocab_size: int) -> TransformerConfig:
        """The model's own config. Raises: ConfigError where the numbers do not fit together."""
        shape = self.model.model_dump(exclude={"name", "vocab_size"})
        try:
            return TransformerConfig(
                vocab_size=vocab_size,
                positional_encoding=self.positional_encoding.name,
                positional_base=self.positional_encoding.base,
                conditioning=self.conditioning,
                **shape,
            )
        except ValueError as error:
            raise ConfigError(_in_config_keys(str(error))) from None

    @property
    def prefix_lengths(self) -> tuple[int, int]:
        """The least and the greatest of a prefix LM."""
        assert isinstance(self.objective, PrefixLMConfig)
        longest = self.objective.max_prefix_length
        return self.objective.min_prefix_length, self.model.context_length if longest is None else longest


def _in_config_keys(message: str) -> str:
    """TransformerConfig's message with the keys and the null that a person types."""
    keys = {name: f"model.{name}" for name in ModelConfig.model_fields} | {
        "positional_base": "positional_encoding.base"
    }
    message = message.replace("=None ", "=null ")
    return re.sub(r"(\w+)=", lambda match: f"{keys.get(match[1], match[1])}=", message)
