"""Which kinds of corpora there are, and their keys. See docs/data.md."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag

from folio.config.section import ConfigError, Count, Positive, Section, Text
from folio.data.corpora.named_texts import NAMED_TEXTS, TEXT_FILE

if TYPE_CHECKING:
    OneText = str
    SingleCorpus = str
else:
    OneText = Literal[(*NAMED_TEXTS, TEXT_FILE)]
    SingleCorpus = Literal[(*NAMED_TEXTS, TEXT_FILE, "text_files", "huggingface", "prepared")]

WindowOrder = Literal["random", "shuffled"]
"""random: independent uniform starts; shuffled: each start once an epoch."""

ValFraction = Annotated[float, Field(gt=0.0, lt=1.0)]


PATHS = {
    TEXT_FILE: ("a file", "data.path=my.txt"),
    "text_files": ("a pattern of files", "data.path='corpus/**/*.txt'"),
    "huggingface": ("the name of a dataset", "data.path=roneneldan/TinyStories"),
    "prepared": ("a folder that scripts/prepare_data.py made", "data.path=data/text_files/..."),
}
"""Meaning of data.path, with an example, for the corpora that need one."""


class DataConfig(Section):
    """Base class of the corpora."""

    name: str
    path: str | None

    def check(self) -> None:
        """Raises: ConfigError if `path` is missing or has no effect."""
        if self.name in PATHS and self.path is None:
            meaning, example = PATHS[self.name]
            raise ConfigError(f"data.path=null: data={self.name} needs {meaning}; add {example}")
        if self.name not in PATHS and self.path is not None:
            raise ConfigError(f"data.path={self.path} has no effect with data={self.name}; add data=text_file")


class TextConfig(DataConfig):
    """One text, split by place: the last tenth is for validation."""

    name: OneText
    """A key of `folio.data.corpora.named_texts.NAMED_TEXTS`, or text_file."""
    path: str | None
    """The text of data=text_file: UTF-8."""
    window_order: WindowOrder


class TextFilesConfig(DataConfig):
    """Documents in many files, split by document."""

    name: Literal["text_files"]
    path: str | None
    """A pattern such as corpus/**/*.txt, a file, or a folder of which all that can be read is taken."""
    text_field: Text
    """Of a line of JSON, or the column of a Parquet file."""
    document_separator: Text | None
    """What stands between the documents of a text; null: each file is one."""
    val_fraction: ValFraction
    """Of the documents; one at least."""
    shard_tokens: Count
    """Tokens in each file of the prepared corpus but the last."""
    window_order: WindowOrder


class HuggingFaceConfig(DataConfig):
    """A dataset of the Hugging Face Hub, split by document like text_files."""

    name: Literal["huggingface"]
    path: str | None
    """The name on the Hub, or a folder."""
    subset: Text | None
    split: Text
    revision: Text | None
    text_field: Text
    val_fraction: ValFraction
    shard_tokens: Count
    window_order: WindowOrder


class PreparedConfig(DataConfig):
    """A folder that scripts/prepare_data.py made, wherever it is by now."""

    name: Literal["prepared"]
    path: str | None
    window_order: WindowOrder


class PartConfig(Section):
    """One corpus of a mixture, with the keys of its own kind; those left out are as in conf/data."""

    weight: Positive
    name: SingleCorpus
    path: Text | None = None
    text_field: Text = "text"
    document_separator: Text | None = None
    val_fraction: ValFraction = 0.01
    shard_tokens: Count = 100_000_000
    subset: Text | None = None
    split: Text = "train"
    revision: Text | None = None

    def check(self, key: str) -> None:
        """Raises: ConfigError if `path` is missing or has no effect. `key` is the part's own key."""
        if (self.path is None) == (self.name in PATHS):
            rule = "has no effect" if self.path else f"must be {PATHS[self.name][0]}"
            raise ConfigError(f"{key}.path={self.path or 'null'} {rule} with name: {self.name}")


WeightOrPart = Annotated[
    Annotated[Positive, Tag("weight")] | Annotated[PartConfig, Tag("keys")],
    Discriminator(lambda value: "keys" if isinstance(value, dict | PartConfig) else "weight"),
]


class MixtureConfig(Section):
    """Several corpora, drawn from by weight."""

    name: Literal["mixture"]
    parts: dict[Text, WeightOrPart] | None
    """tiny_shakespeare, a file, a pattern or a folder -> weight; or any name -> weight, name, path and so on."""
    window_order: WindowOrder

    @property
    def path(self) -> None:
        """None: the parts have paths."""

    def check(self) -> None:
        """Raises: ConfigError if there are no parts, or the path of one is missing or has no effect."""
        if not self.parts:
            given = "null" if self.parts is None else "{}"
            raise ConfigError(
                f"data.parts={given}: data=mixture needs corpora and their weights; add "
                "data.parts='{tiny_shakespeare: 0.7, my.txt: 0.3}'"
            )
        for name, part in self.parts.items():
            if isinstance(part, PartConfig):
                part.check(f"data.parts.{name}")


DataSources = TextConfig | TextFilesConfig | HuggingFaceConfig | PreparedConfig | MixtureConfig
