"""A format: its name, the keys of its config.json, the names and shapes of its tensors. Imports no torch."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from folio.models.formats.equivalents import Equivalent
from folio.models.formats.fields import Field, Problem, resolved
from folio.models.transformer_config import TransformerConfig

LM_HEAD = "lm_head.weight"
"""Name of most output layers."""

NEUTRAL = {
    "dropout",
    "attention_dropout",
    "feed_forward_dropout",
    "init",
    "zero_init_residual",
    "post_norm_dropout",  # all norms come first
    "positional_init",
    "positional_width",  # only of concatenated positions
    "conditioning",  # a decoder has none
}
"""The options that do not change what a trained model computes."""


class Weight(NamedTuple):
    """One tensor of a format, and its place in Folio's model.

    Example:

        >>> Weight("wte.weight", "token_embedding.weight", (50257, 768)).transposed
        False
    """

    name: str
    """The format's name, without its prefix."""
    parameter: str
    """Folio's name. Where the model has no such parameter, as without biases, zeros are the same."""
    shape: tuple[int, ...]
    """Shape in the format's file."""
    rows: slice | list[int] = slice(None)
    """The rows of a fused parameter that this tensor holds. Tensors with the same rows hold the same values."""
    transposed: bool = False
    """True if the file has (inputs, outputs); nn.Linear has the reverse."""


@dataclass(frozen=True)
class Format:
    """An architecture of transformers, and the models of Folio that are one.

    `folio.models.formats.table` has all of them.
    """

    name: str
    """The name that people use."""
    model_type: str
    """Its name in config.json."""
    architecture: str
    """Name of the class with an output layer."""
    fields: Sequence[Field]
    """The keys of config.json."""
    required: Mapping[str, Any]
    """The options that no key decides, where the architecture differs from the defaults of `TransformerConfig`."""
    absorbed: frozenset[str]
    """The options whose other values are written as weights: zeros for biases that a model lacks."""
    weights: Callable[[TransformerConfig], Iterator[Weight]]
    """Yields all tensors of a model, except an output layer that is tied."""
    prefix: str
    """Prefix of all names but the output layer's. Files of the model without an output layer lack it."""
    ignored: re.Pattern[str]
    """Names, without prefix, of tensors that are no weights: buffers that older versions of transformers wrote."""
    embedding: str
    """Name of the token embedding, without prefix."""
    equivalents: Sequence[Equivalent]
    """The changes that bring other models into this architecture's form, in the order in which to try them."""
    output: str = LM_HEAD
    """Name of the output layer in files, which has no prefix. LM_HEAD is another name of it."""
    dropout_keys: Mapping[str, str] = field(default_factory=dict)
    """Keys of dropout rates -> options. They are written, but not read: a new run decides its own."""

    def read_config(self, values: Mapping[str, Any]) -> TransformerConfig:
        """Return the model that config.json describes, without dropout. Raises: FormatError; ValueError."""
        options = dict(self.required)
        for part in self.fields:
            options |= part.read(values)
        return TransformerConfig(**options)

    def write_config(self, config: TransformerConfig, end_of_text: int | None = None) -> dict[str, Any]:
        """Return the content of config.json for a model without problems."""
        assert not self.problems(config)
        values: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type}
        for part in self.fields:
            values |= part.write(config)
        values |= {key: resolved(config, option) for key, option in self.dropout_keys.items()}
        values |= dict.fromkeys(("bos_token_id", "eos_token_id"), end_of_text)
        return values | {"dtype": "float32", "torch_dtype": "float32"}  # the second is read before transformers 5

    def problems(self, config: TransformerConfig) -> list[Problem]:
        """Return the options of a model that keep it out of this format."""
        example = TransformerConfig(vocab_size=1, context_length=1, n_layers=1, n_heads=1, d_model=2, **self.required)
        covered = {option for part in self.fields for option in part.options} | self.absorbed | NEUTRAL
        problems = [
            Problem(option.name, resolved(config, option.name), resolved(example, option.name))
            for option in fields(TransformerConfig)
            if option.name not in covered and resolved(config, option.name) != resolved(example, option.name)
        ]
        return problems + [problem for part in self.fields for problem in part.problems(config)]

    def full_name(self, name: str) -> str:
        """Return a tensor's name as files have it."""
        return name if name == self.output else self.prefix + name

    def short_name(self, name: str) -> str:
        """Return the name without prefix of a tensor in a file."""
        return self.output if name == LM_HEAD else name.removeprefix(self.prefix)

    def key_of(self, option: str) -> str:
        """Return the key of config.json that decides an option, for messages."""
        keys = {part.option: part.key for part in self.fields if hasattr(part, "option") and hasattr(part, "key")}
        return keys.get(option, option)
