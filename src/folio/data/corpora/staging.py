"""Documents encoded by all processors, in order, into two files that a killed process goes on with.

`tokens` holds the ids of every document and `documents` a row of DOCUMENT for each. `journal.json` says how much of
them is good, and where in the corpus to go on; all that lies behind is cut off and made again. Blocks go to the workers
and come back in order, so the files are the same for any number of processors and of interruptions.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from folio.data.corpora.documents import BLOCK_BYTES, DocumentBlock, DocumentFormat, documents_of
from folio.data.tokenizers.registry import Tokenizer, load_tokenizer, state_from_json
from folio.data.tokenizers.word import UNIT
from folio.runtime.cpus import available_cpus
from folio.runtime.errors import FolioError
from folio.runtime.files import write_atomically

DOCUMENT = np.dtype(
    [
        ("high", "<u8"),  # the two halves of its hash
        ("low", "<u8"),
        ("n_tokens", "<u4"),  # with those of the separator
        ("n_bytes", "<u4"),
        ("n_unknown", "<u4"),
        ("spelling_bits", "<f8"),
    ]
)

AHEAD = 2
"""Tasks in work beyond one for each processor, so that none waits for the next."""

SMALL_BYTES = 2 * BLOCK_BYTES
"""Of a corpus that is done before processes to help would have started."""

JOURNAL_EVERY_S = 2.0

SEPARATOR = "\n\n"
"""Behind a document, of a tokenizer without an id for the end of a text."""


@dataclass(frozen=True)
class ReadPosition:
    """Where reading goes on: a file by its number, and what Block calls `end` and `next` in it."""

    file: int = 0
    end: int = 0
    next: int = 1


class Source(Protocol):
    """Something with blocks of documents in a fixed order."""

    def blocks(self, after: ReadPosition) -> Iterator[tuple[ReadPosition, DocumentBlock]]:
        """Those from a position on, each with the position behind it."""
        ...


Task = tuple[ReadPosition, list[DocumentBlock]]
"""Blocks that one worker takes at a time, and the position behind them."""

Count = Callable[[int], None]
"""To be told of bytes that were read."""


def tasks(blocks: Iterable[tuple[ReadPosition, DocumentBlock]]) -> Iterator[Task]:
    """Blocks of small files together, for a task should be some work."""
    together: list[DocumentBlock] = []
    size = 0
    position = ReadPosition()
    for position, block in blocks:
        together.append(block)
        size += len(block.documents) if isinstance(block.documents, bytes) else sum(map(len, block.documents))
        if size >= BLOCK_BYTES // 2:
            yield position, together
            together, size = [], 0
    if together:
        yield position, together


def separator_ids(tokenizer: Tokenizer) -> np.ndarray:
    """What stands behind each document: the id for the end of a text, or else a blank line."""
    if tokenizer.end_of_text is not None:
        return np.array([tokenizer.end_of_text])
    return tokenizer.encode(SEPARATOR)


@dataclass(frozen=True)
class Encoded:
    """What becomes of a task: raw ids, raw rows of DOCUMENT, and bytes of text."""

    tokens: bytes
    documents: bytes
    n_bytes: int


@dataclass(frozen=True)
class VocabularyCounts:
    """What a vocabulary is made of: the characters of all documents, and the units of those for training."""

    characters: frozenset[str]
    units: Counter[str]
    lowest: int | None
    """The least upper half of a document's hash."""
    n_bytes: int


def encode_blocks(blocks: list[DocumentBlock], reading: DocumentFormat, tokenizer: Tokenizer, dtype: str) -> Encoded:
    """The documents of the blocks in ids, a separator behind each."""
    separator = separator_ids(tokenizer)
    ids: list[np.ndarray] = []
    rows: list[tuple[int, int, int, int, int, float]] = []
    for block in blocks:
        for text, data in documents_of(block, reading):
            tokens, unknown = tokenizer.encode(text), tokenizer.unknown(text)
            ids += [tokens, separator]
            n_tokens = len(tokens) + len(separator)
            rows.append((*hash_of(data), n_tokens, len(data), unknown.n_tokens, unknown.spelling_bits))
    documents = np.array(rows, dtype=DOCUMENT)
    whole = np.concatenate(ids).astype(dtype) if ids else np.empty(0, dtype)
    return Encoded(whole.tobytes(), documents.tobytes(), int(documents["n_bytes"].sum()))


def learn_blocks(
    blocks: list[DocumentBlock], reading: DocumentFormat, val_below: int, counts_units: bool
) -> VocabularyCounts:
    """The vocabulary of the blocks. Documents whose hash lies below `val_below` are for validation."""
    characters: set[str] = set()
    units: Counter[str] = Counter()
    lowest: int | None = None
    n_bytes = 0
    for block in blocks:
        for text, data in documents_of(block, reading):
            high, _ = hash_of(data)
            lowest = high if lowest is None else min(lowest, high)
            n_bytes += len(data)
            if not counts_units:
                characters.update(text)
            elif high >= val_below:
                units.update(UNIT.findall(text + SEPARATOR))
    return VocabularyCounts(frozenset(characters), units, lowest, n_bytes)


def hash_of(document: bytes) -> tuple[int, int]:
    """128 bits that decide the split of a document, and whether it was there before."""
    digest = hashlib.blake2b(document, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


class Workers:
    """Processes that work on tasks, or this one where the corpus is small. Results come in the order of the tasks."""

    def __init__(self, pool: ProcessPoolExecutor | None, n_workers: int) -> None:
        self._pool = pool
        self._n_ahead = n_workers + AHEAD

    def map(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, Any]]:
        """Each first argument, which stays here, with what the function makes of the others.

        Raises: FolioError where a worker has died.
        """
        if self._pool is None:
            yield from ((key, function(*rest)) for key, *rest in arguments)
            return
        in_work: deque[tuple[Any, Future[Any]]] = deque()
        try:
            for key, *rest in arguments:
                in_work.append((key, self._pool.submit(function, *rest)))
                if len(in_work) >= self._n_ahead:
                    key, future = in_work.popleft()
                    yield key, future.result()
            while in_work:
                key, future = in_work.popleft()
                yield key, future.result()
        except BrokenProcessPool:
            raise FolioError(
                "a process that helped to prepare the data was killed, perhaps for want of memory; start again: it "
                "goes on where it was"
            ) from None


@contextmanager
def workers(n_bytes: int) -> Iterator[Workers]:
    """As many processes as there are processors, for a corpus of so many bytes; none where it is small."""
    n_workers = available_cpus()
    if n_bytes <= SMALL_BYTES:
        yield Workers(None, 1)
        return
    # Spawned, because a fork takes the threads' locks along as they are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_begin_worker)
    with _start_method_that_others_know():
        try:
            yield Workers(pool, n_workers)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _start_method_that_others_know() -> Iterator[None]:
    """In a job that joblib runs beside others: a new process takes over the start method of this one, which is
    joblib's own there, and ends at once where it is told a name that it does not know."""
    own = multiprocessing.get_start_method(allow_none=True)
    if own is None or own in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(own, force=True)


def _begin_worker() -> None:
    """Ctrl-C is the parent's to answer; and where that is killed, end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


_made: dict[str, Tokenizer] = {}


def encode_in_worker(
    blocks: list[DocumentBlock], reading: DocumentFormat, tokenizer_file: Path, fingerprint: str, dtype: str
) -> Encoded:
    """`encode_blocks` with the tokenizer of a file, which a process makes once."""
    if fingerprint not in _made:
        _made.clear()
        _made[fingerprint] = load_tokenizer(state_from_json(tokenizer_file.read_bytes()))
    return encode_blocks(blocks, reading, _made[fingerprint], dtype)


@dataclass(frozen=True)
class Journal:
    """How far a staging is. `plan` says of what; sizes are those of the two files."""

    plan: str
    position: ReadPosition
    tokens_bytes: int
    documents_bytes: int
    n_read: int
    """Bytes of the corpus files."""

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path, plan: str) -> "Journal":
        """That of this plan; one from the beginning where there is none."""
        try:
            fields = json.loads(path.read_bytes())
            journal = cls(**fields | {"position": ReadPosition(**fields["position"])})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls(plan, ReadPosition(), 0, 0, 0)
        return journal if journal.plan == plan else cls(plan, ReadPosition(), 0, 0, 0)


@dataclass(frozen=True)
class Staging:
    """The folder in which the documents of a source are laid down before it is known which are kept."""

    folder: Path
    plan: str
    """Another one means other documents or ids: what lies there is of no use."""

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def documents(self) -> Path:
        return self.folder / "documents"

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.json"

    def begun(self) -> Journal:
        """How far an earlier process came; nowhere, where less is there than it wrote."""
        journal = Journal.read(self._journal, self.plan)
        sizes = ((self.tokens, journal.tokens_bytes), (self.documents, journal.documents_bytes))
        is_whole = all(n_bytes == 0 or (path.is_file() and path.stat().st_size >= n_bytes) for path, n_bytes in sizes)
        return journal if is_whole else Journal(self.plan, ReadPosition(), 0, 0, 0)

    def fill(
        self, source: Source, encode: Callable[[Iterator[Task]], Iterator[tuple[Task, Encoded]]], count: Count
    ) -> int:
        """Go on to the end of the source. Returns: the bytes of text that this call encoded."""
        journal = self.begun()
        n_bytes, written = 0, time.monotonic()
        with (
            _from(self.tokens, journal.tokens_bytes) as tokens,
            _from(self.documents, journal.documents_bytes) as table,
        ):
            position, n_read = journal.position, journal.n_read
            for (position, blocks), encoded in encode(tasks(source.blocks(after=journal.position))):
                tokens.write(encoded.tokens)
                table.write(encoded.documents)
                n_new = sum(block.n_read for block in blocks)
                n_read, n_bytes = n_read + n_new, n_bytes + encoded.n_bytes
                count(n_new)
                if time.monotonic() - written >= JOURNAL_EVERY_S:
                    self._write_journal(position, tokens, table, n_read)
                    written = time.monotonic()
            self._write_journal(position, tokens, table, n_read)
        return n_bytes

    def _write_journal(self, position: ReadPosition, tokens: BinaryIO, table: BinaryIO, n_read: int) -> None:
        for file in (tokens, table):
            file.flush()
            os.fsync(file.fileno())  # before the journal says that it is there
        Journal(self.plan, position, tokens.tell(), table.tell(), n_read).write(self._journal)


@contextmanager
def _from(path: Path, n_bytes: int) -> Iterator[BinaryIO]:
    """A file to go on with behind its first bytes."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.truncate(n_bytes)
        file.seek(n_bytes)
        yield file
