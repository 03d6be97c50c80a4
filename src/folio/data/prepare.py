"""A corpus made into two token files and a tokenizer, once, and opened again ever after.

A prepared folder holds `train.bin`, `val.bin`, their sidecars, and `tokenizer.json`. It is used again when
all of these are whole and were made from the same text with the same tokenizer.
"""

import codecs
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from folio.data import tiny_shakespeare
from folio.data.assets import fetch
from folio.data.token_file import TokenFile, TokenFileError, write_token_file
from folio.data.tokenizers import (
    Tokenizer,
    TokenizerChoice,
    build_tokenizer,
    load_tokenizer,
    state_from_json,
    state_to_json,
)
from folio.errors import FolioError
from folio.files import exclusive_lock, sha256_of, write_atomically

SOURCES = ("tiny_shakespeare", "text_file")
TRAIN_FRACTION = 0.9
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class PreparedData:
    """What training needs of a corpus."""

    train: TokenFile
    val: TokenFile
    tokenizer: Tokenizer
    folder: Path


class _NotReusableError(Exception):
    """The folder cannot be used as it is; the message says why."""


def prepare(
    source: str, path: Path | None, tokenizer: TokenizerChoice, data_dir: Path, say: Callable[[str], None]
) -> PreparedData:
    """Open the prepared corpus, or prepare it first.

    `source` is one of SOURCES; `path` is the text of `text_file`. Whether something has to be done, and why,
    goes to `say`, a line at a time. Several processes may call this at once: one works, the others wait.
    The text is held in memory while it is prepared, several times its size.

    Raises: FolioError for an unknown source, an unusable text, a file that cannot be had or written.
    """
    _check_source(source, path)
    folder = _corpus_folder(source, path, data_dir) / tokenizer.folder_name
    try:
        # Without the lock at first, so that a data folder that may only be read serves as well.
        with suppress(_NotReusableError):
            return _open(folder, _source_sha256(path), tokenizer)
        return _prepare_locked(path, tokenizer, folder, data_dir / "assets", say)
    except OSError as error:
        raise FolioError(
            f"paths.data_dir={data_dir} cannot be used: {error}; free space there, mend its permissions, "
            "or choose another folder"
        ) from error


def check_text_file(path: Path | None) -> None:
    """Whether `path` can be a corpus: an existing, readable, non-empty file of UTF-8 text without NUL bytes.

    Memory does not grow with the file.

    Raises: FolioError that names the rule and, for wrong bytes, where they are.
    """
    if path is None:
        raise FolioError("data.path is not set, but data=text_file needs it; give data.path=<a text file>")
    try:
        # Not opened before it is known to be a regular file: opening a pipe would wait for ever.
        if not path.exists():
            raise FolioError(f"data.path={path} does not exist; give the path of a UTF-8 text file")
        if not path.is_file():
            raise FolioError(f"data.path={path} is not a regular file; give the path of a UTF-8 text file")
        _check_text_bytes(path)
    except OSError as error:
        raise FolioError(
            f"data.path={path} cannot be read: {error.strerror}; mend its permissions, or give another file"
        ) from error


def _check_text_bytes(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if (nul := chunk.find(b"\0")) >= 0:
                raise FolioError(
                    f"data.path={path} holds a NUL byte at byte offset {offset + nul}, so it is not "
                    "UTF-8 text; convert it, from UTF-16 for instance with iconv -f UTF-16 -t UTF-8"
                )
            _decode(decoder, chunk, offset, path)
            offset += len(chunk)
    if offset == 0:
        raise FolioError(f"data.path={path} is empty; give a file with text in it")
    _decode(decoder, b"", offset, path, final=True)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, path: Path, final: bool = False) -> None:
    n_pending = len(decoder.getstate()[0])
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise FolioError(
            f"data.path={path} is not valid UTF-8 at byte offset {offset - n_pending + error.start} "
            f"({error.reason}); convert it, for instance with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def _check_source(source: str, path: Path | None) -> None:
    if source not in SOURCES:
        raise FolioError(f"data source {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    if source == "text_file":
        check_text_file(path)
    else:
        assert path is None, "only text_file has a path"


def _corpus_folder(source: str, path: Path | None, data_dir: Path) -> Path:
    if path is None:
        return data_dir / source
    # The digest keeps two files of one name apart; the stem is for people, cut because a name has a limit.
    digest = hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogateescape")).hexdigest()
    return data_dir / source / f"{path.stem[:40]}-{digest[:8]}"


def _source_sha256(path: Path | None) -> str:
    return tiny_shakespeare.ASSET.sha256 if path is None else sha256_of(path)


def _open(folder: Path, source_sha256: str, tokenizer: TokenizerChoice) -> PreparedData:
    """The folder as it is. Raises _NotReusableError unless all of it is whole, of this text and tokenizer."""
    try:
        state = (folder / "tokenizer.json").read_bytes()
        loaded = load_tokenizer(state_from_json(state))
        train, val = TokenFile.open(folder / "train.bin"), TokenFile.open(folder / "val.bin")
    except FileNotFoundError as error:
        raise _NotReusableError(f"{error.filename} is missing") from error
    except TokenFileError as error:
        raise _NotReusableError(error.fault) from error
    except ValueError as error:
        raise _NotReusableError(f"{folder / 'tokenizer.json'} is damaged") from error
    for file, split in ((train, "train"), (val, "val")):
        if file.info.source_sha256 != source_sha256:
            raise _NotReusableError("the text has changed since")
        made_as = (file.info.tokenizer, file.info.tokenizer_fingerprint, file.info.split)
        if made_as != (tokenizer.name, _fingerprint(state), split) or not tokenizer.allows(loaded):
            raise _NotReusableError(f"{file.path} was made with another tokenizer or for another split")
    return PreparedData(train, val, loaded, folder)


def _fingerprint(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()


def _prepare_locked(
    path: Path | None, tokenizer: TokenizerChoice, folder: Path, assets_dir: Path, say: Callable[[str], None]
) -> PreparedData:
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / "prepared"):
        try:
            # Another process may have done the work while this one waited.
            return _open(folder, _source_sha256(path), tokenizer)
        except _NotReusableError as reason:
            say(f"Preparing {folder}" if is_new else f"Preparing {folder} again: {reason}")
        data = (fetch(tiny_shakespeare.ASSET, assets_dir) if path is None else path).read_bytes()
        _write(data, tokenizer, folder, assets_dir)
        prepared = _open(folder, hashlib.sha256(data).hexdigest(), tokenizer)
    _report(prepared, say)
    return prepared


def _report(prepared: PreparedData, say: Callable[[str], None]) -> None:
    train, val = prepared.train.info, prepared.val.info
    say(f"Prepared {train.n_tokens:,} training and {val.n_tokens:,} validation tokens in {prepared.folder}")
    if train.n_unknown or val.n_unknown:
        say(
            f"{train.tokenizer}: {train.vocab_size:,} symbols; unknown are {100 * train.share_unknown:.1f} % of the "
            f"training and {100 * val.share_unknown:.1f} % of the validation tokens"
        )


def _write(data: bytes, choice: TokenizerChoice, folder: Path, assets_dir: Path) -> None:
    """Encode both splits and write them.

    Bytes are decoded as they are: CRLF stays CRLF, and a byte order mark stays a character of the text.
    """
    text = data.decode("utf-8")
    cut = int(TRAIN_FRACTION * len(text))
    splits = {"train": text[:cut], "val": text[cut:]}
    for split, part in splits.items():
        if not part:
            raise FolioError(f"the {split} split of a {len(text)} character text is empty; use a longer text")
    tokenizer = build_tokenizer(choice, splits["train"], splits["val"], assets_dir)
    state = state_to_json(tokenizer.state())
    write_atomically(folder / "tokenizer.json", state)
    for split, part in splits.items():
        unknown = tokenizer.unknown(part)
        write_token_file(
            folder / f"{split}.bin",
            tokenizer.encode(part),
            vocab_size=tokenizer.vocab_size,
            tokenizer=tokenizer.name,
            tokenizer_fingerprint=_fingerprint(state),
            split=split,
            n_unknown=unknown.n_tokens,
            n_bytes=len(part.encode("utf-8")),
            spelling_bits=unknown.spelling_bits,
            source_sha256=hashlib.sha256(data).hexdigest(),
        )
