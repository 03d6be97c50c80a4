"""The corpus that a config names: what it stands for in `folio.data`, and its preparation."""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from folio.cli.paths import note_other_data_dir, own_data_dir
from folio.config.checks import check_documents, check_split_lengths
from folio.config.data import DataSources, MixtureConfig, PartConfig
from folio.config.part import parse_part
from folio.config.run import RunConfig
from folio.data.corpora.document_corpus import DocumentCorpus
from folio.data.corpora.manifest import MANIFEST
from folio.data.corpora.mixture import CorpusMixture, WeightedSource
from folio.data.corpora.named_texts import NAMED_TEXTS
from folio.data.corpora.parts import CorpusInParts
from folio.data.corpora.preparation import DataSource
from folio.data.prepared import PreparedData, has_token_outside
from folio.data.tokenizers.base import Tokenizer
from folio.generation.prompts import MASK, check_request
from folio.models import TransformerConfig
from folio.runtime.commands import quote_for_shell
from folio.runtime.errors import FolioError

PROMPT_TOKENS = 6
"""Length of a prompt that is taken from the text."""


def prepare_data(
    config: RunConfig,
    data_dir: Path | None = None,
    verify_all: bool = False,
    trained: Tokenizer | None = None,
) -> PreparedData:
    """Open the corpus of a config, or prepare it first. Raises: FolioError.

    `data_dir` replaces the config's own; `verify_all` checks all shards of a corpus that is already prepared.
    `trained` is the tokenizer of a run with this config, in case its file is gone.
    """
    folder = data_dir or Path(config.paths.data_dir)
    if isinstance(config.data, MixtureConfig):
        for name, part in (config.data.parts or {}).items():
            keys = _with_keys(name, part)
            check_documents(config, f"{name} in data.parts", keys.has_documents, keys.has_prompts)
    return build_source(config.data).prepare(config.tokenizer.choice(trained), folder, print, verify_all)


def prepare_part(config: RunConfig) -> PreparedData | None:
    """Prepare the part of the corpus that `part` names, and return None; or join all parts. Raises: FolioError."""
    source = None if isinstance(config.data, MixtureConfig) else build_source(config.data)
    if not isinstance(source, DocumentCorpus):
        raise FolioError(
            f"part={config.part} divides data=text_files and data=huggingface alone, and data={config.data.name} is "
            "something else; leave it out"
        )
    number, n_parts = parse_part(config.part)
    corpus = CorpusInParts(source, config.tokenizer.choice(None), Path(config.paths.data_dir), n_parts, print)
    if number is None:
        return corpus.join()
    corpus.prepare(number)
    return None


def build_source(data: DataSources | PartConfig) -> DataSource:
    """Return the source of a section: its class, made from the keys that the fields of the class name."""
    if isinstance(data, MixtureConfig):
        assert data.parts
        return CorpusMixture(tuple(_build_part(name, part) for name, part in data.parts.items()))
    source_class = data.load_code()
    source: DataSource = source_class(**{field.name: getattr(data, field.name) for field in fields(source_class)})
    return source


def _build_part(name: str, part: float | PartConfig) -> WeightedSource:
    part = _with_keys(name, part)
    return WeightedSource(name, part.weight, build_source(part))


def _with_keys(name: str, part: float | PartConfig) -> PartConfig:
    return part if isinstance(part, PartConfig) else _interpret(name, weight=part)


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


def with_data_path(config: RunConfig, path: str) -> RunConfig:
    """Return the config with another data.path: the place where the text of a run lies by now. Raises: FolioError."""
    if "path" not in type(config.data).model_fields or config.data.path is None:
        raise FolioError(f"data.path={path}: data={config.data.name} is not read from a path; leave it out")
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def suggest_moved_text(error: FolioError, config: RunConfig, option: str) -> FolioError:
    """Return the error of a text that is not where it was, with the option that says where it is now."""
    path = config.data.path
    if path is None or Path(path).exists():
        return error
    return FolioError(f"{error}; if the text of this run has moved, add {option}")


def reopen_data(trained: Any, data_dir: Path | None) -> PreparedData:
    """Return the data that a model was trained on. Raises: FolioError if the tokens would differ.

    They are prepared in `data_dir`, by default that of this checkout: the run may be a stranger's, and must not say
    where files are written.
    """
    if data_dir is None:
        data_dir, known = own_data_dir(), trained.config.paths.data_dir
        note_other_data_dir(known, data_dir, f"--data-dir {quote_for_shell(known)}")
    try:
        data = prepare_data(trained.config, data_dir, trained=trained.tokenizer)
    except FolioError as error:
        raise suggest_moved_text(error, trained.config, "--data-path=<where it is now>") from None
    if data.tokenizer.state() != trained.tokenizer.state():
        raise FolioError(
            f"data.path={trained.config.data.path} gives another tokenizer than the checkpoint's: the text has changed "
            "since training; bring back the old text, or train again"
        )
    return data


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Raises: FolioError unless both splits hold what the objective reads."""
    _check_opened_documents(config, data)
    for part in data.parts:
        check_split_lengths(config, part.train.info.n_tokens, part.val.info.n_tokens, part.name)
    check_split_lengths(config, data.train.info.n_tokens, data.val.info.n_tokens)
    for file in data.files:
        first = file.tokens[:1].tolist()
        if file.info.split == "train" and not has_token_outside(file.tokens, first):
            raise FolioError(
                f"the training split of {file.info.n_tokens} tokens holds nothing but "
                f"{data.tokenizer.decode(first)!r}, so there is nothing to learn; use another text"
            )
    if config.objective.reads_lines:
        line_breaks = data.tokenizer.line_break_ids().tolist()
        for file in data.files:
            if not has_token_outside(file.tokens, line_breaks):
                raise FolioError(
                    f"the {file.info.split} split of {file.info.n_tokens} tokens holds only newlines, and "
                    f"objective={config.objective.name} reads the lines between them; use a text with words at its end"
                )


def _check_opened_documents(config: RunConfig, data: PreparedData) -> None:
    """Raises: FolioError if a corpus lacks the documents that the config asks for."""
    if not config.data.mask_documents and config.training.loss_on == "all":
        return
    for name, split in [(part.name, part.train) for part in data.parts] or [(f"data={config.data.name}", data.train)]:
        folder = split.path.parent
        if split.documents is None and (folder / MANIFEST).exists():
            raise FolioError(
                f"{folder} was prepared by an earlier version of Folio, which did not record where documents end; "
                "remove it, and it is prepared again"
            )
        check_documents(config, name, split.documents is not None, split.completions_info is not None)


def with_sample_prompt(config: RunConfig, data: PreparedData, typed: bool) -> RunConfig:
    """Return the config with a callbacks.samples.prompt that the model can read.

    The default need not be in the vocabulary of the user's text, nor fit into a short context; then samples start as
    the validation text does. A prompt that the user typed is refused instead.

    Raises: FolioError.
    """
    samples = config.callbacks.samples
    if samples.max_new_tokens == 0:
        return config
    assert config.model.vocab_size is not None
    model = config.transformer_config(config.model.vocab_size)
    try:
        _check_prompt(model, data.tokenizer, samples.prompt)
    except FolioError as error:
        if typed:
            raise FolioError(f"callbacks.samples.prompt: {error}") from None
        prompt = _prompt_from_text(model, data)
        print(f"callbacks.samples.prompt={samples.prompt!r} does not suit this model or text; samples start {prompt!r}")
        samples = samples.model_copy(update={"prompt": prompt})
    return config.model_copy(update={"callbacks": config.callbacks.model_copy(update={"samples": samples})})


def _prompt_from_text(model: TransformerConfig, data: PreparedData) -> str:
    """Return the start of the validation text, as much of it as the model can read. Raises: FolioError."""
    blank = MASK if model.family == "encoder" else ""
    for n_tokens in range(PROMPT_TOKENS, 0, -1):
        prompt = data.tokenizer.decode(data.val.tokens[:n_tokens].tolist()) + blank
        with suppress(FolioError):
            _check_prompt(model, data.tokenizer, prompt)
            return prompt
    raise FolioError(
        "callbacks.samples.prompt: the model can read no part of the validation text as a prompt; set "
        "callbacks.samples.max_new_tokens=0 to write no samples"
    )


def _check_prompt(model: TransformerConfig, tokenizer: Tokenizer, prompt: str) -> None:
    """Raises: FolioError unless samples can start with the prompt, which an encoder-decoder reads as its prefix."""
    if model.family == "encoder_decoder":
        check_request(model, tokenizer, "", prompt)
    else:
        check_request(model, tokenizer, prompt)
