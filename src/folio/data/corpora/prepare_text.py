"""A corpus made into two token files and a tokenizer, once, and opened again ever after.

A prepared folder holds `train.bin`, `val.bin`, their sidecars, and `tokenizer.json`. It is used again when
all of these are whole and were made from the same text with the same tokenizer.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from folio.data.assets import fetch
from folio.data.corpora.named_texts import NAMED_TEXTS, TEXT_FILE
from folio.data.corpora.progress import progress
from folio.data.corpora.text import before_white_space, check_text_file, pieces, split_text
from folio.data.corpora.workers import encode_all
from folio.data.prepared import NotReusableError, PreparedData, opening, using
from folio.data.token_file import LARGEST_HASHED_BYTES, TokenFile, write_token_file
from folio.data.tokenizers.registry import (
    TokenizerChoice,
    build_tokenizer,
    fingerprint,
    load_tokenizer,
    state_from_json,
    state_to_json,
)
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, remove_unfinished, sha256_of, write_atomically

REMEMBERED = "text.json"


def prepare(
    source: str, path: Path | None, tokenizer: TokenizerChoice, data_dir: Path, say: Callable[[str], None]
) -> PreparedData:
    """Open the prepared corpus, or prepare it first.

    `source` is a key of SOURCES, or TEXT_FILE, whose text `path` is. Whether something has to be done, and why,
    goes to `say`, a line at a time. Several processes may call this at once: one works, the others wait.
    The text is read in pieces, which as many threads encode as there are processors.

    Raises: FolioError for an unknown source, an unusable text, a file that cannot be had or written.
    """
    folder = _corpus_folder(source, path, data_dir) / tokenizer.folder_name
    if path is None or _remembered(path, folder) is None:
        _check_source(source, path)
    with using(data_dir):
        # Without the lock at first, so that a data folder that may only be read serves as well.
        with suppress(NotReusableError):
            return _open(folder, _source_sha256(source, path, folder), tokenizer)
        return _prepare_locked(source, path, tokenizer, folder, data_dir / "assets", say)


def _check_source(source: str, path: Path | None) -> None:
    if source == TEXT_FILE:
        check_text_file(path)
        return
    if source not in NAMED_TEXTS:
        raise FolioError(f"data source {source!r} is unknown; choose one of {', '.join((*NAMED_TEXTS, TEXT_FILE))}")
    assert path is None, "only text_file has a path"


def _corpus_folder(source: str, path: Path | None, data_dir: Path) -> Path:
    if path is None:
        return data_dir / source
    # The digest keeps two files of one name apart; the stem is for people, cut because a name has a limit.
    digest = hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogateescape")).hexdigest()
    return data_dir / source / f"{path.stem[:40]}-{digest[:8]}"


def _source_sha256(source: str, path: Path | None, folder: Path) -> str:
    if path is None:
        return NAMED_TEXTS[source].sha256
    return _remembered(path, folder) or sha256_of(path)


def _remembered(path: Path, folder: Path) -> str | None:
    """The sha256 of a large text that has the size and time that it had when it was prepared; None of any other.

    Reading it again would make each start as long as the text.
    """
    try:
        seen = path.stat()
        fields = json.loads((folder / REMEMBERED).read_bytes())
        is_same = (fields["n_bytes"], fields["modified_ns"]) == (seen.st_size, seen.st_mtime_ns)
        return str(fields["sha256"]) if is_same and seen.st_size > LARGEST_HASHED_BYTES else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _remember(path: Path, folder: Path, sha256: str) -> None:
    seen = path.stat()
    fields = {"n_bytes": seen.st_size, "modified_ns": seen.st_mtime_ns, "sha256": sha256}
    write_atomically(folder / REMEMBERED, json.dumps(fields).encode())


def text_sha256(path: Path, data_dir: Path) -> str:
    """Of a text that may have been prepared; of a large one without reading it, where it has not changed since."""
    folders = _corpus_folder(TEXT_FILE, path, data_dir).glob("*")
    remembered = (_remembered(path, folder) for folder in folders)
    return next(filter(None, remembered), None) or sha256_of(path)


def open_as_it_is(folder: Path) -> PreparedData:
    """A prepared folder. Raises NotReusableError unless all of it is whole, and of one tokenizer and text."""
    with opening(folder / "tokenizer.json"):
        state = (folder / "tokenizer.json").read_bytes()
        loaded = load_tokenizer(state_from_json(state))
        train, val = TokenFile.open(folder / "train.bin"), TokenFile.open(folder / "val.bin")
    for file, split in ((train, "train"), (val, "val")):
        made_as = (file.info.tokenizer, file.info.tokenizer_fingerprint, file.info.split)
        if made_as != (loaded.name, fingerprint(state), split):
            raise NotReusableError(f"{file.path} was made with another tokenizer or for another split")
        if file.info.vocab_size != loaded.vocab_size:
            raise NotReusableError(f"{file.path} has another vocabulary than its tokenizer")
    if train.info.source_sha256 != val.info.source_sha256:
        raise NotReusableError("the text has changed since")
    return PreparedData(train, val, loaded, folder)


def _open(folder: Path, source_sha256: str, tokenizer: TokenizerChoice) -> PreparedData:
    """Raises NotReusableError unless the folder is whole, of this text and tokenizer."""
    data = open_as_it_is(folder)
    if source_sha256 != data.train.info.source_sha256:
        raise NotReusableError("the text has changed since")
    if not tokenizer.allows(data.tokenizer):
        raise NotReusableError(f"{folder} was made with another tokenizer")
    return data


def _prepare_locked(
    source: str,
    path: Path | None,
    tokenizer: TokenizerChoice,
    folder: Path,
    assets_dir: Path,
    say: Callable[[str], None],
) -> PreparedData:
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / "prepared"):
        try:
            # Another process may have done the work while this one waited.
            return _open(folder, _source_sha256(source, path, folder), tokenizer)
        except NotReusableError as reason:
            say(f"Preparing {folder}" if is_new else f"Preparing {folder} again: {reason}")
        remove_unfinished(folder)
        text = fetch(NAMED_TEXTS[source], assets_dir) if path is None else path
        started = time.perf_counter()
        source_sha256 = _write(text, tokenizer, folder, assets_dir, say)
        elapsed_s = time.perf_counter() - started
        if sha256_of(text) != source_sha256:
            raise FolioError(f"data.path={text} was changed while it was prepared; start again once it is whole")
        if path is not None and path.stat().st_size > LARGEST_HASHED_BYTES:
            _remember(path, folder, source_sha256)
        prepared = _open(folder, source_sha256, tokenizer)
    _report(prepared, elapsed_s, say)
    return prepared


def _report(prepared: PreparedData, elapsed_s: float, say: Callable[[str], None]) -> None:
    train, val = prepared.train.info, prepared.val.info
    megabytes = (train.n_bytes + val.n_bytes) / 1e6
    say(
        f"Prepared {train.n_tokens:,} training and {val.n_tokens:,} validation tokens in {prepared.folder}: "
        f"{megabytes:.1f} MB in {elapsed_s:.1f} s, {megabytes / elapsed_s:.1f} MB/s"
    )
    if train.n_unknown or val.n_unknown:
        say(
            f"{train.tokenizer}: {train.vocab_size:,} symbols; unknown are {100 * train.share_unknown:.1f} % of the "
            f"training and {100 * val.share_unknown:.1f} % of the validation tokens"
        )


def _write(text: Path, choice: TokenizerChoice, folder: Path, assets_dir: Path, say: Callable[[str], None]) -> str:
    """Encode both splits and write them. Memory does not grow with the text. Returns: the sha256 of what was read."""
    splits, source_sha256 = split_text(text)
    n_bytes = sum(split.n_bytes for split in splits.values())
    with progress("Learning", n_bytes, say) as count:
        train, val = (pieces(split.read(count), before_white_space) for split in splits.values())
        tokenizer = build_tokenizer(choice, train, val, assets_dir)
    state = state_to_json(tokenizer.state())
    write_atomically(folder / "tokenizer.json", state)
    with progress("Encoding", n_bytes, say) as count:
        for name, split in splits.items():
            write_token_file(
                folder / f"{name}.bin",
                encode_all(tokenizer, pieces(split.read(count), tokenizer.last_cut)),
                vocab_size=tokenizer.vocab_size,
                tokenizer=tokenizer.name,
                tokenizer_fingerprint=fingerprint(state),
                split=name,
                n_bytes=split.n_bytes,
                source_sha256=source_sha256,
            )
    return source_sha256
