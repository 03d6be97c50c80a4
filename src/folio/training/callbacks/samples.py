"""Text that the model generates at each validation."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from folio.config.callbacks import SamplesConfig
from folio.data.tokenizers.base import Tokenizer
from folio.generation.generate import generate_text
from folio.models import Model
from folio.models.sampling import SamplingParams
from folio.runtime.console import log
from folio.runtime.errors import FolioError
from folio.training.callbacks.base import validated_weights, whole_model
from folio.training.loggers.base import run_loggers
from folio.training.module import LanguageModel


class SampleWriter(Callback):
    """Generates a text at each validation, and writes it to `samples.md` and the loggers."""

    def __init__(self, config: SamplesConfig, tokenizer: Tokenizer, seed: int, file: Path) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.seed = seed
        self.file = file
        self.sampling = SamplingParams(temperature=config.temperature, top_k=config.top_k)
        self.latest = ""
        """The last sample."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the prompt before the first step. Raises: FolioError if the model cannot continue it."""
        assert isinstance(pl_module, LanguageModel)
        if self.config.max_new_tokens > 0 and trainer.is_global_zero:
            try:
                self._generate(pl_module.model)
            except FolioError as error:
                raise FolioError(f"callbacks.samples.prompt: {error}") from None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        assert not pl_module.training, "Lightning ends the validation after this hook"
        if self.config.max_new_tokens == 0:
            return
        # Compiled blocks would be compiled again for the lengths of generation.
        with torch.compiler.set_stance("force_eager"), validated_weights(trainer, pl_module):
            model = whole_model(trainer, pl_module)
            if model is None:
                return
            self.latest = "".join(self._generate(model))
        self._write(trainer)

    def _generate(self, model: Model) -> Iterator[str]:
        """Check the prompt, and return the pieces of the text, generated one by one as they are consumed."""
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
        # Indented, so that everything the model writes stays plain text in Markdown.
        text = "\n".join(f"    {line}" for line in self.latest.splitlines())
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"## Step {trainer.global_step}\n\n{text}\n\n")
        except OSError as error:
            log.warning(f"warning: the sample of step {trainer.global_step} is lost: {self.file}: {error.strerror}")
        for logger in run_loggers(trainer):
            logger.log_text("samples", text, trainer.global_step)
