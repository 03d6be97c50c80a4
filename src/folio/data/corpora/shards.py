"""What is kept of the staged documents, cut into shards of two splits; and a folder of shards opened again.

A document's split is a function of its bytes: a hash below a bound is validation. So no document is in both splits,
and of equal ones the first is kept. `corpus.json` says what the shards hold, and is written last.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from folio.data.corpora.staging import DOCUMENT, Staging, Workers
from folio.data.sharded_tokens import ShardedTokens, ShardFile
from folio.data.token_file import FORMAT as TOKEN_FORMAT
from folio.data.token_file import LARGEST_HASHED_BYTES, TokenFileError, TokenFileInfo, token_dtype
from folio.runtime.errors import FolioError
from folio.runtime.files import atomic_writer, sha256_of, write_atomically

FORMAT = 1
MANIFEST = "corpus.json"
SPLITS = ("train", "val")
DROPPED, TRAIN, VAL = range(3)
"""Roles of a document."""

DOCUMENTS_AT_ONCE = 1 << 20
DISTINCT_AT_ONCE = 1 << 22
"""Documents whose hashes are compared in one go, which takes some 200 MB."""

COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class SplitInfo:
    """Of all shards of a split together; the other fields as in TokenFileInfo."""

    n_documents: int
    n_tokens: int
    n_bytes: int
    n_unknown: int
    spelling_bits: float
    shard_sha256: list[str]


@dataclass(frozen=True)
class Manifest:
    """corpus.json. Every shard of a split but the last has `shard_tokens` tokens. It names no file."""

    format: int
    dtype: str
    vocab_size: int
    tokenizer: str
    tokenizer_fingerprint: str
    plan: str
    """Of which files, read how, it was made."""
    content_sha256: str
    """Of all documents in order, whatever files they lay in."""
    n_duplicates: int
    shard_tokens: int
    train: SplitInfo
    val: SplitInfo

    def sizes(self, split: str) -> list[int]:
        """Of the shards, in tokens."""
        info: SplitInfo = getattr(self, split)
        n_full, rest = divmod(info.n_tokens, self.shard_tokens)
        return [self.shard_tokens] * n_full + [rest] * (rest > 0)

    def info(self, split: str) -> TokenFileInfo:
        """The split as a single token file's sidecar would describe it."""
        own: SplitInfo = getattr(self, split)
        return TokenFileInfo(
            format=TOKEN_FORMAT,
            dtype=self.dtype,
            vocab_size=self.vocab_size,
            tokenizer=self.tokenizer,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            split=split,
            n_tokens=own.n_tokens,
            n_unknown=own.n_unknown,
            n_bytes=own.n_bytes,
            spelling_bits=own.spelling_bits,
            source_sha256=self.content_sha256,
            tokens_sha256=hashlib.sha256("".join(own.shard_sha256).encode()).hexdigest(),
        )


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05}.bin"


@dataclass(frozen=True)
class TokenShards:
    """A split in shards, with what a TokenFile has."""

    path: Path
    info: TokenFileInfo
    tokens: ShardedTokens
    _opened: tuple[os.stat_result, ...] = ()

    def check_unchanged(self) -> None:
        """Raises: TokenFileError where something has written to a shard since it was opened.

        One that was removed, or replaced by another, is no fault as long as nobody has to map it anew.
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
    """Looks at the size of each shard, and at the checksums where the split is small.

    Raises: TokenFileError for a shard that is missing, or not what the manifest promises.
    """
    sizes = manifest.sizes(split)
    itemsize = np.dtype(manifest.dtype).itemsize
    n_bytes = sum(sizes) * itemsize
    at_random = split == "train" and n_bytes > LARGEST_HASHED_BYTES
    shards, opened = [], []
    for number, n_tokens in enumerate(sizes):
        shard = ShardFile(shard_path(folder, split, number), n_tokens, manifest.dtype, at_random)
        shards.append(shard)
        opened.append(_look_at(shard, n_tokens * itemsize))
    tokens = ShardedTokens(shards)
    if n_bytes <= LARGEST_HASHED_BYTES:
        verify(folder, manifest, split, lambda n: None)
        if (largest := max(int(tokens.shard(number).max()) for number in range(len(shards)))) >= manifest.vocab_size:
            raise TokenFileError(
                shards[0].path, f"or one behind it holds the id {largest}; the vocabulary ends at {manifest.vocab_size}"
            )
    return TokenShards(folder / f"{split}-*.bin", manifest.info(split), tokens, tuple(opened))


def _look_at(shard: ShardFile, n_bytes: int) -> os.stat_result:
    try:
        seen = shard.path.stat()
    except FileNotFoundError:
        raise TokenFileError(shard.path, "is missing") from None
    if seen.st_size != n_bytes:
        raise TokenFileError(shard.path, f"has {seen.st_size} bytes where {MANIFEST} promises {n_bytes}")
    return seen


def verify(folder: Path, manifest: Manifest, split: str, count: Callable[[int], None]) -> None:
    """Read every shard. Raises: TokenFileError for one whose checksum is not the one in the manifest."""
    own: SplitInfo = getattr(manifest, split)
    for number, expected in enumerate(own.shard_sha256):
        path = shard_path(folder, split, number)
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            raise TokenFileError(path, "is missing") from None
        if found != expected:
            raise TokenFileError(path, f"was altered: its sha256 is not the one in {MANIFEST}")
        count(path.stat().st_size)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomically(folder / MANIFEST, (json.dumps(asdict(manifest), indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Raises: TokenFileError where it is missing or damaged."""
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_bytes())
        splits = {split: _checked(SplitInfo, fields[split]) for split in SPLITS}
        manifest: Manifest = _checked(Manifest, fields | splits)
    except FileNotFoundError:
        raise TokenFileError(path, "is missing") from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise TokenFileError(path, f"is no manifest of format {FORMAT}") from None
    is_sound = manifest.format == FORMAT and manifest.dtype == token_dtype(manifest.vocab_size)
    for split in SPLITS:
        own: SplitInfo = getattr(manifest, split)
        is_sound = is_sound and own.n_tokens > 0 and own.n_bytes > 0 and 0 <= own.n_unknown <= own.n_tokens
        is_sound = is_sound and 0.0 <= own.spelling_bits < math.inf
        # Before the sizes are made into a list: a lie about them must not take memory.
        is_sound = is_sound and manifest.shard_tokens > 0
        is_sound = is_sound and len(own.shard_sha256) == -(-own.n_tokens // manifest.shard_tokens)
    if not is_sound:
        raise TokenFileError(path, f"is no manifest of format {FORMAT}")
    return manifest


def _checked(kind: Any, fields: Any) -> Any:
    """The dataclass of these fields. Raises: TypeError where one is missing, too many, or of another type."""
    types: dict[str, Any] = kind.__annotations__
    right = fields.keys() == types.keys() and all(
        type(fields[key]) is (list if expected == list[str] else expected) for key, expected in types.items()
    )
    if not right:
        raise TypeError
    return kind(**fields)


def validation_bound(val_fraction: float, lowest: int) -> int:
    """Documents whose hash is below are for validation: the share that was asked for, and at least one.

    `lowest` is the least of all hashes.
    """
    return max(min(int(val_fraction * 2**64), 2**64 - 1), lowest + 1)


@dataclass(frozen=True)
class Kept:
    """The role of each staged document, (n,) uint8 in a mapped file, and what the corpus comes to."""

    roles: np.ndarray
    content_sha256: str
    n_duplicates: int


def choose(staging: Staging, val_fraction: float) -> Kept:
    """Leave out what was there before, and split the rest. Memory does not grow with the documents.

    Raises: FolioError where there are not two different documents, one for each split.
    """
    n_documents = staging.documents.stat().st_size // DOCUMENT.itemsize
    if n_documents == 0:
        raise FolioError("data.path: there is no document in what it matches but white space; give files with text")
    table = np.memmap(staging.documents, DOCUMENT, mode="r")
    digest, lowest, highest = hashlib.sha256(), 2**64, 0
    for chunk in _chunks_of(table):
        digest.update(np.stack((chunk["high"], chunk["low"])).T.tobytes())
        lowest, highest = min(lowest, int(chunk["high"].min())), max(highest, int(chunk["high"].max()))
    if lowest == highest:
        raise FolioError(
            "data.path: there is one document in what it matches, however often, and a split by documents needs two; "
            "for a single text use data=text_file, or say what parts its documents: data.document_separator=..."
        )
    bound = validation_bound(val_fraction, lowest)
    if bound > highest:
        raise FolioError(f"data.val_fraction={val_fraction} leaves no document to train on; lower it")
    roles = np.memmap(staging.folder / "roles", np.uint8, mode="w+", shape=(n_documents,))
    for first in range(0, n_documents, DOCUMENTS_AT_ONCE):
        high = table["high"][first : first + DOCUMENTS_AT_ONCE]
        roles[first : first + DOCUMENTS_AT_ONCE] = np.where(high < bound, VAL, TRAIN)
    n_duplicates = _drop_repeated(table, roles)
    return Kept(roles, digest.hexdigest(), n_duplicates)


def _chunks_of(table: np.ndarray) -> Iterator[np.ndarray]:
    return (table[first : first + DOCUMENTS_AT_ONCE] for first in range(0, len(table), DOCUMENTS_AT_ONCE))


def _drop_repeated(table: np.ndarray, roles: np.ndarray) -> int:
    """Of documents with the same hash, all but the first; a range of hashes at a time. Returns: how many."""
    n_ranges = -(-len(table) // DISTINCT_AT_ONCE)
    n_dropped = 0
    for number in range(n_ranges):
        seen = np.empty(0, [("high", "<u8"), ("low", "<u8")])
        for first in range(0, len(table), DOCUMENTS_AT_ONCE):
            chunk = table[first : first + DOCUMENTS_AT_ONCE]
            here = np.flatnonzero((chunk["high"] >> np.uint64(32)) * np.uint64(n_ranges) >> np.uint64(32) == number)
            own = np.empty(len(here), seen.dtype)
            own["high"], own["low"] = chunk["high"][here], chunk["low"][here]
            repeated, seen = _repeated(own, seen)
            roles[first + here[repeated]] = DROPPED
            n_dropped += int(repeated.sum())
    return n_dropped


def _repeated(own: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of `own` (N,) are in `seen`, sorted by `high`, or earlier in `own`; and `seen` with the others, sorted.

    Two different hashes with the same upper half, of which there is one pair in some billions of documents, may let a
    repeated document pass; a document is never left out for another.
    """
    order = np.lexsort((own["low"], own["high"]))  # stable: equal ones stay in their order
    is_second = np.zeros(len(own), bool)
    is_second[order[1:]] = own[order[1:]] == own[order[:-1]]
    if len(seen):
        place = np.minimum(np.searchsorted(seen["high"], own["high"]), len(seen) - 1)
        is_second |= seen[place] == own
    new = order[~is_second[order]]
    where = np.searchsorted(seen["high"], own["high"][new])
    return is_second, np.insert(seen, where, own[new])


@dataclass(frozen=True)
class ShardJob:
    """A shard to be written: runs of staged tokens, (k, 2) int64 of first and number."""

    split: str
    number: int
    runs: np.ndarray


def shard_jobs(staging: Staging, roles: np.ndarray, shard_tokens: int, dtype: str) -> Iterator[ShardJob]:
    """The shards of both splits, each full but the last of its split."""
    table = np.memmap(staging.documents, DOCUMENT, mode="r")
    for role, split in ((TRAIN, "train"), (VAL, "val")):
        runs: list[tuple[int, int]] = []
        number = n_in_shard = 0
        for first, length in _runs_of(table, roles, role):
            while length:
                n_here = min(length, shard_tokens - n_in_shard)
                runs.append((first, n_here))
                first, length, n_in_shard = first + n_here, length - n_here, n_in_shard + n_here
                if n_in_shard == shard_tokens:
                    yield ShardJob(split, number, np.array(runs))
                    runs, number, n_in_shard = [], number + 1, 0
        if runs:
            yield ShardJob(split, number, np.array(runs))


def _runs_of(table: np.ndarray, roles: np.ndarray, role: int) -> Iterator[tuple[int, int]]:
    """First token and number of tokens of each run of documents of one role."""
    offset = 0
    for first in range(0, len(table), DOCUMENTS_AT_ONCE):
        ends = offset + np.cumsum(table["n_tokens"][first : first + DOCUMENTS_AT_ONCE], dtype=np.int64)
        begins = np.concatenate(([offset], ends[:-1]))
        offset = int(ends[-1])
        mine = np.concatenate(([False], roles[first : first + DOCUMENTS_AT_ONCE] == role, [False]))
        changes = np.flatnonzero(mine[1:] != mine[:-1])
        for begin, end in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
            yield int(begins[begin]), int(ends[end - 1] - begins[begin])


def write_shard(staged: Path, target: Path, runs: np.ndarray, itemsize: int) -> str:
    """Copy runs of the staged tokens into a shard. Returns: its sha256."""
    digest = hashlib.sha256()
    with open(staged, "rb") as source, atomic_writer(target) as file:
        for first, length in runs.tolist():
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
    kept: Kept,
    folder: Path,
    workers: Workers,
    *,
    shard_tokens: int,
    vocab_size: int,
    tokenizer: str,
    tokenizer_fingerprint: str,
    plan: str,
    count: Callable[[int], None],
) -> Manifest:
    """Write what an interrupted process has not yet, and then the manifest, which makes the folder valid."""
    dtype = token_dtype(vocab_size)
    itemsize = np.dtype(dtype).itemsize
    done = _Done(staging.folder / "shards.txt", plan)

    def wanted() -> Iterator[tuple[Any, ...]]:
        for job in shard_jobs(staging, kept.roles, shard_tokens, dtype):
            path = shard_path(folder, job.split, job.number)
            n_bytes = int(job.runs[:, 1].sum()) * itemsize
            if path.name in done.sha256 and path.is_file() and path.stat().st_size == n_bytes:
                count(n_bytes)
            else:
                yield (path.name, n_bytes), staging.tokens, path, job.runs, itemsize

    for (name, n_bytes), sha256 in workers.map(write_shard, wanted()):
        done.add(name, sha256)
        count(n_bytes)
    sums = _sums(staging, kept.roles)
    manifest = Manifest(
        format=FORMAT,
        dtype=dtype,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        tokenizer_fingerprint=tokenizer_fingerprint,
        plan=plan,
        content_sha256=kept.content_sha256,
        n_duplicates=kept.n_duplicates,
        shard_tokens=shard_tokens,
        **{split: SplitInfo(**sums[split], shard_sha256=done.of(split)) for split in SPLITS},
    )
    write_manifest(folder, manifest)
    return manifest


def _sums(staging: Staging, roles: np.ndarray) -> dict[str, dict[str, Any]]:
    """What SplitInfo has of each split, but for the checksums."""
    table = np.memmap(staging.documents, DOCUMENT, mode="r")
    sums: dict[str, dict[str, Any]] = {}
    for role, split in ((TRAIN, "train"), (VAL, "val")):
        fields = ("n_tokens", "n_bytes", "n_unknown")
        own: dict[str, Any] = dict.fromkeys(("n_documents", *fields), 0) | {"spelling_bits": 0.0}
        for first in range(0, len(table), DOCUMENTS_AT_ONCE):
            rows = table[first : first + DOCUMENTS_AT_ONCE][roles[first : first + DOCUMENTS_AT_ONCE] == role]
            own["n_documents"] += len(rows)
            for field in fields:
                own[field] += int(rows[field].sum(dtype=np.int64))
            own["spelling_bits"] += float(rows["spelling_bits"].sum())
        sums[split] = own
    return sums


class _Done:
    """The checksums of the shards that are written, a line each, kept for a process that goes on."""

    def __init__(self, path: Path, plan: str) -> None:
        self.sha256: dict[str, str] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines[:1] == [plan]:
            self.sha256 = dict(line.split() for line in lines[1:] if len(line.split()) == 2)
        write_atomically(path, "".join(f"{line}\n" for line in (plan, *map(" ".join, self.sha256.items()))).encode())
        self._path = path

    def add(self, name: str, sha256: str) -> None:
        self.sha256[name] = sha256
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{name} {sha256}\n")

    def of(self, split: str) -> list[str]:
        """In the order of the shards, whose numbers may have more digits than others."""
        names = [name for name in self.sha256 if name.startswith(f"{split}-")]
        return [self.sha256[name] for name in sorted(names, key=lambda name: (len(name), name))]
