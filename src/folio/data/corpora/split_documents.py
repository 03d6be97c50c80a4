"""Which staged documents are for training, validation and test, and which are duplicates.

A document's split is a function of its bytes: the lowest hashes are for validation, the highest for test. So no
document is in two splits, a test split changes no validation split, and of equal documents the first is kept. Memory
does not grow with the number of documents.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.corpora.tasks import DOCUMENT
from folio.runtime.errors import FolioError

DUPLICATE, TRAIN, VAL, TEST = range(4)
"""Roles of a document."""

ROLE_OF_SPLIT = {"train": TRAIN, "val": VAL, "test": TEST}

DOCUMENTS_PER_CHUNK = 1 << 20

DOCUMENTS_PER_HASH_RANGE = 1 << 22
"""Number of documents whose hashes are compared at a time, which takes about 200 MB."""


@dataclass(frozen=True)
class SplitAssignment:
    """The role of each staged document, (n_documents,) uint8 in a mapped file, and a digest of all documents."""

    roles: np.ndarray
    splits: list[str]
    """The splits that have documents: train, val and perhaps test."""
    content_sha256: str
    n_duplicates: int


@dataclass(frozen=True)
class Bands:
    """The hashes of each split: those below `val_end` are for validation, and those from `test_begin` on for test."""

    val_end: int
    test_begin: int = 2**64

    @classmethod
    def of_fractions(cls, val_fraction: float, test_fraction: float) -> "Bands":
        """Return the bands that are these fractions of all hashes."""
        n_test = max(int(test_fraction * 2**64), 1) if test_fraction else 0
        return cls(int(val_fraction * 2**64), 2**64 - n_test)

    def widened(self, lowest: int, highest: int) -> "Bands":
        """Return bands that hold at least one document each, given the lowest and the highest hash of all documents."""
        has_test = self.test_begin < 2**64
        return Bands(max(self.val_end, lowest + 1), min(self.test_begin, highest) if has_test else 2**64)

    def roles(self, hashes: np.ndarray) -> np.ndarray:
        """Return the role of each document: (N,) uint64 -> (N,) uint8."""
        roles = np.full(len(hashes), TRAIN, np.uint8)
        roles[hashes < np.uint64(self.val_end)] = VAL
        if self.test_begin < 2**64:
            roles[hashes >= np.uint64(self.test_begin)] = TEST
        return roles

    def is_train(self, hash_: int) -> bool:
        """Return whether a document with this hash is for training."""
        return self.val_end <= hash_ < self.test_begin


def assign_splits(
    documents: Path, roles_file: Path, val_fraction: float, test_fraction: float = 0.0
) -> SplitAssignment:
    """Give each row of a file of DOCUMENT its role.

    Raises: FolioError if there are not so many different documents that each split has one.
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
    bands = Bands.of_fractions(val_fraction, test_fraction).widened(lowest, highest)
    roles = np.memmap(roles_file, np.uint8, mode="w+", shape=(n_documents,))
    found: set[int] = set()
    for first, chunk in chunks_of(table):
        roles[first : first + len(chunk)] = of_chunk = bands.roles(chunk["high"])
        found.update(np.unique(of_chunk).tolist())
    if TRAIN not in found:
        fractions = f"data.val_fraction={val_fraction}"
        if test_fraction:
            fractions += f" with data.test_fraction={test_fraction}"
        raise FolioError(f"{fractions} leaves no document to train on; lower it, or give more documents")
    splits = [split for split, role in ROLE_OF_SPLIT.items() if role in found]
    return SplitAssignment(roles, splits, digest.hexdigest(), _mark_duplicates(table, roles))


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
