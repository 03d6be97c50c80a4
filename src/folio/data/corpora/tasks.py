"""The tasks of a worker: to encode blocks of documents, or to count the units of their vocabulary."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.corpora.documents import BLOCK_BYTES, DocumentBlock, DocumentFormat, parse_documents
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer, UnknownTokens
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.state import read_state_file

DOCUMENT = np.dtype(
    [
        ("high", "<u8"),  # the two halves of its hash
        ("low", "<u8"),
        ("n_tokens", "<u4"),  # including the separator
        ("n_bytes", "<u4"),
        ("n_unknown", "<u4"),
        ("spelling_bits", "<f8"),
        # The part of these that is the prompt's; 0 for a document without one.
        ("n_prompt_tokens", "<u4"),
        ("n_prompt_bytes", "<u4"),
        ("n_prompt_unknown", "<u4"),
        ("prompt_spelling_bits", "<f8"),
    ]
)
"""A row for each document."""

SEPARATOR = "\n\n"
"""Text after each document, for a tokenizer without an end-of-text id."""


@dataclass(frozen=True)
class ReadPosition:
    """Where reading resumes: the number of a file, and `end` and `next` of the last DocumentBlock in it."""

    file: int = 0
    end: int = 0
    next: int = 1


PositionedBlock = tuple[ReadPosition, DocumentBlock]
"""A block, and the position after it."""

Task = tuple[ReadPosition, list[DocumentBlock]]
"""Blocks that one worker processes at a time, and the position after them."""


def group_blocks(blocks: Iterable[PositionedBlock]) -> Iterator[Task]:
    """Yield the blocks of small files together, so that each task is worth its overhead."""
    together: list[DocumentBlock] = []
    size = 0
    position = ReadPosition()
    for position, block in blocks:
        together.append(block)
        size += block.n_bytes
        if size >= BLOCK_BYTES // 2:
            yield position, together
            together, size = [], 0
    if together:
        yield position, together


def hash_document(document: bytes) -> tuple[int, int]:
    """Return 128 bits that decide the split of a document, and whether it is a duplicate."""
    digest = hashlib.blake2b(document, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents as raw ids and raw rows of DOCUMENT, and the number of bytes of their text."""

    tokens: bytes
    documents: bytes
    n_bytes: int


def encode_blocks(
    blocks: list[DocumentBlock], document_format: DocumentFormat, tokenizer: Tokenizer, dtype: str
) -> EncodedDocuments:
    """Encode the documents of the blocks, with a separator after each.

    A prompt is encoded by itself, as it is when a model continues it, so that no token belongs to both parts.
    """
    end_of_text = tokenizer.end_of_text
    separator = tokenizer.encode(SEPARATOR) if end_of_text is None else np.array([end_of_text])
    ids: list[np.ndarray] = []
    rows: list[tuple[int | float, ...]] = []
    for block in blocks:
        for document in parse_documents(block, document_format):
            prompt = document.prompt or ""
            of_prompt, in_prompt = (
                tokenizer.encode_with_unknown(prompt) if prompt else (np.empty(0, dtype), UnknownTokens())
            )
            tokens, in_text = tokenizer.encode_with_unknown(document.text)
            unknown = in_prompt + in_text
            ids += [of_prompt, tokens, separator]
            n_tokens = len(of_prompt) + len(tokens) + len(separator)
            own = n_tokens, len(document.data), unknown.n_tokens, unknown.spelling_bits
            prompt_row = len(of_prompt), len(prompt.encode()), in_prompt.n_tokens, in_prompt.spelling_bits
            rows.append((*hash_document(document.identity), *own, *prompt_row))
    documents = np.array(rows, dtype=DOCUMENT)
    whole = np.concatenate(ids).astype(dtype) if ids else np.empty(0, dtype)
    return EncodedDocuments(whole.tobytes(), documents.tobytes(), int(documents["n_bytes"].sum()))


_loaded: dict[str, Tokenizer] = {}


def encode_in_worker(
    blocks: list[DocumentBlock],
    document_format: DocumentFormat,
    choice: TokenizerChoice,
    tokenizer_file: Path,
    fingerprint: str,
    dtype: str,
) -> EncodedDocuments:
    """`encode_blocks` with the tokenizer of a file, which each process loads once."""
    if fingerprint not in _loaded:
        _loaded.clear()
        _loaded[fingerprint] = choice.load(read_state_file(tokenizer_file))
    return encode_blocks(blocks, document_format, _loaded[fingerprint], dtype)


@dataclass(frozen=True)
class VocabularyCounts:
    """The units of some documents, and the lowest and the highest upper half of their hashes."""

    units: Counter[str]
    lowest_hash: int
    highest_hash: int


def count_units(
    blocks: list[DocumentBlock],
    document_format: DocumentFormat,
    kind: type[LearnedTokenizer],
    is_train: Callable[[int], bool],
) -> VocabularyCounts:
    """Count the units of the blocks' documents. `is_train` says by its hash whether a document is for training."""
    units: Counter[str] = Counter()
    lowest_hash, highest_hash = 2**64, -1
    separator = "" if kind.has_end_of_text else SEPARATOR
    for block in blocks:
        for document in parse_documents(block, document_format):
            high, _ = hash_document(document.identity)
            lowest_hash, highest_hash = min(lowest_hash, high), max(highest_hash, high)
            if is_train(high) or kind.learns_from_validation:
                for part in (document.prompt or "", document.text + separator):
                    units.update(kind.find_units(part))
    return VocabularyCounts(units, lowest_hash, highest_hash)
