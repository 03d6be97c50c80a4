"""The corpus that a config names: what it stands for in `folio.data`, and its preparation."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from folio.config.checks import check_split_lengths
from folio.config.data import DataSources, MixtureConfig, PartConfig
from folio.config.objective import MaskedLMConfig
from folio.config.run import RunConfig
from folio.data.corpora.mixture import CorpusMixture, WeightedSource
from folio.data.corpora.named_texts import NAMED_TEXTS
from folio.data.corpora.preparation import DataSource
from folio.data.prepared import PreparedData, has_token_outside
from folio.runtime.errors import FolioError


def prepare_data(config: RunConfig, data_dir: Path | None = None, verify_all: bool = False) -> PreparedData:
    """Open the corpus of a config, or prepare it first. Raises: FolioError.

    `data_dir` replaces the config's own; `verify_all` checks all shards of a corpus that is already prepared.
    """
    folder = data_dir or Path(config.paths.data_dir)
    return build_source(config.data).prepare(config.tokenizer.choice(), folder, print, verify_all)


def build_source(data: DataSources | PartConfig) -> DataSource:
    """Return the source of a section: its class, made from the keys that the fields of the class name."""
    if isinstance(data, MixtureConfig):
        assert data.parts
        return CorpusMixture(tuple(_build_part(name, part) for name, part in data.parts.items()))
    source_class = data.load_code()
    source: DataSource = source_class(**{field.name: getattr(data, field.name) for field in fields(source_class)})
    return source


def _build_part(name: str, part: float | PartConfig) -> WeightedSource:
    part = part if isinstance(part, PartConfig) else _interpret(name, weight=part)
    return WeightedSource(name, part.weight, build_source(part))


def _interpret(name: str, weight: float) -> PartConfig:
    """Return what a bare word of data.parts means: a named text, a prepared folder, a text file, or a pattern."""
    path = Path(name)
    if name in NAMED_TEXTS:
        return PartConfig(weight=weight, name=name)
    if (path / "tokenizer.json").is_file():
        return PartConfig(weight=weight, name="prepared", path=name)
    if path.suffix in ("", ".txt", ".md", ".text") and path.is_file():
        return PartConfig(weight=weight, name="text_file", path=name)
    return PartConfig(weight=weight, name="text_files", path=name)


def reopen_data(trained: Any, data_dir: Path | None) -> PreparedData:
    """Return the data that a model was trained on. Raises: FolioError if the tokens would differ."""
    data = prepare_data(trained.config, data_dir)
    if data.tokenizer.state() != trained.tokenizer.state():
        raise FolioError(
            f"data.path={trained.config.data.path} gives another tokenizer than the checkpoint's: the text has changed "
            "since training; bring back the old text, or train again"
        )
    return data


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Raises: FolioError unless both splits hold what the objective reads."""
    for part in data.parts:
        check_split_lengths(config, part.train.info.n_tokens, part.val.info.n_tokens, part.name)
    check_split_lengths(config, data.train.info.n_tokens, data.val.info.n_tokens)
    if isinstance(config.objective, MaskedLMConfig):
        line_breaks = data.tokenizer.line_break_ids().tolist()
        for file in data.files:
            if not has_token_outside(file.tokens, line_breaks):
                raise FolioError(
                    f"the {file.info.split} split of {file.info.n_tokens} tokens holds only newlines, and "
                    "objective=masked_lm reads the lines between them; use a text with words at its end"
                )
