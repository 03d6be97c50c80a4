"""The shards of a prepared corpus: opened and verified, and written from staged documents."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from folio.data.corpora.manifest import (
    FORMAT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    SplitInfo,
    shard_path,
    write_manifest,
)
from folio.data.corpora.progress import Advance
from folio.data.corpora.split_documents import ROLE_OF_SPLIT, SplitAssignment, chunks_of
from folio.data.corpora.staging import Staging
from folio.data.corpora.tasks import DOCUMENT
from folio.data.corpora.workers import Workers
from folio.data.document_index import END, PROMPT, DocumentIndex, DocumentTable, index_files
from folio.data.sharded_tokens import ShardedTokens, ShardFile
from folio.data.token_file import LARGEST_HASHED_BYTES, TokenFileError, TokenFileInfo, token_dtype
from folio.runtime.files import atomic_writer, sha256_of, write_atomically
from folio.runtime.untrusted import read_text

COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class TokenShards:
    """A split in shards, with the interface of a TokenFile."""

    path: Path
    info: TokenFileInfo
    tokens: ShardedTokens
    documents: DocumentIndex | None = None
    completions_info: TokenFileInfo | None = None
    _opened: tuple[os.stat_result, ...] = ()

    def check_unchanged(self) -> None:
        """Raises: TokenFileError if a shard was written to since it was opened.

        A shard that was removed or replaced is only an error once it has to be mapped again.
        """
        for shard, before in zip(self.tokens.shards, self._opened, strict=True):
            assert isinstance(shard, ShardFile)
            try:
                now = shard.path.stat()
            except FileNotFoundError:
                continue
            is_same_file = now.st_ino == before.st_ino
            if is_same_file and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise TokenFileError(shard.path, "was altered while it was in use")


def open_shards(folder: Path, manifest: Manifest, split: str) -> TokenShards:
    """Open a split after checking the size of each shard and, if the split is small, the checksums.

    Raises: TokenFileError for a shard that is missing, or does not match the manifest.
    """
    sizes = manifest.shard_sizes(split)
    itemsize = np.dtype(manifest.dtype).itemsize
    n_bytes = sum(sizes) * itemsize
    random_access = split == "train" and n_bytes > LARGEST_HASHED_BYTES
    shards, opened = [], []
    for number, n_tokens in enumerate(sizes):
        shard = ShardFile(shard_path(folder, split, number), n_tokens, manifest.dtype, random_access)
        shards.append(shard)
        opened.append(_checked_status(shard, n_tokens * itemsize))
    tokens = ShardedTokens(shards)
    if n_bytes <= LARGEST_HASHED_BYTES:
        verify_shards(folder, manifest, split, lambda n: None)
        if (largest := max(int(tokens.shard(number).max()) for number in range(len(shards)))) >= manifest.vocab_size:
            raise TokenFileError(
                shards[0].path, f"or a later one holds the id {largest}; the vocabulary ends at {manifest.vocab_size}"
            )
    info, completions = manifest.token_file_info(split), manifest.completions_info(split)
    return TokenShards(
        folder / f"{split}-*.bin",
        info,
        tokens,
        _open_index(folder, manifest, split),
        completions if manifest.has_prompts else None,
        tuple(opened),
    )


def _open_index(folder: Path, manifest: Manifest, split: str) -> DocumentIndex | None:
    """Return where the documents of a split are; None if an earlier version prepared them.

    Raises: TokenFileError if a file is missing, or was altered. A large one is only measured, like a large split.
    """
    info = manifest.split(split)
    if not info.index_sha256:
        return None
    table = DocumentTable.open(folder, split, info.n_documents, info.n_tokens, manifest.has_prompts)
    if table.ends.nbytes <= LARGEST_HASHED_BYTES:
        _verify_index(folder, manifest, split)
    return DocumentIndex([table])


def _verify_index(folder: Path, manifest: Manifest, split: str) -> None:
    """Raises: TokenFileError if a file of the index has another checksum than the manifest says."""
    files = index_files(folder, split, manifest.has_prompts)
    for path, expected in zip(files, manifest.split(split).index_sha256, strict=False):
        if sha256_of(path) != expected:
            raise TokenFileError(path, f"was altered: its sha256 is not the one in {MANIFEST}")


def _checked_status(shard: ShardFile, n_bytes: int) -> os.stat_result:
    try:
        status = shard.path.stat()
    except FileNotFoundError:
        raise TokenFileError(shard.path, "is missing") from None
    if status.st_size != n_bytes:
        raise TokenFileError(shard.path, f"has {status.st_size} bytes, but {MANIFEST} says {n_bytes}")
    return status


def verify_shards(folder: Path, manifest: Manifest, split: str, advance: Advance) -> None:
    """Read every shard. Raises: TokenFileError for one whose checksum is not the one in the manifest."""
    for number, expected in enumerate(manifest.split(split).shard_sha256):
        path = shard_path(folder, split, number)
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            raise TokenFileError(path, "is missing") from None
        if found != expected:
            raise TokenFileError(path, f"was altered: its sha256 is not the one in {MANIFEST}")
        advance(path.stat().st_size)
    _verify_index(folder, manifest, split)


@dataclass(frozen=True)
class ShardJob:
    """A shard to write: spans of staged tokens, (n_spans, 2) int64 of first token and length."""

    split: str
    number: int
    spans: np.ndarray


def shard_jobs(documents: Path, roles: np.ndarray, shard_tokens: int) -> Iterator[ShardJob]:
    """Yield the shards of all splits. Each is full except the last of its split."""
    table = np.memmap(documents, DOCUMENT, mode="r")
    for split, role in ROLE_OF_SPLIT.items():
        spans: list[tuple[int, int]] = []
        number = n_in_shard = 0
        for first, length in _spans_of_role(table, roles, role):
            while length:
                n_here = min(length, shard_tokens - n_in_shard)
                spans.append((first, n_here))
                first, length, n_in_shard = first + n_here, length - n_here, n_in_shard + n_here
                if n_in_shard == shard_tokens:
                    yield ShardJob(split, number, np.array(spans))
                    spans, number, n_in_shard = [], number + 1, 0
        if spans:
            yield ShardJob(split, number, np.array(spans))


def _spans_of_role(table: np.ndarray, roles: np.ndarray, role: int) -> Iterator[tuple[int, int]]:
    """Yield first token and length of each series of adjacent documents with this role."""
    offset = 0
    for first, chunk in chunks_of(table):
        ends = offset + np.cumsum(chunk["n_tokens"], dtype=np.int64)
        begins = np.concatenate(([offset], ends[:-1]))
        offset = int(ends[-1])
        has_role = np.concatenate(([False], roles[first : first + len(chunk)] == role, [False]))
        changes = np.flatnonzero(has_role[1:] != has_role[:-1])
        for begin, end in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
            yield int(begins[begin]), int(ends[end - 1] - begins[begin])


def write_shard(staged: Path, target: Path, spans: np.ndarray, itemsize: int) -> str:
    """Copy spans of the staged tokens into a shard. Returns its sha256."""
    digest = hashlib.sha256()
    with open(staged, "rb") as source, atomic_writer(target) as file:
        for first, length in spans.tolist():
            source.seek(first * itemsize)
            left = length * itemsize
            while left:
                data = source.read(min(left, COPY_BYTES))
                assert data, "the staged tokens are shorter than their documents"
                file.write(data)
                digest.update(data)
                left -= len(data)
    return digest.hexdigest()


def write_shards(
    staging: Staging,
    assignment: SplitAssignment,
    folder: Path,
    workers: Workers,
    *,
    shard_tokens: int,
    vocab_size: int,
    tokenizer: str,
    tokenizer_fingerprint: str,
    has_prompts: bool,
    advance: Advance,
) -> Manifest:
    """Write the shards that an interrupted process has not written, the index, and then the manifest."""
    dtype = token_dtype(vocab_size)
    itemsize = np.dtype(dtype).itemsize
    written = _WrittenShards(staging.folder / "shards.txt", staging.plan)

    def missing() -> Iterator[tuple[Any, ...]]:
        for job in shard_jobs(staging.documents, assignment.roles, shard_tokens):
            path = shard_path(folder, job.split, job.number)
            n_bytes = int(job.spans[:, 1].sum()) * itemsize
            if path.name in written.sha256 and path.is_file() and path.stat().st_size == n_bytes:
                advance(n_bytes)
            else:
                yield (path.name, n_bytes), staging.tokens, path, job.spans, itemsize

    for (name, n_bytes), sha256 in workers.map(write_shard, missing()):
        written.add(name, sha256)
        advance(n_bytes)
    splits = {
        split: _split_info(folder, split, staging.documents, assignment.roles, written, has_prompts)
        for split in assignment.splits
    }
    manifest = Manifest(
        format=FORMAT,
        dtype=dtype,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        tokenizer_fingerprint=tokenizer_fingerprint,
        plan=staging.plan,
        content_sha256=assignment.content_sha256,
        n_duplicates=assignment.n_duplicates,
        shard_tokens=shard_tokens,
        has_prompts=has_prompts,
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test"),
    )
    write_manifest(folder, manifest)
    return manifest


def _split_info(
    folder: Path, split: str, documents: Path, roles: np.ndarray, written: "_WrittenShards", has_prompts: bool
) -> SplitInfo:
    counts: dict[str, int] = dict.fromkeys(
        ("n_tokens", "n_bytes", "n_unknown", "n_prompt_tokens", "n_prompt_bytes", "n_prompt_unknown"), 0
    )
    n_documents, spelling_bits, prompt_spelling_bits = 0, 0.0, 0.0
    for rows in _rows_of_split(split, documents, roles):
        n_documents += len(rows)
        spelling_bits += float(rows["spelling_bits"].sum())
        prompt_spelling_bits += float(rows["prompt_spelling_bits"].sum())
        for field in counts:
            counts[field] += int(rows[field].sum(dtype=np.int64))
    index_sha256 = _write_index(folder, split, documents, roles, has_prompts)
    return SplitInfo(
        n_documents,
        **counts,
        spelling_bits=spelling_bits,
        prompt_spelling_bits=prompt_spelling_bits,
        shard_sha256=written.of(split),
        index_sha256=index_sha256,
    )


def _write_index(folder: Path, split: str, documents: Path, roles: np.ndarray, has_prompts: bool) -> list[str]:
    """Write the ends of a split's documents, and the lengths of their prompts. Returns the checksums of the files."""
    checksums = []
    for path, dtype in index_files(folder, split, has_prompts).items():
        digest, offset = hashlib.sha256(), 0
        with atomic_writer(path) as file:
            for rows in _rows_of_split(split, documents, roles):
                values = rows["n_prompt_tokens"] if dtype == PROMPT else offset + np.cumsum(rows["n_tokens"], dtype=END)
                offset += int(rows["n_tokens"].sum(dtype=np.int64))
                data = np.ascontiguousarray(values, dtype=dtype).tobytes()
                file.write(data)
                digest.update(data)
        checksums.append(digest.hexdigest())
    return checksums


def _rows_of_split(split: str, documents: Path, roles: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of a split's documents, in order."""
    for first, chunk in chunks_of(np.memmap(documents, DOCUMENT, mode="r")):
        yield chunk[roles[first : first + len(chunk)] == ROLE_OF_SPLIT[split]]


class _WrittenShards:
    """A file with the name and checksum of each shard that is written, from which a resumed process continues."""

    def __init__(self, path: Path, plan: str) -> None:
        self.sha256: dict[str, str] = {}
        lines = read_text(path, MAX_MANIFEST_BYTES).splitlines() if path.exists() else []
        if lines[:1] == [plan]:
            self.sha256 = dict(line.split() for line in lines[1:] if len(line.split()) == 2)
        write_atomically(path, "".join(f"{line}\n" for line in (plan, *map(" ".join, self.sha256.items()))).encode())
        self._path = path

    def add(self, name: str, sha256: str) -> None:
        self.sha256[name] = sha256
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{name} {sha256}\n")

    def of(self, split: str) -> list[str]:
        """Return the checksums in the order of the shards, whose numbers can have different lengths."""
        names = [name for name in self.sha256 if name.startswith(f"{split}-")]
        return [self.sha256[name] for name in sorted(names, key=lambda name: (len(name), name))]
