"""A corpus of documents in parts, which many machines prepare, and their join, which gives the bytes of one machine.

The documents of a part are staged like those of a whole corpus. One part after another, they are the staged documents
of the corpus, from which the join goes on as one machine does: duplicates, splits, shards, manifest.

Parts are in `parts/3-of-16/` of the prepared folder. `part.json` is written last and makes a part valid; before that, a
killed process resumes. The join removes the parts at its end.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from folio.data.corpora.document_corpus import (
    UNFINISHED,
    CorpusPart,
    DocumentCorpus,
    Preparation,
    encode_documents,
    learn_or_build,
    learned_file,
)
from folio.data.corpora.preparation import (
    TOKENIZER,
    NotReusableError,
    explain_disk_errors,
    prepare_locked,
    read_tokenizer,
    write_tokenizer,
)
from folio.data.corpora.progress import Advance, Log, progress
from folio.data.corpora.staging import Journal, Staging
from folio.data.corpora.tasks import DOCUMENT
from folio.data.corpora.workers import HelperKilledError, start_workers
from folio.data.prepared import PreparedData
from folio.data.token_file import dataclass_from_json
from folio.data.tokenizers.choice import TokenizerChoice
from folio.runtime.errors import FolioError
from folio.runtime.files import (
    atomic_writer,
    check_writable,
    exclusive_lock,
    remove_if_empty,
    remove_lock,
    remove_unfinished,
    sha256_of,
    write_json,
)
from folio.runtime.untrusted import UntrustedFileError, open_regular, read_json_object

PARTS = "parts"
RECORD = "part.json"
COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class PartRecord:
    """The content of part.json: what the staged files of a part hold. `plan` says what they were made from."""

    plan: str
    n_documents: int
    tokens_bytes: int
    documents_bytes: int
    tokens_sha256: str
    documents_sha256: str
    n_separators: int


@dataclass(frozen=True)
class CorpusInParts:
    """A corpus whose preparation is divided among processes that see the same files and the same data folder."""

    corpus: DocumentCorpus
    choice: TokenizerChoice
    data_dir: Path
    n_parts: int
    log: Log

    @property
    def folder(self) -> Path:
        """The folder in which the prepared corpus will be."""
        return self.corpus.folder(self.data_dir) / self.choice.folder_name

    def part_folder(self, number: int) -> Path:
        """Return the folder of a part; parts count from 1."""
        return self.folder / PARTS / f"{number}-of-{self.n_parts}"

    def plan(self, tokenizer_fingerprint: str, number: int) -> str:
        """Return a digest of everything that a part depends on."""
        of_corpus = self.corpus.plan(tokenizer_fingerprint)
        return hashlib.sha256(f"{of_corpus} {number} of {self.n_parts}".encode()).hexdigest()

    # One part

    def prepare(self, number: int) -> None:
        """Prepare a part, or resume it. Nothing is done if it is prepared already. Raises: FolioError."""
        part = self.corpus.divide(self.n_parts)[number - 1]  # before a folder is created
        folder = self.part_folder(number)
        missing = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
        with explain_disk_errors(self.data_dir):
            if self._is_joined():
                return
            with remove_if_empty(*missing), exclusive_lock(folder):
                folder.mkdir(exist_ok=True)
                check_writable(folder)
                remove_unfinished(folder)
                try:
                    record = self._prepare(part, number, folder)
                except HelperKilledError:
                    raise
                except FolioError:  # a fault of the documents: once it is fixed they are others
                    shutil.rmtree(folder, ignore_errors=True)
                    remove_lock(folder)
                    raise
        name = f"part {number} of {self.n_parts}"
        self.log(f"{name}: {record.n_documents:,} documents, {record.tokens_bytes:,} bytes of tokens in {folder}")

    def _is_joined(self) -> bool:
        """Return whether the corpus is prepared already, by the parts or otherwise. The parts are then removed."""
        with suppress(NotReusableError):
            self.corpus.open(self.folder, self.choice)
            self.log(f"{self.folder} is prepared already")
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)
            return True
        return False

    def _prepare(self, part: CorpusPart, number: int, folder: Path) -> PartRecord:
        with start_workers(part.n_bytes) as workers:
            # A vocabulary is learned from all parts: by the first process, while the others wait.
            lock = exclusive_lock(self.folder / PARTS / TOKENIZER) if self.choice.learned_kind else nullcontext()
            with lock:
                args = self.folder / PARTS, self.data_dir / "assets", workers, self.log
                tokenizer = learn_or_build(self.corpus, self.choice, *args)
            staging = Staging(folder, self.plan(write_tokenizer(folder / TOKENIZER, tokenizer), number))
            with suppress(OSError, FolioError):
                return self._read_record(number, staging.plan)
            file = folder / TOKENIZER
            encode_documents(self.corpus, part, self.choice, tokenizer, file, staging, workers, self.log)
        self.corpus.check_unchanged()
        journal = staging.read_journal()
        record = PartRecord(
            plan=staging.plan,
            n_documents=journal.documents_bytes // DOCUMENT.itemsize,
            tokens_bytes=journal.tokens_bytes,
            documents_bytes=journal.documents_bytes,
            tokens_sha256=sha256_of(staging.tokens),
            documents_sha256=sha256_of(staging.documents),
            n_separators=journal.n_separators,
        )
        write_json(folder / RECORD, asdict(record))
        return record

    def _read_record(self, number: int, plan: str) -> PartRecord:
        """Raises: FolioError, which names the part, if it is not whole or was made from something else; OSError."""
        folder = self.part_folder(number)
        again = f"run the same command with part={number}/{self.n_parts} again"
        try:
            record = dataclass_from_json(PartRecord, read_json_object(folder / RECORD))
        except (TypeError, UntrustedFileError):
            raise FolioError(f"{folder / RECORD} is damaged; {again}") from None
        if record.plan != plan:
            raise FolioError(
                f"{folder} was made from other files, with other options or another tokenizer than this command names; "
                f"{again}"
            )
        for name, n_bytes in (("tokens", record.tokens_bytes), ("documents", record.documents_bytes)):
            if not (folder / name).is_file() or (folder / name).stat().st_size != n_bytes:
                raise FolioError(f"{folder / name} is not whole; {again}")
        return record

    # The join

    def join(self) -> PreparedData:
        """Make the prepared corpus of all parts. Raises: FolioError, which names each part that is missing or damaged.

        An interrupted join starts again from the parts.
        """
        self.corpus.divide(self.n_parts)
        with explain_disk_errors(self.data_dir):
            if not self._is_joined():
                self._check_that_none_is_missing()
                open_prepared = partial(self.corpus.open, self.folder, self.choice)
                prepare_locked(self.folder, open_prepared, self._join, self.log, resumes=True)
            return self.corpus.open(self.folder, self.choice)

    def _check_that_none_is_missing(self) -> None:
        missing = [number for number in self._numbers if not (self.part_folder(number) / RECORD).is_file()]
        if missing:
            names = ", ".join(map(str, missing[:20])) + (f" and {len(missing) - 20} more" if missing[20:] else "")
            raise FolioError(
                f"part=join/{self.n_parts}: part {names} is not prepared in {self.folder / PARTS}; run the same "
                f"command with part={missing[0]}/{self.n_parts} first"
            )

    def _join(self) -> PreparedData:
        try:
            tokenizer, fingerprint = read_tokenizer(self.part_folder(1), self.choice)
        except NotReusableError as error:
            raise FolioError(f"{error}; run the same command with part=1/{self.n_parts} again") from None
        records = [self._read_record(number, self.plan(fingerprint, number)) for number in self._numbers]
        unfinished = self.folder / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        write_tokenizer(learned_file(self.corpus, self.choice, unfinished), tokenizer)
        staging = Staging(unfinished, self.corpus.plan(fingerprint))
        with progress("Joining", sum(record.tokens_bytes for record in records), self.log) as advance:
            self._concatenate("tokens", [record.tokens_sha256 for record in records], staging.tokens, advance)
        documents = [record.documents_sha256 for record in records]
        self._concatenate("documents", documents, staging.documents, lambda n: None)
        # With this journal, the preparation resumes where one machine would have encoded everything.
        journal = Journal(
            staging.plan,
            self.corpus.divide(self.n_parts)[-1].end,
            sum(record.tokens_bytes for record in records),
            sum(record.documents_bytes for record in records),
            self.corpus.n_bytes,
            sum(record.n_separators for record in records),
        )
        write_json(staging.folder / "journal.json", asdict(journal))
        assets = self.data_dir / "assets"
        preparation = Preparation(self.corpus, self.choice, self.folder, assets, self.log, self.corpus.n_bytes)
        prepared = preparation.run()
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        return prepared

    @property
    def _numbers(self) -> range:
        return range(1, self.n_parts + 1)

    def _concatenate(self, name: str, checksums: list[str], target: Path, advance: Advance) -> None:
        """Write a file of all parts one after another. Raises: FolioError if one is not what was written."""
        with atomic_writer(target) as joined:
            for number, expected in zip(self._numbers, checksums, strict=True):
                path, digest = self.part_folder(number) / name, hashlib.sha256()
                for data in _chunks(path):
                    joined.write(data)
                    digest.update(data)
                    advance(len(data))
                if digest.hexdigest() != expected:
                    raise FolioError(
                        f"{path} was altered: its sha256 is not the one in {RECORD}; remove {path.parent} and run the "
                        f"same command with part={number}/{self.n_parts} again"
                    )


def _chunks(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        while data := file.read(COPY_BYTES):
            yield data
