"""What happens around the steps of a run, and the keys of it."""

from folio.config.section import Count, CountOrZero, NonNegative, Option, Section, Text


class SamplesConfig(Section):
    """Text that the model writes at each validation."""

    prompt: Text
    max_new_tokens: CountOrZero
    """0 writes none."""
    temperature: NonNegative
    top_k: Count | None


class CheckpointConfig(Section):
    """What is kept besides best.ckpt and last.ckpt."""

    keep_every_steps: Count | None
    """Every n-th step stays as checkpoints/step=<n>.ckpt; null keeps none."""


class CallbackConfig(Option):
    """`code` is a Lightning callback, made of its config and the `folio.training.run.Run` that it belongs to."""


class CallbacksConfig(Section):
    """Every run has the first two. A new callback is a field `mine: MyConfig | None = None`."""

    samples: SamplesConfig
    checkpoint: CheckpointConfig

    @property
    def chosen(self) -> list[CallbackConfig]:
        """Those that only some runs have, in the order of the fields."""
        sections = (getattr(self, name) for name in type(self).model_fields)
        return [section for section in sections if isinstance(section, CallbackConfig)]
