"""Many documents, made into shards of tokens once, and opened afterwards.

The folder holds `corpus.json`, `tokenizer.json`, and the shards `train-00000.bin`, `val-00000.bin` and so on. It is
reused if the source is unchanged, which is known without reading it: files by their names, sizes and times. While it is
being made, it contains `unfinished/`, from which a killed process resumes.
"""

import hashlib
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from folio.data.corpora.documents import MAX_DOCUMENT_BYTES, DocumentFormat
from folio.data.corpora.manifest import FORMAT, MANIFEST, TRAINING_SPLITS, Manifest, read_manifest
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
from folio.data.corpora.shards import open_shards, verify_shards, write_shards
from folio.data.corpora.split_documents import Bands, assign_splits
from folio.data.corpora.staging import Staging
from folio.data.corpora.tasks import (
    DOCUMENT,
    EncodedDocuments,
    PositionedBlock,
    ReadPosition,
    Task,
    VocabularyCounts,
    count_units,
    encode_in_worker,
    group_blocks,
)
from folio.data.corpora.workers import HelperKilledError, Workers, start_workers
from folio.data.prepared import PreparedData
from folio.data.token_file import TokenFileError, token_dtype
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.state import fingerprint_of, read_state_file
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, remove_unfinished

UNFINISHED = "unfinished"

MAX_UNITS = 1 << 21
"""Number of different units that are counted at a time, about 300 MB. Beyond it the rarer half is dropped."""


class CorpusPart(NamedTuple):
    """A part of a corpus: where it begins, where it ends, and how many bytes there are to read."""

    begin: ReadPosition
    end: ReadPosition
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class DocumentCorpus(ABC):
    """Documents in a fixed order, from files or elsewhere. They are split by a hash of their content."""

    path: str
    text_field: str = "text"
    val_fraction: float
    """Share of the documents that is for validation; at least one is."""
    test_fraction: float = 0.0
    """Share of the documents that is for test, at least one; 0 for no test split."""
    shard_tokens: int
    """Number of tokens in each shard except the last."""

    @property
    @abstractmethod
    def kind_and_name(self) -> tuple[str, str]:
        """Name of the kind of source, and a name that identifies the source on this machine."""

    @property
    def document_format(self) -> DocumentFormat:
        return DocumentFormat(self.text_field)

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """Number of bytes to read, for the progress."""

    @abstractmethod
    def look_up_identity(self) -> str:
        """Return a digest that changes when the documents may have changed. It must not read the documents."""

    @abstractmethod
    def blocks(self, after: ReadPosition, end: ReadPosition | None = None) -> Iterator[PositionedBlock]:
        """Yield the blocks after a position, up to the beginning of a later part if that is given."""

    @abstractmethod
    def divide(self, n_parts: int) -> list[CorpusPart]:
        """Return parts of about equal size, in order. Raises: FolioError if it cannot be divided into so many."""

    @cached_property
    def _identity(self) -> str:
        return self.look_up_identity()

    def identity(self, data_dir: Path) -> str:
        """See `DataSource`."""
        return self._identity

    def check_unchanged(self) -> None:
        """Raises: FolioError unless the identity is still what it was at first."""
        if self.look_up_identity() != self._identity:
            raise FolioError(
                "data.path: files were changed while they were being prepared; run the command again when they are "
                "complete"
            )

    def folder(self, data_dir: Path) -> Path:
        """Return the folder of this corpus with these options, which has a subfolder for each tokenizer."""
        kind, name = self.kind_and_name
        digest = hashlib.sha256(json.dumps([name, self._options]).encode("utf-8", "surrogateescape")).hexdigest()
        # A hint for people, of characters that any file system allows.
        readable = "".join(char if char.isascii() and char.isalnum() else "-" for char in name)[-40:].strip("-")
        return data_dir / kind / f"{readable}-{digest[:8]}"

    @property
    def _options(self) -> dict[str, Any]:
        """Options that change the shards. The keys are part of digests on disk: a new name would orphan old folders."""
        document_format = self.document_format
        reading = {
            "text_field": document_format.text_field,
            "document_separator": document_format.document_separator,
        }
        options = {"reading": reading, "val_fraction": self.val_fraction, "shard_tokens": self.shard_tokens}
        # Only if it is given, so that folders of earlier versions stay valid.
        return options | ({"test_fraction": self.test_fraction} if self.test_fraction else {})

    def plan(self, tokenizer: str) -> str:
        """Return a digest of everything that the shards depend on. `tokenizer` is its fingerprint."""
        parts = [FORMAT, MAX_DOCUMENT_BYTES, self._identity, self._options, tokenizer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prepare(self, tokenizer: TokenizerChoice, data_dir: Path, log: Log, verify_all: bool = False) -> PreparedData:
        """See `DataSource`. An interrupted preparation is resumed."""
        folder = self.folder(data_dir) / tokenizer.folder_name

        def open_prepared() -> PreparedData:
            return self.open(folder, tokenizer)

        with explain_disk_errors(data_dir):
            # Without the lock at first, so that a read-only data folder works as well.
            with suppress(NotReusableError):
                prepared = open_prepared()
                if (folder / UNFINISHED).exists():
                    _finish_cleanup(folder)
                if verify_all:
                    _verify(folder, log)
                return prepared
            # Looking up the size refuses documents that cannot be found, before a folder is created for them.
            preparation = Preparation(self, tokenizer, folder, data_dir / "assets", log, self.n_bytes)
            return prepare_locked(folder, open_prepared, preparation.run, log, resumes=(folder / UNFINISHED).exists())

    def open(self, folder: Path, choice: TokenizerChoice) -> PreparedData:
        """Open a prepared folder.

        Raises: NotReusableError unless it was made from these documents and options with this tokenizer.
        """
        manifest, prepared = open_document_folder(folder, choice)
        if manifest.plan != self.plan(manifest.tokenizer_fingerprint):
            raise NotReusableError("the files have changed since")
        return prepared

    def count_units(self, kind: type[LearnedTokenizer], data_dir: Path, log: Log) -> Counter[str]:
        """See `DataSource`."""
        with start_workers(self.n_bytes) as workers:
            return self.count_units_with(workers, kind, log)

    def count_units_with(self, workers: Workers, kind: type[LearnedTokenizer], log: Log) -> Counter[str]:
        """`count_units` with workers that are already there."""
        bands = Bands.of_fractions(self.val_fraction, self.test_fraction)
        counts = self._count(workers, kind, bands, log)
        widened = bands.widened(counts.lowest_hash, counts.highest_hash)
        if not kind.learns_from_validation and widened != bands:  # a band was empty, and takes a document from train
            counts = self._count(workers, kind, widened, log)
        return counts.units

    def _count(self, workers: Workers, kind: type[LearnedTokenizer], bands: Bands, log: Log) -> VocabularyCounts:
        units: Counter[str] = Counter()
        lowest_hash, highest_hash = 2**64, -1
        with progress("Learning", self.n_bytes, log) as advance:
            tasks = group_blocks(self.blocks(ReadPosition()))
            arguments = ((blocks, blocks, self.document_format, kind, bands.is_train) for _, blocks in tasks)
            part: VocabularyCounts
            for blocks, part in workers.map(count_units, arguments):
                units.update(part.units)
                if len(units) > MAX_UNITS:
                    units = _most_frequent(units, MAX_UNITS // 2)
                lowest_hash = min(lowest_hash, part.lowest_hash)
                highest_hash = max(highest_hash, part.highest_hash)
                advance(sum(block.n_read for block in blocks))
        return VocabularyCounts(units, lowest_hash, highest_hash)


def _most_frequent(units: Counter[str], n: int) -> Counter[str]:
    return Counter(dict(sorted(units.items(), key=lambda item: (-item[1], item[0]))[:n]))


def with_separator(units: Counter[str], kind: type[LearnedTokenizer]) -> Counter[str]:
    """Return the units of documents and of the text that separates them, if any, so that it can be encoded."""
    return units if kind.has_end_of_text else units + Counter({"\n": 1})


def open_document_folder(folder: Path, choice: TokenizerChoice) -> tuple[Manifest, PreparedData]:
    """Open a prepared folder, whatever became of its documents. Raises: NotReusableError unless it is whole."""
    tokenizer, tokenizer_fingerprint = read_tokenizer(folder, choice)
    with opening(folder):
        manifest = read_manifest(folder)
        train, val = (open_shards(folder, manifest, split) for split in TRAINING_SPLITS)
    made_with = (manifest.tokenizer, manifest.tokenizer_fingerprint, manifest.vocab_size)
    if made_with != (tokenizer.name, tokenizer_fingerprint, tokenizer.vocab_size):
        raise NotReusableError(f"{folder} was made with another tokenizer")
    open_test = None if manifest.test is None else partial(open_shards, folder, manifest, "test")
    return manifest, PreparedData(train, val, tokenizer, folder, open_test=open_test)


def learned_file(corpus: DocumentCorpus, choice: TokenizerChoice, folder: Path) -> Path:
    """Return the file that keeps what a tokenizer learned from a corpus."""
    return folder / f"tokenizer-{corpus.plan(choice.folder_name)[:16]}.json"


def learn_or_build(
    corpus: DocumentCorpus, choice: TokenizerChoice, folder: Path, assets_dir: Path, workers: Workers, log: Log
) -> Tokenizer:
    """Return the chosen tokenizer. What was learned is kept in the folder, for whoever comes next."""
    kind = choice.learned_kind
    if kind is None:
        return choice.build(assets_dir)
    learned = learned_file(corpus, choice, folder)
    if learned.is_file():
        return choice.load(read_state_file(learned))
    tokenizer = choice.build(assets_dir, with_separator(corpus.count_units_with(workers, kind, log), kind))
    write_tokenizer(learned, tokenizer)
    return tokenizer


def encode_documents(
    corpus: DocumentCorpus,
    part: CorpusPart | None,
    choice: TokenizerChoice,
    tokenizer: Tokenizer,
    tokenizer_file: Path,
    staging: Staging,
    workers: Workers,
    log: Log,
) -> int:
    """Stage the documents of a corpus, or of a part, from where an earlier process stopped.

    Returns the bytes of text that this process encoded.
    """
    choice = replace(choice, shared=None)  # each process reads the tokenizer from the file, once
    dtype = token_dtype(tokenizer.vocab_size)
    shared = (corpus.document_format, choice, tokenizer_file, fingerprint_of(tokenizer), dtype)

    def encode(tasks: Iterator[Task]) -> Iterator[tuple[Task, EncodedDocuments]]:
        return workers.map(encode_in_worker, ((task, task[1], *shared) for task in tasks))

    def read(after: ReadPosition) -> Iterator[PositionedBlock]:
        if part is None:
            return corpus.blocks(after)
        return corpus.blocks(max(after, part.begin, key=lambda position: (position.file, position.end)), part.end)

    n_bytes = corpus.n_bytes if part is None else part.n_bytes
    n_done = staging.read_journal().n_read
    if 0 < n_done < n_bytes:
        log(f"Resuming after {n_done / 1e6:,.1f} of {n_bytes / 1e6:,.1f} MB")
    with progress("Encoding", n_bytes, log) as advance:
        advance(n_done)
        return staging.append(read, encode, advance)


@dataclass(frozen=True)
class Preparation:
    """The making of one prepared folder, while no other process works on it."""

    corpus: DocumentCorpus
    choice: TokenizerChoice
    folder: Path
    assets_dir: Path
    log: Log
    n_bytes: int
    """Size of the documents."""

    def run(self) -> PreparedData:
        """Prepare the folder, from where an earlier process stopped. Raises: FolioError if the documents changed."""
        (self.folder / MANIFEST).unlink(missing_ok=True)  # what is written from here on does not belong to it
        self.unfinished.mkdir(exist_ok=True)
        for folder in (self.folder, self.unfinished):
            remove_unfinished(folder)
        started_s = time.perf_counter()
        try:
            with start_workers(self.n_bytes) as workers:
                manifest, n_bytes = self._write(workers)
        except HelperKilledError:
            raise
        except FolioError:  # a fault of the documents: once it is fixed they are others, and start from the beginning
            shutil.rmtree(self.unfinished, ignore_errors=True)
            (self.folder / TOKENIZER).unlink(missing_ok=True)
            raise
        _clean_up(self.folder, manifest)
        try:
            self.corpus.check_unchanged()
        except FolioError:
            (self.folder / MANIFEST).unlink()
            raise
        _, prepared = open_document_folder(self.folder, self.choice)
        n_documents = sum(split.n_documents for split in manifest.splits.values())
        n_test = "" if manifest.test is None else f"{manifest.test.n_documents:,} for test, "
        documents = (
            f" of {n_documents:,} documents ({manifest.val.n_documents:,} for validation, {n_test}"
            f"{manifest.n_duplicates:,} duplicates left out)"
        )
        log_summary(prepared, n_bytes, started_s, self.log, documents)
        return prepared

    @property
    def unfinished(self) -> Path:
        return self.folder / UNFINISHED

    def _write(self, workers: Workers) -> tuple[Manifest, int]:
        """Encode all documents, decide which are kept, and write them into shards.

        Returns the manifest, and the bytes of text that this process encoded.
        """
        corpus = self.corpus
        tokenizer = learn_or_build(corpus, self.choice, self.unfinished, self.assets_dir, workers, self.log)
        tokenizer_fingerprint = write_tokenizer(self.folder / TOKENIZER, tokenizer)
        staging = Staging(self.unfinished, corpus.plan(tokenizer_fingerprint))
        n_bytes = encode_documents(
            corpus, None, self.choice, tokenizer, self.folder / TOKENIZER, staging, workers, self.log
        )
        self._check_separator(staging)
        assignment = assign_splits(
            staging.documents, self.unfinished / "roles", corpus.val_fraction, corpus.test_fraction
        )
        with progress("Writing", staging.tokens.stat().st_size, self.log) as advance:
            manifest = write_shards(
                staging,
                assignment,
                self.folder,
                workers,
                shard_tokens=corpus.shard_tokens,
                vocab_size=tokenizer.vocab_size,
                tokenizer=tokenizer.name,
                tokenizer_fingerprint=tokenizer_fingerprint,
                has_prompts=corpus.document_format.has_prompts,
                advance=advance,
            )
        return manifest, n_bytes

    def _check_separator(self, staging: Staging) -> None:
        """Log a warning if data.document_separator occurs nowhere, as it does when it is misspelled."""
        separator = self.corpus.document_format.document_separator
        if separator is None or staging.read_journal().n_separators:
            return
        newline = " (a newline is typed as $'\\n' in the shell)" if "\\n" in separator else ""
        n_documents = staging.documents.stat().st_size // DOCUMENT.itemsize
        self.log(
            f"warning: data.document_separator={separator!r} occurs nowhere in data.path={self.corpus.path}{newline}; "
            f"the corpus has {n_documents:,} documents"
        )


def _verify(folder: Path, log: Log) -> None:
    """Raises: TokenFileError for a shard that is not what was written."""
    manifest = read_manifest(folder)
    paths = manifest.shard_paths(folder)
    with progress("Verifying", sum(path.stat().st_size for path in paths), log) as advance:
        for split in manifest.splits:
            verify_shards(folder, manifest, split, advance)
    log(f"{folder}: {len(paths)} shards have the checksums that they were written with")


def _finish_cleanup(folder: Path) -> None:
    """Remove what a process left that was killed during its cleanup. Does nothing in a read-only folder."""
    with suppress(OSError, TokenFileError), exclusive_lock(folder / "prepared"):
        _clean_up(folder, read_manifest(folder))


def _clean_up(folder: Path, manifest: Manifest) -> None:
    """Remove the files of an earlier preparation, and the intermediate files of this one."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    wanted = set(manifest.shard_paths(folder))
    for path in folder.iterdir():
        is_shard = path.name.startswith(("train-", "val-", "test-")) and path.suffix == ".bin"
        if (is_shard and path not in wanted) or path.name.startswith("lines-"):
            path.unlink()
