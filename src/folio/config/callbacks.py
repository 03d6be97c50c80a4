"""Keys of the callbacks."""

from folio.config.section import Count, CountOrZero, NonNegative, Option, Section, Text


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


class CallbackConfig(Option):
    """`code` is a Lightning callback, called with its config and the `folio.training.assembly.TrainingParts`."""


class CallbacksConfig(Section):
    """Every run has the first two. A new callback is a field `mine: MyConfig | None = None`."""

    samples: SamplesConfig
    checkpoint: CheckpointConfig

    @property
    def chosen(self) -> list[CallbackConfig]:
        """The sections of the optional callbacks that this run has, in the order of the fields."""
        sections = (getattr(self, name) for name in type(self).model_fields)
        return [section for section in sections if isinstance(section, CallbackConfig)]
