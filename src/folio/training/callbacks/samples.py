"""Text that the model writes at each validation."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from folio.config.callbacks import SamplesConfig
from folio.config.run import RunConfig
from folio.data.prepared import PreparedData
from folio.data.tokenizers.registry import Tokenizer
from folio.generation.generate import generate_text
from folio.generation.prompts import MASK
from folio.generation.sampling import Sampling
from folio.runtime.console import log
from folio.runtime.errors import FolioError
from folio.training.module import LanguageModel
from folio.training.trainer_state import is_sharded

PROMPT_TOKENS = 6
"""Length of a prompt that is taken from the text."""


class SampleWriter(Callback):
    """At each validation the model writes a text: for `samples.md`, TensorBoard and whoever watches."""

    def __init__(self, config: SamplesConfig, tokenizer: Tokenizer, seed: int, file: Path) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.seed = seed
        self.file = file
        self.sampling = Sampling(temperature=config.temperature, top_k=config.top_k)
        self.latest = ""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: FolioError where the model cannot write from the prompt, before the first step."""
        if self._writes(trainer):
            try:
                self._pieces(pl_module)
            except FolioError as error:
                raise FolioError(f"callbacks.samples.prompt: {error}") from None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._writes(trainer):
            return
        # Compiled blocks would be compiled again for the lengths of generation.
        with torch.compiler.set_stance("force_eager"):
            self.latest = "".join(self._pieces(pl_module))
        self._write(trainer)

    def _writes(self, trainer: L.Trainer) -> bool:
        """One process writes for all; none where each holds a share of the weights, which alone says nothing."""
        return self.config.max_new_tokens > 0 and trainer.is_global_zero and not is_sharded(trainer)

    def _pieces(self, pl_module: L.LightningModule) -> Iterator[str]:
        """Of the text, to be written as they are asked for. An encoder-decoder has the prompt as its prefix."""
        assert isinstance(pl_module, LanguageModel)
        model = pl_module.model  # in eval mode at the end of validation: Lightning has not ended it yet
        has_prefix = model.config.family == "encoder_decoder"
        return generate_text(
            model,
            self.tokenizer,
            "" if has_prefix else self.config.prompt,
            prefix=self.config.prompt if has_prefix else None,
            max_new_tokens=self.config.max_new_tokens,
            sampling=self.sampling,
            seed=self.seed,
        )

    def _write(self, trainer: L.Trainer) -> None:
        # Indented, so that whatever the model writes stays text in Markdown.
        text = "\n".join(f"    {line}" for line in self.latest.splitlines())
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"## Step {trainer.global_step}\n\n{text}\n\n")
        except OSError as error:
            log.warning(f"warning: the sample of step {trainer.global_step} is lost: {self.file}: {error.strerror}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", text, trainer.global_step)


def sample_prompt(config: RunConfig, data: PreparedData) -> str:
    """Return the configured prompt, or the start of the validation text if the text lacks one of its characters.

    The default prompt need not be encodable in the user's own text, and a run must not end because of it.
    """
    prompt = config.callbacks.samples.prompt
    try:
        data.tokenizer.encode(prompt.replace(MASK, ""))
    except FolioError:
        opening = data.tokenizer.decode(data.val.tokens[:PROMPT_TOKENS].tolist())
        opening += MASK if config.model.family == "encoder" else ""
        log.info(f"callbacks.samples.prompt={prompt!r} has characters that the text lacks; samples begin {opening!r}")
        return opening
    return prompt
