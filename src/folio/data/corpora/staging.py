"""Encoded documents in two files from which a killed process can resume.

`tokens` holds the ids of every document, and `documents` a row of DOCUMENT for each. `journal.json` says how much of
the two files is valid, and where to resume in the corpus; everything behind that is cut off and made again. Results
arrive in the order of the blocks, so the files are the same for any number of processors and interruptions.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from folio.data.corpora.progress import Advance
from folio.data.corpora.tasks import DOCUMENT, EncodedDocuments, PositionedBlock, ReadPosition, Task, group_blocks
from folio.data.token_file import dataclass_from_json
from folio.runtime.files import write_atomically
from folio.runtime.untrusted import UntrustedFileError, read_json_object

JOURNAL_EVERY_S = 2.0


@dataclass(frozen=True)
class Journal:
    """How far a preparation is: the valid sizes of the two files, and what was read for them: bytes, separators."""

    plan: str
    position: ReadPosition
    tokens_bytes: int
    documents_bytes: int
    n_read: int
    n_separators: int = 0
    row_bytes: int = DOCUMENT.itemsize
    """Size of a row of `documents`, which an earlier version made smaller."""


@dataclass(frozen=True)
class Staging:
    """The folder that holds all documents before it is known which of them are kept."""

    folder: Path
    plan: str
    """Digest of everything that the files depend on. Files of another plan are not reused."""

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def documents(self) -> Path:
        return self.folder / "documents"

    def read_journal(self) -> Journal:
        """Return how far an earlier process came; nowhere if the files are shorter than its journal says."""
        try:
            fields = read_json_object(self.folder / "journal.json")
            position = dataclass_from_json(ReadPosition, fields["position"])
            journal = dataclass_from_json(Journal, fields | {"position": position})
            sizes = (self.tokens, journal.tokens_bytes), (self.documents, journal.documents_bytes)
            is_whole = all(n_bytes == 0 or path.stat().st_size >= n_bytes for path, n_bytes in sizes)
            if (journal.plan, journal.row_bytes) == (self.plan, DOCUMENT.itemsize) and is_whole:
                return journal
        except (OSError, UntrustedFileError, KeyError, TypeError):
            pass
        return Journal(self.plan, ReadPosition(), 0, 0, 0)

    def append(
        self,
        read: Callable[[ReadPosition], Iterator[PositionedBlock]],
        encode: Callable[[Iterator[Task]], Iterator[tuple[Task, EncodedDocuments]]],
        advance: Advance,
    ) -> int:
        """Encode all blocks after the journal's position. Returns the bytes of text that this call encoded."""
        journal = self.read_journal()
        n_bytes, written_s = 0, time.monotonic()
        with (
            _open_at(self.tokens, journal.tokens_bytes) as tokens,
            _open_at(self.documents, journal.documents_bytes) as documents,
        ):
            position, n_read, n_separators = journal.position, journal.n_read, journal.n_separators
            for (position, blocks), encoded in encode(group_blocks(read(journal.position))):
                tokens.write(encoded.tokens)
                documents.write(encoded.documents)
                n_new = sum(block.n_read for block in blocks)
                n_read, n_bytes = n_read + n_new, n_bytes + encoded.n_bytes
                n_separators += sum(block.n_separators for block in blocks)
                advance(n_new)
                if time.monotonic() - written_s >= JOURNAL_EVERY_S:
                    self._write_journal(position, tokens, documents, n_read, n_separators)
                    written_s = time.monotonic()
            self._write_journal(position, tokens, documents, n_read, n_separators)
        return n_bytes

    def _write_journal(
        self, position: ReadPosition, tokens: BinaryIO, documents: BinaryIO, n_read: int, n_separators: int
    ) -> None:
        for file in (tokens, documents):
            file.flush()
            os.fsync(file.fileno())  # before the journal says that the data is there
        journal = Journal(self.plan, position, tokens.tell(), documents.tell(), n_read, n_separators)
        write_atomically(self.folder / "journal.json", json.dumps(asdict(journal)).encode())


@contextmanager
def _open_at(path: Path, n_bytes: int) -> Iterator[BinaryIO]:
    """Open a file to write after its first `n_bytes`; the rest is cut off."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.truncate(n_bytes)
        file.seek(n_bytes)
        yield file
