"""The kinds of corpora and their keys. See docs/data.md."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from folio.config.section import ConfigError, Count, Option, Positive, Section, Text, sections_by_name
from folio.data.corpora.named_texts import NAMED_TEXTS

if TYPE_CHECKING:
    TextName = str
    PartName = str
else:
    TextName = Literal[tuple(NAMED_TEXTS)]
    PartName = Literal[(*NAMED_TEXTS, "text_file", "text_files", "huggingface", "prepared", "token_files")]

WindowOrder = Literal["random", "shuffled", "even"]
"""Keys of `folio.data.batches.order.WINDOW_ORDERS`."""

ValFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
TestFraction = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Share of a corpus that is for test; 0 for no test split."""

Suffix = Annotated[str, Field(pattern=r"^\.?[^./\s]+$")]
"""The last part of a file's name, with or without its dot."""


class DataConfig(Option):
    """`code` is a class with the methods of `folio.data.corpora.preparation.DataSource`, made from keys of the section.

    The keys are those that its fields name.
    """

    name: str
    path_meaning: ClassVar[tuple[str, str] | None] = None
    """Meaning of data.path, and an example; None if there is no path to give."""
    path: str | None
    """File or folder that is read; null for a text that has a name."""
    window_order: WindowOrder
    """Starts of the windows. random: independent and uniform; shuffled: each start once an epoch; even: spread over the
    text so that each token is read about once an epoch."""
    mask_documents: bool = False
    """Let tokens attend only to their own document, in which positions start again from 0."""
    has_documents: ClassVar[bool | None] = False
    """Whether the text is divided into documents; None if that is only known when it is opened."""

    @property
    def has_prompts(self) -> bool | None:
        """Whether each document is a prompt and a completion; None if that is only known when it is opened."""
        return False

    @property
    def has_test(self) -> bool | None:
        """Whether there is a test split; None if that is only known when the corpus is opened."""
        return bool(getattr(self, "test_fraction", 0.0))

    def check(self) -> None:
        """Raises: ConfigError if data.path is missing, or has no effect."""
        if self.path is None and self.path_meaning is not None:
            meaning, example = self.path_meaning
            raise ConfigError(f"data.path=null: data={self.name} needs {meaning}; add data.path={example}")
        if self.path is not None and self.path_meaning is None:
            raise ConfigError(f"data.path={self.path} has no effect with data={self.name}; add data=text_file")


class NamedTextConfig(DataConfig):
    """A text that is the same everywhere, split by position.

    tiny_shakespeare: the last tenth is for validation. tiny_shakespeare_dev: that tenth is its test split, training
    reads the first 80 %, and validation the last tenth of the first 90 %.
    """

    code: ClassVar[str] = "folio.data.corpora.single_text:NamedText"
    name: TextName
    """A key of `folio.data.corpora.named_texts.NAMED_TEXTS`."""

    @property
    def has_test(self) -> bool:
        return NAMED_TEXTS[self.name].has_test


class TextFileConfig(DataConfig):
    """A UTF-8 text, split by position: the last tenth of what is not for test is for validation."""

    code: ClassVar[str] = "folio.data.corpora.single_text:TextFile"
    path_meaning: ClassVar[tuple[str, str]] = ("a file", "my.txt")
    name: Literal["text_file"]
    test_fraction: TestFraction = 0.0
    """Share of the characters, the last ones, that is for test; 0 for no test split."""


class TextFilesConfig(DataConfig):
    """Documents in many files, split by document."""

    code: ClassVar[str] = "folio.data.corpora.text_files:TextFiles"
    path_meaning: ClassVar[tuple[str, str]] = ("a pattern of files", "'corpus/**/*.txt'")
    has_documents: ClassVar[bool] = True
    name: Literal["text_files"]
    path: str | None
    """A pattern such as corpus/**/*.txt, a file, or a folder, whose readable files are all taken."""
    text_field: Text
    """Field of a JSON line, or column of a Parquet file, that holds the text."""
    document_separator: Text | None
    """Text between the documents of a file; null: each text file is one document."""
    text_suffixes: list[Suffix]
    """Suffixes of other files that are plain text, such as .py; they may be followed by .gz or .zst as well."""
    prompt_field: Text | None
    """Field of a JSON line that holds a prompt; null: a document has one field, text_field."""
    completion_field: Text | None
    """Field of a JSON line that holds what follows the prompt."""
    val_fraction: ValFraction
    """Share of the documents that is for validation; at least one is."""
    test_fraction: TestFraction = 0.0
    """Share of the documents that is for test, at least one; 0 for no test split."""
    shard_tokens: Count
    """Number of tokens in each file of the prepared corpus except the last."""

    def check(self) -> None:
        """Raises: ConfigError, also if only one field of the two is given."""
        super().check()
        _check_pair("data.", self.prompt_field, self.completion_field)
        _check_fractions("data.", self.val_fraction, self.test_fraction)

    @property
    def has_prompts(self) -> bool:
        return self.completion_field is not None


class HuggingFaceConfig(DataConfig):
    """A dataset of the Hugging Face Hub, split by document like text_files."""

    code: ClassVar[str] = "folio.data.corpora.hugging_face:HuggingFaceDataset"
    path_meaning: ClassVar[tuple[str, str]] = ("the name of a dataset", "roneneldan/TinyStories")
    has_documents: ClassVar[bool] = True
    name: Literal["huggingface"]
    path: str | None
    """Name on the Hub, or a folder."""
    subset: Text | None
    """Part of a dataset that has several; null: its default."""
    split: Text
    """Split of the dataset, part of whose documents becomes the validation split."""
    revision: Text | None
    """Commit or tag of the dataset; null: the newest when it is prepared."""
    text_field: Text
    """Column that holds the text."""
    val_fraction: ValFraction
    """Share of the documents that is for validation; at least one is."""
    test_fraction: TestFraction = 0.0
    """Share of the documents that is for test, at least one; 0 for no test split."""
    shard_tokens: Count
    """Number of tokens in each file of the prepared corpus except the last."""

    def check(self) -> None:
        """Raises: ConfigError."""
        super().check()
        _check_fractions("data.", self.val_fraction, self.test_fraction)


class PreparedConfig(DataConfig):
    """A folder that scripts/prepare_data.py made, wherever it is now."""

    code: ClassVar[str] = "folio.data.corpora.prepared_folder:PreparedFolder"
    path_meaning: ClassVar[tuple[str, str]] = ("a folder that scripts/prepare_data.py made", "data/text_files/...")
    has_documents: ClassVar[None] = None
    has_test: ClassVar[None] = None
    name: Literal["prepared"]

    @property
    def has_prompts(self) -> None:
        """Only the folder says so."""


class TokenFilesConfig(DataConfig):
    """Token files that nanoGPT, llm.c, modded-nanogpt or Megatron-LM made, read as they are."""

    code: ClassVar[str] = "folio.data.corpora.token_files:TokenFiles"
    path_meaning: ClassVar[tuple[str, str]] = ("token files", "'shards/*.bin'")
    has_documents: ClassVar[None] = None
    name: Literal["token_files"]
    val_fraction: ValFraction
    """Share of the ids, the last ones, that is for validation if no file has `val` in its name."""
    test_fraction: TestFraction = 0.0
    """Share of the ids, the last ones, that is for test if no file has `test` in its name; 0 for no test split."""

    @property
    def has_test(self) -> bool | None:
        return True if self.test_fraction else None


SingleCorpora = (
    NamedTextConfig | TextFileConfig | TextFilesConfig | HuggingFaceConfig | PreparedConfig | TokenFilesConfig
)
"""All corpora that can be chosen or be part of a mixture. A new kind is added here, and its name to PartName."""

CORPORA: dict[str, type[DataConfig]] = sections_by_name(SingleCorpora)
"""The sections of all corpora by name."""


class PartConfig(Section):
    """One corpus of a mixture, with the keys of its own kind. Keys that are left out are as in conf/data."""

    weight: Positive
    """Weight in the draw of the sequences; weights need not add up to 1."""
    name: PartName
    """Kind of corpus, as in `data=...`, or a named text."""
    path: Text | None = None
    """File, folder or dataset that is read, as for that kind."""
    text_field: Text = "text"
    """Field or column that holds the text."""
    document_separator: Text | None = None
    """Text between the documents of a file; null: each text file is one document."""
    text_suffixes: list[Suffix] = Field(default=[])
    """Suffixes of other files that are plain text."""
    prompt_field: Text | None = None
    """Field of a JSON line that holds a prompt; null: a document has one field, text_field."""
    completion_field: Text | None = None
    """Field of a JSON line that holds what follows the prompt."""
    val_fraction: ValFraction = 0.01
    """Share of the documents that is for validation."""
    test_fraction: TestFraction = 0.0
    """Share of the corpus that is for test; 0 for no test split."""
    shard_tokens: Count = 100_000_000
    """Number of tokens in each file of the prepared corpus except the last."""
    subset: Text | None = None
    """Part of a dataset that has several; null: its default."""
    split: Text = "train"
    """Split of the dataset."""
    revision: Text | None = None
    """Commit or tag of the dataset."""

    def load_code(self) -> Any:
        """Return the class of its kind of corpus."""
        return CORPORA[self.name].load_code()

    @property
    def has_documents(self) -> bool | None:
        """See `DataConfig`."""
        return CORPORA[self.name].has_documents

    @property
    def has_prompts(self) -> bool | None:
        """See `DataConfig`."""
        return None if self.name == "prepared" else self.name == "text_files" and self.completion_field is not None


WeightOrPart = Annotated[
    Annotated[Positive, Tag("weight")] | Annotated[PartConfig, Tag("keys")],
    Discriminator(lambda value: "keys" if isinstance(value, dict | PartConfig) else "weight"),
]


class MixtureConfig(Section):
    """Several corpora, drawn from by weight."""

    name: Literal["mixture"]
    parts: dict[Text, WeightOrPart] | None
    """Weights of tiny_shakespeare, a file, a pattern or a folder; or, for any name, the keys below."""
    window_order: WindowOrder
    """Starts of the windows. random: independent and uniform; shuffled: each start once an epoch; even: spread over the
    text so that each token is read about once an epoch."""
    mask_documents: bool = False
    """Let tokens attend only to their own document, in which positions start again from 0."""
    has_documents: ClassVar[None] = None
    has_prompts: ClassVar[None] = None
    has_test: ClassVar[None] = None

    @property
    def path(self) -> None:
        return None

    def check(self) -> None:
        """Raises: ConfigError if there are no parts, or the path of one is missing or has no effect."""
        if not self.parts:
            given = "null" if self.parts is None else "{}"
            raise ConfigError(
                f"data.parts={given}: data=mixture needs corpora and their weights; add "
                "data.parts='{tiny_shakespeare: 0.7, my.txt: 0.3}'"
            )
        for name, part in self.parts.items():
            if not isinstance(part, PartConfig):
                continue
            meaning = CORPORA[part.name].path_meaning
            if (part.path is None) == (meaning is not None):
                rule = f"must be {meaning[0]}" if meaning is not None else "has no effect"
                raise ConfigError(f"data.parts.{name}.path={part.path or 'null'} {rule} with name: {part.name}")
            _check_pair(f"data.parts.{name}.", part.prompt_field, part.completion_field)
            _check_fractions(f"data.parts.{name}.", part.val_fraction, part.test_fraction)


def _check_pair(prefix: str, prompt_field: str | None, completion_field: str | None) -> None:
    """Raises: ConfigError if one field is given without the other, or they are the same."""
    if (prompt_field is None) != (completion_field is None):
        given, missing = ("prompt", "completion") if completion_field is None else ("completion", "prompt")
        raise ConfigError(
            f"{prefix}{missing}_field=null: {prefix}{given}_field={prompt_field or completion_field} needs it too; add "
            f"{prefix}{missing}_field={missing}"
        )
    if prompt_field is not None and prompt_field == completion_field:
        raise ConfigError(f"{prefix}completion_field={completion_field} must differ from {prefix}prompt_field")


def _check_fractions(prefix: str, val_fraction: float, test_fraction: float) -> None:
    """Raises: ConfigError if the two bands of hashes would meet."""
    if test_fraction and val_fraction + test_fraction >= 1.0:
        raise ConfigError(
            f"{prefix}test_fraction={test_fraction} and {prefix}val_fraction={val_fraction} leave nothing to train on; "
            "lower them to less than 1 together"
        )


DataSources = SingleCorpora | MixtureConfig
"""Everything that `data=...` can name."""
