"""Keys of the callbacks."""

from typing import Any

from pydantic import ConfigDict, model_validator

from folio.config.section import Arguments, Count, CountOrZero, Name, NonNegative, Section, Text, without_null


class SamplesConfig(Section):
    """Text that the model generates at each validation."""

    prompt: Text
    """Text that each sample continues. If it does not suit the model, samples begin as the validation text."""
    max_new_tokens: CountOrZero
    """Length of the text in tokens; 0 generates none."""
    temperature: NonNegative
    """Divisor of the logits: below 1 likely tokens become likelier; 0 always takes the likeliest."""
    top_k: Count | None
    """Number of likeliest tokens to draw from; null: all."""


class CheckpointConfig(Section):
    """Checkpoints that are kept besides best.ckpt and last.ckpt."""

    keep_every_steps: Count | None
    """Every n-th step is kept as checkpoints/step=<n>.ckpt; null keeps none."""
    keep_every_epochs: Count | None
    """Every n-th epoch is kept as checkpoints/epoch=<n>.ckpt; null keeps none. An epoch ends with the step after which
    the run has read as many tokens as the training split has."""


class CallbacksConfig(Section):
    """Settings of every run, and arguments of the optional callbacks by the names of their files in conf/callbacks."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Name, Arguments]

    samples: SamplesConfig
    checkpoint: CheckpointConfig

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, values: Any) -> Any:
        return without_null(values, keep=cls.model_fields)

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """Arguments of the optional callbacks that this run has, by name."""
        return self.__pydantic_extra__
