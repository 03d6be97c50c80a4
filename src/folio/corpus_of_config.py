"""The corpus that a config names, as `folio.data` knows it."""

from pathlib import Path

from folio.config import RunConfig
from folio.data.corpora.corpus import Making
from folio.data.corpora.reading import Reading
from folio.data.origins import (
    HubDataset,
    Mixed,
    NamedText,
    PreparedFolder,
    SingleSource,
    TextFile,
    TextFiles,
    prepare_source,
)
from folio.data.prepared import PreparedData, Say
from folio.data.sources import SOURCES, TEXT_FILE
from folio.data.tokenizers import TokenizerChoice
from folio.options.data import DataSources, HuggingFaceConfig, MixtureConfig, PartConfig, TextFilesConfig


def prepared_corpus(config: RunConfig, data_dir: Path, say: Say, verify_all: bool = False) -> PreparedData:
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
    if name in SOURCES:
        return NamedText(name)
    if (path / "tokenizer.json").is_file():
        return PreparedFolder(path)
    if path.suffix in ("", ".txt", ".md", ".text") and path.is_file():
        return TextFile(path)
    return _single(PartConfig(weight=1.0, name="text_files", path=name))


def _single(data: DataSources | PartConfig) -> SingleSource:
    if data.name in SOURCES:
        return NamedText(data.name)
    assert data.path is not None
    if data.name == TEXT_FILE:
        return TextFile(Path(data.path))
    if data.name == "prepared":
        return PreparedFolder(Path(data.path))
    assert isinstance(data, TextFilesConfig | HuggingFaceConfig | PartConfig)
    separator = None if isinstance(data, HuggingFaceConfig) else data.document_separator
    making = Making(Reading(data.text_field, separator), data.val_fraction, data.shard_tokens)
    if isinstance(data, TextFilesConfig) or (isinstance(data, PartConfig) and data.name == "text_files"):
        return TextFiles(data.path, making)
    return HubDataset(data.path, data.subset, data.split, data.revision, making)
