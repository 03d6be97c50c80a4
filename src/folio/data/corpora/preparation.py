"""The parts that the preparation of a single text and of many documents share.

Both put a corpus into a folder once, and open it afterwards: `tokenizer.json`, the tokens of two splits, and a file,
written last, that makes the folder valid.

They remain two pipelines because they make different bytes. A single text is split by position, as nanoGPT does; its
ids are those of the whole text, and each split is one token file that fits any reader of flat token arrays. A corpus of
documents is split by a hash of each document, without duplicates, with separators, into shards, and an interrupted
preparation resumes. Tiny Shakespeare as a single document could not be split by documents at all.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from folio.data.corpora.progress import Log
from folio.data.prepared import PreparedData
from folio.data.token_file import TokenFileError
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.state import fingerprint, read_state_file, state_from_json, state_to_json
from folio.runtime.errors import FolioError, explain_os_error
from folio.runtime.files import check_writable, exclusive_lock, remove_if_empty, remove_lock, write_atomically

TOKENIZER = "tokenizer.json"


class DataSource(Protocol):
    """A corpus that `data=...` can name. To add a kind, write a class with these methods and a config section.

    Sections are in `folio.config.data`. The constructor takes the keys that its parameters name.
    """

    def prepare(self, tokenizer: TokenizerChoice, data_dir: Path, log: Log, verify_all: bool = False) -> PreparedData:
        """Open the prepared corpus, or prepare it first.

        What is done, and why, goes to `log`; nothing is logged if the corpus is merely opened. `verify_all` checks all
        shards of a prepared corpus; otherwise only their sizes, and the checksums of small splits, are checked.
        Several processes can call this at once: one works, the others wait.

        Raises: FolioError, in one line, if the source or the folder cannot be used.
        """
        ...

    def identity(self, data_dir: Path) -> str:
        """Return a digest that changes when the text may have changed."""
        ...

    def count_units(self, kind: type[LearnedTokenizer], data_dir: Path, log: Log) -> Counter[str]:
        """Count the units of the text from which a tokenizer of this kind learns."""
        ...


class NotReusableError(Exception):
    """A prepared folder cannot be used as it is; the message says why."""


class OtherTokenizerError(NotReusableError):
    """A prepared folder has another tokenizer or vocabulary than the chosen one. `found` is the tokenizer's name."""

    def __init__(self, folder: Path, found: str) -> None:
        super().__init__(f"{folder} was made with another tokenizer")
        self.found = found


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Turn errors about missing and damaged files of a prepared folder into NotReusableError."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotReusableError(f"{error.filename} is missing") from error
    except TokenFileError as error:
        raise NotReusableError(error.fault) from error
    except ValueError as error:
        raise NotReusableError(f"{folder / TOKENIZER} is damaged") from error


def read_tokenizer(folder: Path, choice: TokenizerChoice) -> tuple[Tokenizer, str]:
    """Return a folder's tokenizer and its fingerprint.

    Raises: NotReusableError if it is missing or damaged; OtherTokenizerError if it is not the chosen one.
    """
    with opening(folder):
        state_json = read_state_file(folder / TOKENIZER)
        found = str(state_from_json(state_json).get("name"))
        if found != choice.name or not choice.allows(tokenizer := choice.load(state_json)):
            raise OtherTokenizerError(folder, found)
        return tokenizer, fingerprint(state_json)


def write_tokenizer(path: Path, tokenizer: Tokenizer) -> str:
    """Write the tokenizer to a file. Returns its fingerprint."""
    state_json = state_to_json(tokenizer.state())
    write_atomically(path, state_json)
    return fingerprint(state_json)


@contextmanager
def explain_disk_errors(data_dir: Path) -> Iterator[None]:
    """Turn errors of the disk into a FolioError that names paths.data_dir."""
    try:
        yield
    except OSError as error:
        raise FolioError(
            f"paths.data_dir={data_dir} cannot be used ({explain_os_error(error) or error}); free space there, fix its "
            "permissions, or choose another folder"
        ) from error


def prepare_locked(
    folder: Path,
    open_prepared: Callable[[], PreparedData],
    prepare: Callable[[], PreparedData],
    log: Log,
    resumes: bool = False,
) -> PreparedData:
    """Prepare a folder while no other process does. A new folder is removed again if its documents are refused.

    `resumes`: an earlier process has left work to continue.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with remove_if_empty(*missing), exclusive_lock(folder / "prepared"):
        try:
            return open_prepared()  # another process may have done the work while this one waited
        except NotReusableError as reason:
            check_writable(folder)
            log(f"Preparing {folder}" if missing or resumes else f"Preparing {folder} again: {reason}")
        try:
            return prepare()
        except FolioError:
            if missing:
                remove_lock(folder / "prepared")
            raise


def log_summary(prepared: PreparedData, n_bytes: int, started_s: float, log: Log, documents: str = "") -> None:
    """Log the size of a corpus that was just prepared, and the speed at which `n_bytes` of text were."""
    train, val = prepared.train.info, prepared.val.info
    n_test = f", and {prepared.open_test().info.n_tokens:,} test tokens" if prepared.open_test is not None else ""
    megabytes, elapsed_s = n_bytes / 1e6, time.perf_counter() - started_s
    speed = f": {megabytes:.1f} MB in {elapsed_s:.1f} s, {megabytes / elapsed_s:.1f} MB/s" if n_bytes else ""
    log(
        f"Prepared {train.n_tokens:,} training and {val.n_tokens:,} validation tokens{n_test}{documents} "
        f"in {prepared.folder}{speed}"
    )
    if train.n_unknown or val.n_unknown:
        log(
            f"{train.tokenizer}: {train.vocab_size:,} symbols; unknown are {100 * train.share_unknown:.1f} % of the "
            f"training and {100 * val.share_unknown:.1f} % of the validation tokens"
        )
    if not (train.reproduces_text and val.reproduces_text):
        log(
            f"{train.tokenizer}: its ids do not reproduce this text, because it changes the text or lacks symbols; so "
            "bits per byte are unknown, and losses compare only between runs with this tokenizer"
        )
