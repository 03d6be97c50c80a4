"""Which staged documents are for training, which for validation, and which are duplicates.

A document's split is a function of its bytes: it is for validation if its hash is below a bound. So no document is in
both splits, and of equal documents the first is kept. Memory does not grow with the number of documents.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.corpora.tasks import DOCUMENT
from folio.runtime.errors import FolioError

DUPLICATE, TRAIN, VAL = range(3)
"""Roles of a document."""

DOCUMENTS_PER_CHUNK = 1 << 20

DOCUMENTS_PER_HASH_RANGE = 1 << 22
"""Number of documents whose hashes are compared at a time, which takes about 200 MB."""


@dataclass(frozen=True)
class SplitAssignment:
    """The role of each staged document, (n_documents,) uint8 in a mapped file, and a digest of all documents."""

    roles: np.ndarray
    content_sha256: str
    n_duplicates: int


def validation_bound(val_fraction: float, lowest: int) -> int:
    """Return the hash below which a document is for validation: a fraction of all hashes, and at least one document.

    `lowest` is the lowest hash of all documents.
    """
    return max(min(int(val_fraction * 2**64), 2**64 - 1), lowest + 1)


def assign_splits(documents: Path, roles_file: Path, val_fraction: float) -> SplitAssignment:
    """Give each row of a file of DOCUMENT its role.

    Raises: FolioError if there are not two different documents, one for each split.
    """
    n_documents = documents.stat().st_size // DOCUMENT.itemsize
    if n_documents == 0:
        raise FolioError("data.path: the files that it matches hold only white space; give files with text")
    table = np.memmap(documents, DOCUMENT, mode="r")
    digest, lowest, highest = hashlib.sha256(), 2**64, 0
    for _, chunk in chunks_of(table):
        digest.update(np.stack((chunk["high"], chunk["low"])).T.tobytes())
        lowest, highest = min(lowest, int(chunk["high"].min())), max(highest, int(chunk["high"].max()))
    if lowest == highest:
        raise FolioError(
            "data.path: the files that it matches hold one document, once or repeatedly, and a split by documents "
            "needs two; for a single text use data=text_file, or say what separates its documents: "
            "data.document_separator=..."
        )
    bound = validation_bound(val_fraction, lowest)
    if bound > highest:
        raise FolioError(f"data.val_fraction={val_fraction} leaves no document to train on; lower it")
    roles = np.memmap(roles_file, np.uint8, mode="w+", shape=(n_documents,))
    for first, chunk in chunks_of(table):
        roles[first : first + len(chunk)] = np.where(chunk["high"] < bound, VAL, TRAIN)
    return SplitAssignment(roles, digest.hexdigest(), _mark_duplicates(table, roles))


def chunks_of(table: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of a table in chunks, each with the number of its first row."""
    for first in range(0, len(table), DOCUMENTS_PER_CHUNK):
        yield first, table[first : first + DOCUMENTS_PER_CHUNK]


def _mark_duplicates(table: np.ndarray, roles: np.ndarray) -> int:
    """Mark all but the first of the documents with the same hash, one range of hashes at a time. Returns how many."""
    n_ranges = -(-len(table) // DOCUMENTS_PER_HASH_RANGE)
    n_duplicates = 0
    for number in range(n_ranges):
        seen = np.empty(0, [("high", "<u8"), ("low", "<u8")])
        for first, chunk in chunks_of(table):
            rows = np.flatnonzero((chunk["high"] >> np.uint64(32)) * np.uint64(n_ranges) >> np.uint64(32) == number)
            hashes = np.empty(len(rows), seen.dtype)
            hashes["high"], hashes["low"] = chunk["high"][rows], chunk["low"][rows]
            is_duplicate, seen = _find_duplicates(hashes, seen)
            roles[first + rows[is_duplicate]] = DUPLICATE
            n_duplicates += int(is_duplicate.sum())
    return n_duplicates


def _find_duplicates(hashes: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `hashes` (N,) are in `seen` or earlier in `hashes`, and `seen` with the others inserted.

    `seen` is sorted by `high`. Two different hashes with the same upper half, of which there is about one pair in some
    billions of documents, can hide a duplicate; they never remove a document that is not one.
    """
    order = np.lexsort((hashes["low"], hashes["high"]))  # stable: equal hashes keep their order
    is_duplicate = np.zeros(len(hashes), bool)
    is_duplicate[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    if len(seen):
        nearest = np.minimum(np.searchsorted(seen["high"], hashes["high"]), len(seen) - 1)
        is_duplicate |= seen[nearest] == hashes
    new = order[~is_duplicate[order]]
    positions = np.searchsorted(seen["high"], hashes["high"][new])
    return is_duplicate, np.insert(seen, positions, hashes[new])
