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
from typing import Any

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
from folio.data.tokenizers.state import read_state_file
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, remove_unfinished

UNFINISHED = "unfinished"

MAX_UNITS = 1 << 21
"""Number of different units that are counted at a time, about 300 MB. Beyond it the rarer half is dropped."""


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
    def blocks(self, after: ReadPosition) -> Iterator[PositionedBlock]:
        """Yield the blocks after a position."""

    @cached_property
    def _identity(self) -> str:
        return self.look_up_identity()

    def identity(self, data_dir: Path) -> str:
        """See `DataSource`."""
        return self._identity

    def is_unchanged(self) -> bool:
        """Return whether the identity is still what it was at first."""
        return self.look_up_identity() == self._identity

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
            return self._open(folder, tokenizer)

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
            preparation = _Preparation(self, tokenizer, folder, data_dir / "assets", log, self.n_bytes)
            return prepare_locked(folder, open_prepared, preparation.run, log, resumes=(folder / UNFINISHED).exists())

    def _open(self, folder: Path, choice: TokenizerChoice) -> PreparedData:
        """Raises: NotReusableError unless the folder was made from these documents, options and tokenizer."""
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
    tokenizer, fingerprint = read_tokenizer(folder, choice)
    with opening(folder):
        manifest = read_manifest(folder)
        train, val = (open_shards(folder, manifest, split) for split in TRAINING_SPLITS)
    made_with = (manifest.tokenizer, manifest.tokenizer_fingerprint, manifest.vocab_size)
    if made_with != (tokenizer.name, fingerprint, tokenizer.vocab_size):
        raise NotReusableError(f"{folder} was made with another tokenizer")
    open_test = None if manifest.test is None else partial(open_shards, folder, manifest, "test")
    return manifest, PreparedData(train, val, tokenizer, folder, open_test=open_test)


@dataclass(frozen=True)
class _Preparation:
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
        if not self.corpus.is_unchanged():
            (self.folder / MANIFEST).unlink()
            raise FolioError(
                "data.path: files were changed while they were being prepared; run the command again when they are "
                "complete"
            )
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
        tokenizer = self._tokenizer(workers)
        fingerprint = write_tokenizer(self.folder / TOKENIZER, tokenizer)
        staging = Staging(self.unfinished, corpus.plan(fingerprint))
        dtype = token_dtype(tokenizer.vocab_size)

        def encode(tasks: Iterator[Task]) -> Iterator[tuple[Task, EncodedDocuments]]:
            choice = replace(self.choice, shared=None)  # each process reads the tokenizer from the file, once
            shared = (corpus.document_format, choice, self.folder / TOKENIZER, fingerprint, dtype)
            return workers.map(encode_in_worker, ((task, task[1], *shared) for task in tasks))

        n_done = staging.read_journal().n_read
        if n_done:
            self.log(f"Resuming after {n_done / 1e6:,.1f} of {corpus.n_bytes / 1e6:,.1f} MB")
        with progress("Encoding", corpus.n_bytes, self.log) as advance:
            advance(n_done)
            n_bytes = staging.append(corpus.blocks, encode, advance)
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
                tokenizer_fingerprint=fingerprint,
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

    def _tokenizer(self, workers: Workers) -> Tokenizer:
        """Return the chosen tokenizer. What an earlier process has learned is kept."""
        kind = self.choice.learned_kind
        if kind is None:
            return self.choice.build(self.assets_dir)
        learned = self.unfinished / f"tokenizer-{self.corpus.plan(self.choice.folder_name)[:16]}.json"
        if learned.is_file():
            return self.choice.load(read_state_file(learned))
        counts = self.corpus.count_units_with(workers, kind, self.log)
        tokenizer = self.choice.build(self.assets_dir, with_separator(counts, kind))
        write_tokenizer(learned, tokenizer)
        return tokenizer


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
