"""Everything that a corpus can be made from, and how to come from there to prepared data."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from folio.data.assets import fetch
from folio.data.batches.mixture import mixed
from folio.data.corpora.hugging_face import HubSource
from folio.data.corpora.named_texts import NAMED_TEXTS, TEXT_FILE
from folio.data.corpora.prepare_documents import (
    CorpusSource,
    FilesSource,
    PrepareOptions,
    folder_of,
    learn,
    open_folder,
    prepare_corpus,
    tokenizer_of,
)
from folio.data.corpora.prepare_text import open_as_it_is, prepare, text_sha256
from folio.data.corpora.shards import MANIFEST
from folio.data.corpora.staging import workers
from folio.data.corpora.text import before_white_space, check_text_file, pieces, split_text
from folio.data.prepared import Log, NotReusableError, PreparedData, using
from folio.data.tokenizers.char import CHAR
from folio.data.tokenizers.registry import Tokenizer, TokenizerChoice, load_tokenizer, state_from_json, state_to_json
from folio.data.tokenizers.word import UNIT
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, write_atomically


@dataclass(frozen=True)
class NamedText:
    """One of `NAMED_TEXTS`."""

    name: str


@dataclass(frozen=True)
class TextFile:
    """A single text, split by place."""

    path: Path


@dataclass(frozen=True)
class TextFiles:
    """The documents of all files that a pattern matches."""

    pattern: str
    making: PrepareOptions


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face Hub, or a folder of one."""

    name: str
    subset: str | None
    split: str
    revision: str | None
    making: PrepareOptions


@dataclass(frozen=True)
class PreparedFolder:
    """A folder that Folio prepared, wherever it lies and whatever became of the text."""

    path: Path


SingleSource = NamedText | TextFile | TextFiles | HubDataset | PreparedFolder


@dataclass(frozen=True)
class Mixed:
    """Corpora with their names and weights."""

    parts: tuple[tuple[str, float, SingleSource], ...]


def prepare_source(
    source: SingleSource | Mixed, tokenizer: TokenizerChoice, data_dir: Path, say: Log, verify_all: bool = False
) -> PreparedData:
    """Open what was prepared from a source, or prepare it first. `verify_all`: see `prepare_corpus`.

    Raises: FolioError in one line for whatever is wrong with the source or the folder.
    """
    with using(data_dir):
        match source:
            case NamedText(name):
                return prepare(name, None, tokenizer, data_dir, say)
            case TextFile(path):
                return prepare(TEXT_FILE, path, tokenizer, data_dir, say)
            case PreparedFolder(path):
                return _open_prepared(path, tokenizer)
            case Mixed(parts):
                given = _tokenizer_of_all(parts, tokenizer, data_dir, say)
                prepared = [
                    (name, weight, prepare_source(part, given, data_dir, say, verify_all))
                    for name, weight, part in parts
                ]
                return mixed(prepared)
            case _:
                folder = folder_of(*_named(source), data_dir)
                corpus = _corpus(source)
                return prepare_corpus(
                    corpus, source.making, tokenizer, folder, data_dir / "assets", say, verify_all=verify_all
                )


def _named(source: TextFiles | HubDataset) -> tuple[str, str, PrepareOptions]:
    """Kind, name and making, of which the folder is a function."""
    if isinstance(source, TextFiles):
        return "text_files", str(Path(source.pattern).absolute()), source.making
    name = str(Path(source.name).absolute()) if Path(source.name).is_dir() else source.name
    parts = [name, source.subset or "", source.split, source.revision or ""]
    return "huggingface", " ".join(filter(None, parts)), source.making


def _corpus(source: TextFiles | HubDataset) -> CorpusSource:
    reading = source.making.reading
    if isinstance(source, TextFiles):
        return FilesSource(source.pattern, reading)
    return HubSource(source.name, source.subset, source.split, source.revision, reading)


def _open_prepared(folder: Path, tokenizer: TokenizerChoice) -> PreparedData:
    """Raises: FolioError where it is no prepared folder, not whole, or of another tokenizer."""
    try:
        data = open_folder(folder)[1] if (folder / MANIFEST).exists() else open_as_it_is(folder)
    except NotReusableError as fault:
        raise FolioError(
            f"data.path={folder} is no prepared folder that can be used: {fault}; give one that "
            "scripts/prepare_data.py has named at its end"
        ) from None
    if data.tokenizer.name != tokenizer.name:
        raise FolioError(
            f"data.path={folder} was prepared with tokenizer={data.tokenizer.name}, not {tokenizer.name}; "
            f"add tokenizer={data.tokenizer.name}"
        )
    if not tokenizer.allows(data.tokenizer):
        raise FolioError(
            f"data.path={folder} was prepared with another vocabulary of tokenizer={tokenizer.name} than the other "
            "parts have; prepare it together with them, or use a tokenizer that does not learn from its text"
        )
    return data


def _tokenizer_of_all(
    parts: Iterable[tuple[str, float, SingleSource]], choice: TokenizerChoice, data_dir: Path, say: Log
) -> TokenizerChoice:
    """The choice, with the one tokenizer that was learned from all parts where it is one that learns.

    It is kept in a file with what it was learned from, so that a start reads none of the texts.
    """
    if not choice.learns:
        return choice
    sources = [source for _, _, source in parts]
    names = hashlib.sha256("\n".join(map(repr, sources)).encode("utf-8", "surrogateescape")).hexdigest()
    file = data_dir / "mixture" / names[:8] / f"{choice.folder_name}.json"
    identities = [_identity(source, data_dir) for source in sources]
    file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(file):
        tokenizer = _kept_tokenizer(file, identities)
        if tokenizer is None:
            say(f"Learning the vocabulary of {len(sources)} corpora together")
            tokenizer = _learn_all(sources, choice, data_dir, say)
            kept = {"learned_from": identities, "state": json.loads(state_to_json(tokenizer.state()))}
            write_atomically(file, json.dumps(kept).encode())
    return TokenizerChoice(choice.name, choice.max_vocab_size, given=tokenizer)


def _kept_tokenizer(file: Path, identities: list[str]) -> Tokenizer | None:
    try:
        kept = json.loads(file.read_bytes())
        if kept["learned_from"] == identities:
            return load_tokenizer(state_from_json(json.dumps(kept["state"]).encode()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, FolioError):
        pass
    return None


def _identity(source: SingleSource, data_dir: Path) -> str:
    match source:
        case NamedText(name):
            return NAMED_TEXTS[name].sha256
        case TextFile(path):
            if not path.is_file():
                check_text_file(path)
            return text_sha256(path, data_dir)
        case PreparedFolder(path):
            raise FolioError(
                f"data.parts: the vocabulary of {path} is made already, and this tokenizer learns from all parts; give "
                "its text instead, or use a tokenizer that does not learn, such as tokenizer=gpt2"
            )
        case _:
            return _corpus(source).identity()


def _learn_all(sources: list[SingleSource], choice: TokenizerChoice, data_dir: Path, say: Log) -> Tokenizer:
    characters: set[str] = set()
    units: Counter[str] = Counter()
    for source in sources:
        if isinstance(source, TextFiles | HubDataset):
            corpus = _corpus(source)
            with workers(corpus.n_bytes) as helpers:
                own_characters, own_units = learn(corpus, source.making, choice, helpers, say)
            characters |= own_characters
            units += own_units
            continue
        assert not isinstance(source, PreparedFolder)
        text = fetch(NAMED_TEXTS[source.name], data_dir / "assets") if isinstance(source, NamedText) else source.path
        splits, _ = split_text(text)
        train, val = (pieces(split.read(lambda n: None), before_white_space) for split in splits.values())
        if choice.name == CHAR:
            characters = characters.union(*chain(train, val))
        else:
            units.update(chain.from_iterable(map(UNIT.findall, train)))
    return tokenizer_of(choice, characters, units)
