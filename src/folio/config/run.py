"""`RunConfig`, the index of all keys.

`folio.cli.compose` turns a Hydra config into a `RunConfig`; the code below the entry points sees only these typed,
frozen values. Nothing here imports torch or lightning, so a mistake is reported at once.
"""

import pkgutil
import re
from typing import Annotated, Any

from pydantic import Field

from folio.config.callbacks import CallbacksConfig
from folio.config.data import DataSources
from folio.config.debug import DebugConfig
from folio.config.hparams_search import SearchConfig
from folio.config.logger import Loggers
from folio.config.model import OPTION_KEYS, ModelConfig, PositionalEncodingConfig
from folio.config.objective import Objectives
from folio.config.optimizer import Optimizers
from folio.config.part import Part
from folio.config.schedule import Schedules
from folio.config.section import ConfigError, Count, Name, Section, Text
from folio.config.tags import Tags
from folio.config.tokenizer import Tokenizers
from folio.config.trainer import TrainerConfig
from folio.config.training import TrainingConfig
from folio.models import TransformerConfig
from folio.models.rotary_scaling import RotaryScaling
from folio.models.transformer_config import Conditioning


class PathsConfig(Section):
    """Folders that all runs share."""

    data_dir: Text
    """Folder of prepared token files and downloaded assets."""
    output_dir: Text
    """Folder of run folders."""


class SweepConfig(Section):
    """Keys of a sweep, which are none of its runs': config.yaml leaves them out."""

    sweep: Text | None = Field(default=None, exclude=True)
    """`latest` or the folder of a sweep whose missing and failed runs are to be run."""
    max_jobs: Count = Field(default=1000, exclude=True)
    """Largest number of jobs that a sweep may have: a mistyped range gives millions."""
    hparams_search: SearchConfig | None = Field(default=None, exclude=True)
    """The search that a sweep performs."""
    repeat: Text | None = Field(default=None, exclude=True)
    """`latest` or a run folder, whose config this one starts from. See `folio.cli.repeat`."""


class RunConfig(SweepConfig):
    """All keys of a run. Together with the code, they repeat the run."""

    # The run
    name: Name | None
    """Name in the run folder's name; <data>-<model> when null."""
    tags: Tags
    """Words by which people find the run, in loggers and by `report.py --tag`, as in `tags=[baseline,char]`."""
    notes: Annotated[str, Field(min_length=1, max_length=10_000)] | None
    """Remarks on the run, for people."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seed of the initial weights, the batches, dropout and the samples."""
    deterministic: bool
    """Whether to refuse operations whose result depends on scheduling."""
    dry_run: bool
    """Whether to stop after the summary, before the first step."""
    resume: Text | None
    """`latest` or a run folder: resume that run with its own config."""
    part: Part | None = Field(default=None, exclude=True)
    """For scripts/prepare_data.py: the part of the corpus to prepare, as in 3/16, or join/16 to join all of them."""
    init_from: str | None
    """Folder of a GPT-2, Llama or Qwen3 for transformers, whose architecture and weights the run starts with."""
    paths: PathsConfig

    # The data
    data: Annotated[DataSources, Field(discriminator="name")]
    tokenizer: Annotated[Tokenizers, Field(discriminator="name")]

    # The model
    model: ModelConfig
    conditioning: Conditioning | None
    """Way in which the decoder of an encoder-decoder reads the encoder; null for other families."""
    positional_encoding: PositionalEncodingConfig

    # The training
    objective: Annotated[Objectives, Field(discriminator="name")]
    optimizer: Annotated[Optimizers, Field(discriminator="name")]
    schedule: Annotated[Schedules, Field(discriminator="name")]
    training: TrainingConfig
    trainer: TrainerConfig
    debug: DebugConfig | None = None
    logger: Loggers
    """Loggers by the names of their files in conf/logger, each with the arguments of its class."""
    callbacks: CallbacksConfig

    @property
    def run_name(self) -> str:
        """`name`, or the default that null stands for."""
        return self.name or f"{self.data.name}-{self.model.name}"

    @property
    def micro_batch_size(self) -> int:
        """Number of sequences in one forward pass on a device: training.micro_batch_size, or what null stands for."""
        return self.training.micro_batch_size or self.training.batch_size // self.trainer.n_processes

    @property
    def accumulate_grad_batches(self) -> int:
        """Number of micro-batches of a device in one optimizer step."""
        return self.training.batch_size // (self.micro_batch_size * self.trainer.n_processes)

    def load_objective(self) -> Any:
        """Import and return the class of the objective, which training.loss_on=completion replaces."""
        if self.training.loss_on == "completion":
            return pkgutil.resolve_name("folio.objectives.completion_lm:CompletionLM")
        return self.objective.load_code()

    def transformer_config(self, vocab_size: int) -> TransformerConfig:
        """Return the config of the model alone. Raises: ConfigError if its values do not fit together."""
        scaling = self.positional_encoding.rotary_scaling
        try:
            return TransformerConfig(
                vocab_size=vocab_size,
                positional_encoding=self.positional_encoding.name,
                positional_base=self.positional_encoding.base,
                positional_init=self.positional_encoding.init,
                positional_width=self.positional_encoding.width,
                rotary_fraction=self.positional_encoding.rotary_fraction,
                rotary_scaling=None if scaling is None else RotaryScaling(**scaling.model_dump()),
                conditioning=self.conditioning,
                **self.model.model_dump(exclude={"name", "vocab_size"}),
            )
        except ValueError as error:
            raise ConfigError(_in_config_keys(str(error))) from None


def _in_config_keys(message: str) -> str:
    """Return TransformerConfig's error message with the keys, and the null, of the command line."""
    message = message.replace("=None ", "=null ").replace("=True ", "=true ").replace(" to None", " to null")
    return re.sub(r"(\w+)(?=(\.\w+)?=)", lambda match: OPTION_KEYS.get(match[1], match[1]), message)
