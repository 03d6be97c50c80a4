"""A single text, made into token files and a tokenizer once, and opened afterwards.

The folder holds `train.bin`, `val.bin`, perhaps `test.bin`, their sidecars, and `tokenizer.json`. It is reused if all
of these are whole and were made from the same text with the same tokenizer.
"""

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from folio.data.assets import fetch
from folio.data.corpora.named_texts import NAMED_TEXTS
from folio.data.corpora.preparation import (
    TOKENIZER,
    NotReusableError,
    explain_disk_errors,
    log_summary,
    opening,
    prepare_locked,
    read_tokenizer,
    write_tokenizer,
)
from folio.data.corpora.progress import Log, progress
from folio.data.corpora.text import (
    Places,
    TextSplit,
    check_text_file,
    cut_into_pieces,
    split_text,
    train_and_val,
    train_val_and_test,
)
from folio.data.corpora.workers import encode_pieces
from folio.data.prepared import PreparedData
from folio.data.token_file import LARGEST_HASHED_BYTES, TokenFile, TokenFileError, write_token_file
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.runtime.errors import FolioError
from folio.runtime.files import remove_unfinished, sha256_of, write_atomically
from folio.runtime.untrusted import UntrustedFileError, read_json_object

SOURCE_RECORD = "text.json"


class SingleText(ABC):
    """A UTF-8 text that is split by position."""

    @abstractmethod
    def folder(self, data_dir: Path) -> Path:
        """Return the folder of this text, which has a subfolder for each tokenizer."""

    @abstractmethod
    def file(self, data_dir: Path) -> Path:
        """Return the file, downloaded first if need be."""

    @property
    @abstractmethod
    def places(self) -> Places:
        """Where the splits are in the text."""

    @abstractmethod
    def identity(self, data_dir: Path) -> str:
        """Return the sha256 of the text. Raises: FolioError if the text cannot be used."""

    def prepare(self, tokenizer: TokenizerChoice, data_dir: Path, log: Log, verify_all: bool = False) -> PreparedData:
        """See `DataSource`. The text is read in pieces, which as many threads encode as there are processors."""
        folder = self.folder(data_dir) / tokenizer.folder_name
        with explain_disk_errors(data_dir):
            identity = self.identity(data_dir)

            def open_prepared() -> PreparedData:
                data = _open(folder, tokenizer, identity)
                if verify_all and data.open_test is not None:
                    with opening(folder):
                        data.open_test()
                return data

            # Without the lock at first, so that a read-only data folder works as well.
            with suppress(NotReusableError):
                return open_prepared()
            return prepare_locked(folder, open_prepared, lambda: self._prepare(folder, data_dir, tokenizer, log), log)

    def count_units(self, kind: type[LearnedTokenizer], data_dir: Path, log: Log) -> Counter[str]:
        """See `DataSource`."""
        splits, _ = split_text(self.file(data_dir), self.places)
        return _count_units(kind, splits, log)

    def _prepare(self, folder: Path, data_dir: Path, tokenizer: TokenizerChoice, log: Log) -> PreparedData:
        remove_unfinished(folder)
        text = self.file(data_dir)
        started_s = time.perf_counter()
        splits, source_sha256 = split_text(text, self.places)
        _write(splits, source_sha256, tokenizer, folder, data_dir / "assets", log)
        if sha256_of(text) != source_sha256:
            raise FolioError(
                f"data.path={text} was changed while it was being prepared; run the command again when it is complete"
            )
        data = open_text_folder(folder, tokenizer)
        log_summary(data, sum(split.n_bytes for split in splits.values()), started_s, log)
        return data


@dataclass(frozen=True)
class NamedText(SingleText):
    """One of NAMED_TEXTS, the same everywhere. Raises: FolioError for any other name.

    Example:

        >>> NamedText("tiny_shakespeare").folder(Path("data"))
        PosixPath('data/tiny_shakespeare')
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMED_TEXTS:
            raise FolioError(f"data={self.name} is unknown; choose one of {', '.join(NAMED_TEXTS)}, text_file")

    def folder(self, data_dir: Path) -> Path:
        return data_dir / self.name

    def file(self, data_dir: Path) -> Path:
        return fetch(NAMED_TEXTS[self.name].asset, data_dir / "assets")

    @property
    def places(self) -> Places:
        return NAMED_TEXTS[self.name].places

    def identity(self, data_dir: Path) -> str:
        return NAMED_TEXTS[self.name].asset.sha256


@dataclass(frozen=True)
class TextFile(SingleText):
    """A text file of the user.

    Example:

        >>> from folio.config.tokenizer import choose_tokenizer
        >>> _ = Path("my.txt").write_text("To be, or not to be. " * 20)
        >>> data = TextFile("my.txt").prepare(choose_tokenizer("byte"), Path("data"), log=lambda line: None)
        >>> data.tokenizer.decode(data.train.tokens[:6])
        'To be,'
    """

    path: str | Path
    test_fraction: float = 0.0
    """Share of the characters, the last ones, that is for test; 0 for no test split."""

    def folder(self, data_dir: Path) -> Path:
        # The digest keeps two files of one name apart; the stem is for people, cut because names have a limit.
        identity = os.path.abspath(self.path) + (f"\0test_fraction={self.test_fraction}" if self.test_fraction else "")
        digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
        return data_dir / "text_file" / f"{Path(self.path).stem[:40]}-{digest[:8]}"

    def file(self, data_dir: Path) -> Path:
        return Path(self.path)

    @property
    def places(self) -> Places:
        return partial(train_val_and_test, test_fraction=self.test_fraction) if self.test_fraction else train_and_val

    def identity(self, data_dir: Path) -> str:
        path = Path(self.path)
        for record in self.folder(data_dir).glob(f"*/{SOURCE_RECORD}"):
            if (sha256 := _recorded_sha256(record, path)) is not None:
                return sha256
        return check_text_file(path)

    def _prepare(self, folder: Path, data_dir: Path, tokenizer: TokenizerChoice, log: Log) -> PreparedData:
        status = Path(self.path).stat()
        data = super()._prepare(folder, data_dir, tokenizer, log)
        if status.st_size > LARGEST_HASHED_BYTES:
            fields = {
                "n_bytes": status.st_size,
                "modified_ns": status.st_mtime_ns,
                "sha256": data.train.info.source_sha256,
            }
            write_atomically(folder / SOURCE_RECORD, json.dumps(fields).encode())
        return data


def _recorded_sha256(record: Path, path: Path) -> str | None:
    """Return the sha256 of a large text whose size and time are those on record; None for any other text.

    Reading the text again would make each start as long as the text.
    """
    try:
        status = path.stat()
        fields = read_json_object(record)
        is_same = (fields["n_bytes"], fields["modified_ns"]) == (status.st_size, status.st_mtime_ns)
        return str(fields["sha256"]) if is_same and status.st_size > LARGEST_HASHED_BYTES else None
    except (OSError, UntrustedFileError, KeyError):
        return None


def open_text_folder(folder: Path, tokenizer: TokenizerChoice) -> PreparedData:
    """Open a prepared folder, whatever became of its text.

    Raises: NotReusableError unless all files are whole, and of one tokenizer and text.
    """
    loaded, fingerprint = read_tokenizer(folder, tokenizer)
    open_split = partial(_open_split, folder, loaded, fingerprint)
    with opening(folder):
        train, val = open_split("train"), open_split("val")
    if train.info.source_sha256 != val.info.source_sha256:
        raise NotReusableError("the text has changed since")
    has_test = (folder / "test.json").exists()
    return PreparedData(train, val, loaded, folder, open_test=partial(open_split, "test") if has_test else None)


def _open_split(folder: Path, tokenizer: Tokenizer, fingerprint: str, split: str) -> TokenFile:
    """Raises: TokenFileError unless the split is whole, and was made with this tokenizer."""
    file = TokenFile.open(folder / f"{split}.bin")
    if (file.info.tokenizer_fingerprint, file.info.split) != (fingerprint, split):
        raise TokenFileError(file.path, "was made with another tokenizer or for another split")
    if file.info.vocab_size != tokenizer.vocab_size:
        raise TokenFileError(file.path, "has another vocabulary than its tokenizer")
    return file


def _open(folder: Path, tokenizer: TokenizerChoice, source_sha256: str) -> PreparedData:
    """Open a folder of this text. Raises: NotReusableError unless it is whole, and of this text and tokenizer."""
    data = open_text_folder(folder, tokenizer)
    if data.train.info.source_sha256 != source_sha256:
        raise NotReusableError("the text has changed since")
    return data


def _write(
    splits: dict[str, TextSplit],
    source_sha256: str,
    choice: TokenizerChoice,
    folder: Path,
    assets_dir: Path,
    log: Log,
) -> None:
    """Encode the splits and write them. Memory does not grow with the text."""
    kind = choice.learned_kind
    tokenizer = choice.build(assets_dir, _count_units(kind, splits, log) if kind is not None else None)
    fingerprint = write_tokenizer(folder / TOKENIZER, tokenizer)
    with progress("Encoding", sum(split.n_bytes for split in splits.values()), log) as advance:
        for name, split in splits.items():
            write_token_file(
                folder / f"{name}.bin",
                encode_pieces(tokenizer, cut_into_pieces(split.read(advance), tokenizer.last_cut)),
                vocab_size=tokenizer.vocab_size,
                tokenizer=tokenizer.name,
                tokenizer_fingerprint=fingerprint,
                split=name,
                n_bytes=split.n_bytes,
                source_sha256=source_sha256,
            )


def _count_units(kind: type[LearnedTokenizer], splits: dict[str, TextSplit], log: Log) -> Counter[str]:
    learned = [split for name, split in splits.items() if name == "train" or kind.learns_from_validation]
    with progress("Learning", sum(split.n_bytes for split in learned), log) as advance:
        pieces = chain.from_iterable(cut_into_pieces(split.read(advance), kind.last_cut_for_units) for split in learned)
        return Counter(chain.from_iterable(map(kind.find_units, pieces)))
