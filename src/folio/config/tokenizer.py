"""The tokenizers and their keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from folio.config.section import ConfigError, Option, Text, sections_by_name
from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.state import read_state_file, state_from_json
from folio.runtime.errors import FolioError
from folio.runtime.terminal import did_you_mean
from folio.runtime.untrusted import shown

if TYPE_CHECKING:
    from folio.data.tokenizers.huggingface import HuggingFaceTokenizer


class TokenizerConfig(Option):
    """`code` is a subclass of `folio.data.tokenizers.base.Tokenizer`."""

    name: str

    def check(self) -> None:
        """Raises: ConfigError if a key is missing."""

    def choice(self, trained: Tokenizer | None = None) -> TokenizerChoice:
        """Return what a corpus is prepared with. `trained` is the tokenizer of a model that was trained with it.

        Raises: FolioError if it is read from a file that cannot be used.
        """
        return TokenizerChoice(self.load_code(), **self.model_dump())


class ByteTokenizerConfig(TokenizerConfig):
    """The bytes of UTF-8."""

    code: ClassVar[str] = "folio.data.tokenizers.byte:ByteTokenizer"
    name: Literal["byte"]


class CharTokenizerConfig(TokenizerConfig):
    """The characters of the text."""

    code: ClassVar[str] = "folio.data.tokenizers.char:CharTokenizer"
    name: Literal["char"]


class WordTokenizerConfig(TokenizerConfig):
    """The words and punctuation marks of the training text."""

    code: ClassVar[str] = "folio.data.tokenizers.word:WordTokenizer"
    name: Literal["word"]
    max_vocab_size: Annotated[int, Field(ge=4, le=2**31 - 1)] | None
    """Maximum number of ids, including three for unknown words, joins and spaces; null: one for every word."""


class BPETokenizerConfig(TokenizerConfig):
    """Byte pairs learned from the training text."""

    code: ClassVar[str] = "folio.data.tokenizers.bpe:BPETokenizer"
    name: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=257, le=2**20)]
    """Number of ids: 256 bytes, the learned pairs and the end of text."""


class TiktokenTokenizerConfig(TokenizerConfig):
    """OpenAI's byte-pair encodings."""

    code: ClassVar[str] = "folio.data.tokenizers.tiktoken_bpe:TiktokenTokenizer"
    name: Literal["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base"]


class HuggingFaceTokenizerConfig(TokenizerConfig):
    """Any tokenizer.json of Hugging Face's library."""

    code: ClassVar[str] = "folio.data.tokenizers.huggingface:HuggingFaceTokenizer"
    name: Literal["huggingface"]
    path: Text | None
    """A tokenizer.json, or a folder that has one."""

    def check(self) -> None:
        if self.path is None:
            raise ConfigError(
                "tokenizer.path=null: tokenizer=huggingface needs a tokenizer.json, or a folder that has one; add "
                "tokenizer.path=my_folder"
            )

    def choice(self, trained: Tokenizer | None = None) -> TokenizerChoice:
        """The file is not read again for a model that was trained: it may be gone, or another one by now."""
        kind: type[HuggingFaceTokenizer] = self.load_code()
        assert self.path is not None
        tokenizer = trained if isinstance(trained, kind) else kind.read(Path(self.path))
        return TokenizerChoice(kind, self.name, shared=tokenizer)


Tokenizers = (
    TiktokenTokenizerConfig
    | CharTokenizerConfig
    | ByteTokenizerConfig
    | WordTokenizerConfig
    | BPETokenizerConfig
    | HuggingFaceTokenizerConfig
)
"""All tokenizers that can be chosen. A new one is added here."""

TOKENIZERS: dict[str, type[TokenizerConfig]] = sections_by_name(Tokenizers)
"""The sections of all tokenizers by name."""


def choose_tokenizer(name: str, **options: Any) -> TokenizerChoice:
    """Return a tokenizer by name, for use from Python. Options that are left out are null.

    Raises: FolioError for an unknown name.
    """
    if name not in TOKENIZERS:
        raise FolioError(
            f"tokenizer={name} is unknown; choose one of {', '.join(TOKENIZERS)}{did_you_mean(name, list(TOKENIZERS))}"
        )
    return TOKENIZERS[name].model_construct(name=name, **options).choice()


def load_tokenizer(state: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a state that a checkpoint holds. Raises: FolioError if it is unknown or damaged."""
    name = state.get("name")
    if not isinstance(name, str) or name not in TOKENIZERS:
        raise FolioError(
            f"tokenizer state with name={shown(repr(name))} is not one that this version of Folio writes (tokenizers: "
            f"{', '.join(TOKENIZERS)}); prepare the data or train again"
        )
    tokenizer: Tokenizer = TOKENIZERS[name].load_code().from_state(state)
    return tokenizer


def read_tokenizer_file(path: Path) -> Tokenizer:
    """Return the tokenizer of a run's tokenizer.json. Raises: OSError; ValueError if it is unknown or damaged."""
    return load_tokenizer(state_from_json(read_state_file(path)))
