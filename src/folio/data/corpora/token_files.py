"""data=token_files: token files of other projects, mapped as they are."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from folio.data.corpora.patterns import matching_names, names_below
from folio.data.corpora.progress import Log
from folio.data.corpora.shards import TokenShards
from folio.data.corpora.token_formats import ForeignTokens, TokenFormatError, check_ids, read_header
from folio.data.document_index import DocumentIndex, MarkedDocuments
from folio.data.prepared import PreparedData
from folio.data.sharded_tokens import ShardedTokens, ShardFile
from folio.data.token_file import FORMAT, LARGEST_HASHED_BYTES, TokenFileError, TokenFileInfo
from folio.data.tokenizers.base import LearnedTokenizer, LosslessTokenizer, Tokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.state import fingerprint_of
from folio.runtime.errors import FolioError, explain_os_error
from folio.runtime.untrusted import UntrustedFileError

WORDS_OF_SPLIT = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
BLOCK_TOKENS = 1 << 16
N_SAMPLED_BLOCKS = 256
"""Blocks of a split above LARGEST_HASHED_BYTES that are read when it is opened: 32 MiB of uint16, evenly spread."""


@dataclass(frozen=True)
class TokenFiles:
    """Token files of nanoGPT, llm.c, modded-nanogpt or Megatron-LM, which are read where they are.

    Files with `train`, `val` and `test` in their names are the splits. Without a test file, the last `test_fraction` of
    all ids is for test; without a validation file, the last `val_fraction` before them for validation.

    Example:

        >>> from folio.config.tokenizer import choose_tokenizer
        >>> np.arange(100, dtype="<u2").tofile("train.bin"), np.arange(20, dtype="<u2").tofile("val.bin")
        (None, None)
        >>> data = TokenFiles("*.bin", 0.1).prepare(choose_tokenizer("byte"), Path("data"), log=print)
        >>> len(data.train.tokens), len(data.val.tokens)
        (100, 20)
    """

    path: str | Path
    val_fraction: float
    test_fraction: float = 0.0

    def prepare(self, tokenizer: TokenizerChoice, data_dir: Path, log: Log, verify_all: bool = False) -> PreparedData:
        """Open the files, and check their headers, their sizes and a sample of their ids. `verify_all` checks all ids.

        Raises: FolioError, in one line, for files that cannot be used or belong to another tokenizer.
        """
        if tokenizer.learned_kind is not None:
            raise FolioError(
                f"tokenizer={tokenizer.name} learns its vocabulary from a text, and data=token_files has only ids; "
                "name the tokenizer that made them, such as tokenizer=gpt2"
            )
        built = tokenizer.build(data_dir / "assets")
        with self._explain_errors():
            splits = self._splits(built.vocab_size)
            train, val = (_open(splits[name], name, built, verify_all) for name in ("train", "val"))
        open_test = partial(self._open_test, splits["test"], built) if "test" in splits else None
        if verify_all and open_test is not None:
            open_test(verify_all=True)
        return PreparedData(train, val, built, splits["train"][0].shard.path.parent, open_test=open_test)

    def _open_test(self, files: list[ForeignTokens], tokenizer: Tokenizer, verify_all: bool = False) -> TokenShards:
        with self._explain_errors():
            return _open(files, "test", tokenizer, verify_all)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FolioError(f"data.path={self.path} cannot be read ({explain_os_error(error) or error})") from error
        except (UntrustedFileError, TokenFileError) as error:
            raise FolioError(f"data.path={self.path}: {error}") from error

    def _splits(self, vocab_size: int) -> dict[str, list[ForeignTokens]]:
        """Return the files of train, val and perhaps test."""
        named: dict[str | None, list[Path]] = {}
        for path in self._find_files():
            named.setdefault(_split_named(path), []).append(path)
        if "val" in named and "train" not in named:
            raise FolioError(
                f"data.path={self.path}: {named['val'][0]} is for validation, and no name contains `train`"
            )
        if named.keys() == {"test"}:  # an only file may have any name
            named = {None: named["test"]}
        splits = {"train": _read_headers(named.get("train") or named[None], vocab_size)}
        for split, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            if split in named:
                splits[split] = _read_headers(named[split], vocab_size)
            elif fraction:
                splits["train"], splits[split] = _split_by_position(splits["train"], fraction)
        return splits

    def _find_files(self) -> list[Path]:
        folder = os.fspath(self.path)
        names = names_below(folder) if os.path.isdir(folder) else matching_names(folder)
        paths = [Path(name) for name in names if name.endswith(".bin")]
        if not paths:
            raise FolioError(
                f"data.path={self.path} names no .bin file; give a token file, a folder of them, or a pattern such as "
                "'shards/*.bin'"
            )
        return paths

    def identity(self, data_dir: Path) -> str:
        """Raises: FolioError, since no vocabulary can be learned from ids."""
        raise FolioError(
            f"data.parts: {self.path} holds only ids, and this tokenizer learns its vocabulary from texts; use a "
            "tokenizer that does not learn, such as tokenizer=gpt2"
        )

    def count_units(self, kind: type[LearnedTokenizer], data_dir: Path, log: Log) -> Counter[str]:
        """Raises: FolioError, as `identity` does."""
        self.identity(data_dir)
        return Counter()


def _split_named(path: Path) -> str | None:
    """Return the split that the words in the name of a file mean."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((split for split, meaning in WORDS_OF_SPLIT.items() if any(word in meaning for word in words)), None)


def _read_headers(paths: list[Path], vocab_size: int) -> list[ForeignTokens]:
    random_access = sum(path.stat().st_size for path in paths) > LARGEST_HASHED_BYTES
    files = [read_header(path, vocab_size, random_access) for path in paths]
    first = files[0]
    for file in files:
        if file.shard.dtype != first.shard.dtype:
            here, there = (f"{it.format}'s format ({np.dtype(it.shard.dtype).name})" for it in (file, first))
            raise TokenFormatError(
                file.shard.path, f"is of {here}, and {first.shard.path} of {there}; give files of one format"
            )
    return files


def _split_by_position(files: list[ForeignTokens], fraction: float) -> tuple[list[ForeignTokens], list[ForeignTokens]]:
    """Return the first and the last ids of all files together."""
    n_train = sum(len(file.shard) for file in files)
    n_train -= round(fraction * n_train)
    train: list[ForeignTokens] = []
    rest: list[ForeignTokens] = []
    for file in files:
        n_here = min(len(file.shard), max(n_train, 0))
        n_train -= len(file.shard)
        for part, first, n_tokens in ((train, 0, n_here), (rest, n_here, len(file.shard) - n_here)):
            if n_tokens:
                part.append(replace(file, shard=file.shard.part(first, n_tokens)))
    if not train or not rest:
        raise TokenFormatError(files[0].shard.path, "has too few ids for the splits; give a longer file")
    return train, rest


def _open(files: list[ForeignTokens], split: str, tokenizer: Tokenizer, verify_all: bool) -> TokenShards:
    """Return a split whose ids are checked: all of them if it is small, else a sample."""
    shards = [file.shard for file in files]
    tokens = ShardedTokens(shards)
    n_bytes_on_disk = len(tokens) * tokens.dtype.itemsize
    reads_all = verify_all or n_bytes_on_disk <= LARGEST_HASHED_BYTES
    digest = hashlib.sha256(f"{len(tokens)} {tokens.dtype}".encode())
    text_bytes, n_read, lengths = 0, 0, _bytes_of_ids(tokenizer)
    end_of_text, has_marks = tokenizer.end_of_text, False
    for shard, ids in _blocks(tokens, None if reads_all else N_SAMPLED_BLOCKS):
        check_ids(shard, ids, tokenizer.vocab_size, tokenizer.name)
        digest.update(ids.tobytes())
        text_bytes += int(lengths[ids].sum())
        n_read += len(ids)
        has_marks = has_marks or (end_of_text is not None and bool((ids == end_of_text).any()))
    info = TokenFileInfo(
        format=FORMAT,
        dtype=tokens.dtype.str,
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.name,
        tokenizer_fingerprint=fingerprint_of(tokenizer),
        split=split,
        n_tokens=len(tokens),
        n_unknown=0,
        n_bytes=max(1, round(text_bytes * len(tokens) / n_read)),  # exact if all ids were read
        spelling_bits=0.0,
        source_sha256=digest.hexdigest(),
        tokens_sha256=digest.hexdigest(),
    )
    documents = DocumentIndex([MarkedDocuments(tokens, end_of_text)]) if has_marks and end_of_text is not None else None
    return TokenShards(shards[0].path, info, tokens, documents, _opened=tuple(shard.path.stat() for shard in shards))


def _blocks(tokens: ShardedTokens, n_blocks: int | None) -> Iterator[tuple[ShardFile, np.ndarray]]:
    """Yield blocks of ids, each with its file: all, or so many that are evenly spread over each file."""
    for number, shard in enumerate(tokens.shards):
        assert isinstance(shard, ShardFile)
        starts = range(0, len(shard), BLOCK_TOKENS)
        if n_blocks is not None:
            share = -(-n_blocks * len(shard) // len(tokens))
            starts = range(0, len(shard), max(BLOCK_TOKENS, len(shard) // share))
        ids = tokens.shard(number)
        for start in starts:
            yield shard, ids[start : start + BLOCK_TOKENS]


def _bytes_of_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Return the number of bytes of text that each id stands for: (V,) int64. The end of a text has none.

    Raises: FolioError for a tokenizer whose ids have no bytes of their own.
    """
    if not isinstance(tokenizer, LosslessTokenizer):
        raise FolioError(
            f"tokenizer={tokenizer.name}: bits per byte need a tokenizer whose ids stand for bytes; use gpt2 or byte"
        )
    lengths = np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)], np.int64)
    if tokenizer.end_of_text is not None:
        lengths[tokenizer.end_of_text] = 0
    return lengths
