"""The corpus that a config names, as `folio.data` knows it."""

from pathlib import Path
from typing import Any

from folio.config.checks import check_split_lengths
from folio.config.data import DataSources, HuggingFaceConfig, MixtureConfig, PartConfig, TextFilesConfig
from folio.config.objective import MaskedLMConfig
from folio.config.run import RunConfig
from folio.data.corpora.documents import DocumentFormat
from folio.data.corpora.named_texts import NAMED_TEXTS, TEXT_FILE
from folio.data.corpora.prepare_documents import PrepareOptions
from folio.data.corpora.sources import (
    HubDataset,
    Mixed,
    NamedText,
    PreparedFolder,
    SingleSource,
    TextFile,
    TextFiles,
    prepare_source,
)
from folio.data.prepared import Log, PreparedData, holds_other_than
from folio.data.tokenizers.registry import TokenizerChoice, line_breaks
from folio.runtime.errors import FolioError


def prepared_corpus(config: RunConfig, data_dir: Path, say: Log, verify_all: bool = False) -> PreparedData:
    """Open the corpus of a config, or prepare it first. Raises: FolioError."""
    choice = TokenizerChoice(**config.tokenizer.model_dump())
    return prepare_source(source_of(config.data), choice, data_dir, say, verify_all=verify_all)


def source_of(data: DataSources) -> SingleSource | Mixed:
    """What data=... stands for."""
    if isinstance(data, MixtureConfig):
        assert data.parts
        return Mixed(tuple(_part(name, part) for name, part in data.parts.items()))
    return _single(data)


def _part(name: str, part: float | PartConfig) -> tuple[str, float, SingleSource]:
    if isinstance(part, PartConfig):
        return name, part.weight, _single(part)
    return name, part, _named(name)


def _named(name: str) -> SingleSource:
    """What a bare word of data.parts means: the corpus of that name, a prepared folder, one plain text, a pattern."""
    path = Path(name)
    if name in NAMED_TEXTS:
        return NamedText(name)
    if (path / "tokenizer.json").is_file():
        return PreparedFolder(path)
    if path.suffix in ("", ".txt", ".md", ".text") and path.is_file():
        return TextFile(path)
    return _single(PartConfig(weight=1.0, name="text_files", path=name))


def _single(data: DataSources | PartConfig) -> SingleSource:
    if data.name in NAMED_TEXTS:
        return NamedText(data.name)
    assert data.path is not None
    if data.name == TEXT_FILE:
        return TextFile(Path(data.path))
    if data.name == "prepared":
        return PreparedFolder(Path(data.path))
    assert isinstance(data, TextFilesConfig | HuggingFaceConfig | PartConfig)
    separator = None if isinstance(data, HuggingFaceConfig) else data.document_separator
    making = PrepareOptions(DocumentFormat(data.text_field, separator), data.val_fraction, data.shard_tokens)
    if isinstance(data, TextFilesConfig) or (isinstance(data, PartConfig) and data.name == "text_files"):
        return TextFiles(data.path, making)
    return HubDataset(data.path, data.subset, data.split, data.revision, making)


def prepared_data(config: RunConfig, data_dir: Path | None = None, verify_all: bool = False) -> PreparedData:
    """The corpus that a config names, from `data_dir` in place of its own where one is given. Raises: FolioError.

    `verify_all` reads every checksum of shards that are there already.
    """
    return prepared_corpus(config, data_dir or Path(config.paths.data_dir), say=print, verify_all=verify_all)


def data_of(trained: Any, data_dir: Path | None) -> PreparedData:
    """Return the data that a model was trained on. Raises: FolioError where the tokens would differ."""
    data = prepared_data(trained.config, data_dir)
    if data.tokenizer.state() != trained.tokenizer.state():
        raise FolioError(
            f"data.path={trained.config.data.path} gives another tokenizer than the checkpoint's: the text has changed "
            "since training; bring back the old text, or train again"
        )
    return data


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Whether both splits hold what the objective reads. Raises: FolioError."""
    for part in data.parts:
        check_split_lengths(config, part.train.info.n_tokens, part.val.info.n_tokens, part.name)
    check_split_lengths(config, data.train.info.n_tokens, data.val.info.n_tokens)
    if isinstance(config.objective, MaskedLMConfig):
        newlines = line_breaks(data.tokenizer).tolist()
        for file in data.files:
            if not holds_other_than(file.tokens, newlines):
                raise FolioError(
                    f"the {file.info.split} split of {file.info.n_tokens} tokens holds newlines alone, and "
                    "objective=masked_lm reads the lines between them; use a text with words at its end"
                )
