"""A corpus of many files, from a pattern to a folder of shards: found, encoded, split, opened again ever after.

The folder holds `corpus.json`, `tokenizer.json`, and `train-00000.bin`, `val-00000.bin` and so on. It is used again
when the files that the pattern matches have the names, sizes and times that they had; their bytes are not read for it.
While it is being made `unfinished/` lies in it, from which a process that was killed is gone on with.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from folio.data.corpora.documents import DOCUMENT_BYTES, DocumentBlock, DocumentFormat, read_blocks
from folio.data.corpora.files import CorpusFile, find_files, listing_sha256
from folio.data.corpora.progress import progress
from folio.data.corpora.shards import (
    FORMAT,
    MANIFEST,
    SPLITS,
    Manifest,
    choose,
    open_shards,
    read_manifest,
    shard_path,
    validation_bound,
    verify,
    write_shards,
)
from folio.data.corpora.staging import (
    SEPARATOR,
    Encoded,
    ReadPosition,
    Staging,
    Task,
    VocabularyCounts,
    Workers,
    encode_in_worker,
    learn_blocks,
    tasks,
    workers,
)
from folio.data.prepared import Log, NotReusableError, PreparedData, opening
from folio.data.token_file import TokenFileError, token_dtype
from folio.data.tokenizers.char import CHAR, CharTokenizer
from folio.data.tokenizers.registry import (
    Tokenizer,
    TokenizerChoice,
    build_tokenizer,
    fingerprint,
    fingerprint_of,
    load_tokenizer,
    state_from_json,
    state_to_json,
)
from folio.data.tokenizers.word import WordTokenizer
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, remove_unfinished, write_atomically

UNFINISHED = "unfinished"
TOKENIZER = "tokenizer.json"

MOST_UNITS = 1 << 21
"""Different words that are counted at a time, some 300 MB; beyond, the rarest half is forgotten."""


@dataclass(frozen=True)
class PrepareOptions:
    """How documents become shards."""

    reading: DocumentFormat
    val_fraction: float
    shard_tokens: int


class CorpusSource(Protocol):
    """Documents in a fixed order, from files or elsewhere."""

    @property
    def n_bytes(self) -> int:
        """Of what is read, for the progress."""
        ...

    def identity(self) -> str:
        """Another one means that the documents may be others. Known without reading them, and looked at once."""
        ...

    def is_unchanged(self) -> bool:
        """Whether its identity is still what it was."""
        ...

    def blocks(self, after: ReadPosition) -> Iterator[tuple[ReadPosition, DocumentBlock]]: ...


@dataclass(frozen=True)
class FilesSource:
    """The files that a pattern matches."""

    pattern: str
    reading: DocumentFormat

    @cached_property
    def files(self) -> list[CorpusFile]:
        return find_files(self.pattern)

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self.files)

    def identity(self) -> str:
        return listing_sha256(self.files)

    def is_unchanged(self) -> bool:
        return listing_sha256(find_files(self.pattern)) == self.identity()

    def blocks(self, after: ReadPosition) -> Iterator[tuple[ReadPosition, DocumentBlock]]:
        for number in range(after.file, len(self.files)):
            begin = after if number == after.file else ReadPosition(number)
            for block in read_blocks(self.files[number], self.reading, begin.end, begin.next):
                yield ReadPosition(number, block.end, block.next), block


def folder_of(kind: str, name: str, making: PrepareOptions, data_dir: Path) -> Path:
    """Where a corpus of this name, prepared in this way, is kept. The name is a pattern of files or of a dataset."""
    digest = hashlib.sha256(json.dumps([name, asdict(making)]).encode("utf-8", "surrogateescape")).hexdigest()
    # For people, of what a folder may be called anywhere.
    readable = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name)[-40:].strip("-")
    return data_dir / kind / f"{readable}-{digest[:8]}"


def prepare_corpus(
    source: CorpusSource,
    making: PrepareOptions,
    tokenizer: TokenizerChoice,
    corpus_folder: Path,
    assets_dir: Path,
    say: Log,
    verify_all: bool = False,
) -> PreparedData:
    """Open the prepared corpus, or prepare it first, or go on with what was begun.

    `verify_all` reads every shard of one that is there; else its size is looked at, and the checksums of a small one.
    Several processes may call this at once: one works, the others wait.

    Raises: FolioError for files that cannot be read, naming file and line; OSError from the disk.
    """
    folder = corpus_folder / tokenizer.folder_name
    try:
        prepared = _open(folder, source, making, tokenizer)
        if (folder / UNFINISHED).exists():
            _finish_leaving(folder)
        if verify_all:
            _verify(folder, say)
        return prepared
    except NotReusableError:
        pass
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / "prepared"):
        try:
            return _open(folder, source, making, tokenizer)  # another process may have done it
        except NotReusableError as reason:
            goes_on = (folder / UNFINISHED).exists()
            say(f"Preparing {folder}" + ("" if is_new or goes_on else f" again: {reason}"))
        return _prepare(source, making, tokenizer, folder, assets_dir, say)


def _plan(source: CorpusSource, making: PrepareOptions, tokenizer_fingerprint: str) -> str:
    """What the shards depend on, as a digest."""
    parts = [FORMAT, DOCUMENT_BYTES, source.identity(), asdict(making), tokenizer_fingerprint]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_folder(folder: Path) -> tuple[Manifest, PreparedData]:
    """A prepared folder as it is. Raises: NotReusableError where it is not whole."""
    with opening(folder / TOKENIZER):
        manifest = read_manifest(folder)
        state = (folder / TOKENIZER).read_bytes()
        tokenizer = load_tokenizer(state_from_json(state))
        train, val = (open_shards(folder, manifest, split) for split in SPLITS)
    made_with = (manifest.tokenizer, manifest.tokenizer_fingerprint, manifest.vocab_size)
    if made_with != (tokenizer.name, fingerprint(state), tokenizer.vocab_size):
        raise NotReusableError(f"{folder} was made with another tokenizer")
    return manifest, PreparedData(train, val, tokenizer, folder)


def _open(folder: Path, source: CorpusSource, making: PrepareOptions, choice: TokenizerChoice) -> PreparedData:
    """Raises: NotReusableError unless the folder was made of these files, in this way, with this tokenizer."""
    manifest, prepared = open_folder(folder)
    if not choice.allows(prepared.tokenizer):
        raise NotReusableError(f"{folder} was made with another tokenizer")
    if manifest.plan != _plan(source, making, manifest.tokenizer_fingerprint):
        raise NotReusableError("the files have changed since")
    return prepared


def _verify(folder: Path, say: Log) -> None:
    """Raises: TokenFileError for a shard that is not what was written."""
    manifest = read_manifest(folder)
    shards = [shard_path(folder, split, number) for split in SPLITS for number in range(len(manifest.sizes(split)))]
    with progress("Verifying", sum(path.stat().st_size for path in shards), say) as count:
        for split in SPLITS:
            verify(folder, manifest, split, count)
    say(f"{folder}: {len(shards)} shards have the checksums that they were written with")


def _prepare(
    source: CorpusSource, making: PrepareOptions, choice: TokenizerChoice, folder: Path, assets_dir: Path, say: Log
) -> PreparedData:
    (folder / MANIFEST).unlink(missing_ok=True)  # what is written from here on does not belong to it
    work = folder / UNFINISHED
    work.mkdir(exist_ok=True)
    for place in (folder, work):
        remove_unfinished(place)
    started = time.perf_counter()
    with workers(source.n_bytes) as helpers:
        tokenizer = _tokenizer(source, making, choice, work, assets_dir, helpers, say)
        write_atomically(folder / TOKENIZER, state_to_json(tokenizer.state()))
        made_by = fingerprint_of(tokenizer)
        plan = _plan(source, making, made_by)
        staging = Staging(work, plan)
        if n_done := staging.begun().n_read:
            say(f"Going on where it was: {n_done / 1e6:,.1f} of {source.n_bytes / 1e6:,.1f} MB are done")

        def encode(these: Iterator[Task]) -> Iterator[tuple[Task, Encoded]]:
            dtype = token_dtype(tokenizer.vocab_size)
            arguments = ((task, task[1], making.reading, folder / TOKENIZER, made_by, dtype) for task in these)
            return helpers.map(encode_in_worker, arguments)

        with progress("Encoding", source.n_bytes, say) as count:
            count(n_done)
            n_bytes = staging.fill(source, encode, count)
        kept = choose(staging, making.val_fraction)
        with progress("Writing", staging.tokens.stat().st_size, say) as count:
            manifest = write_shards(
                staging,
                kept,
                folder,
                helpers,
                shard_tokens=making.shard_tokens,
                vocab_size=tokenizer.vocab_size,
                tokenizer=tokenizer.name,
                tokenizer_fingerprint=made_by,
                plan=plan,
                count=count,
            )
    elapsed_s = time.perf_counter() - started
    _leave_only(folder, manifest)
    if not source.is_unchanged():
        (folder / MANIFEST).unlink()
        raise FolioError("data.path: files were changed while they were prepared; start again once they are whole")
    prepared = open_folder(folder)[1]
    _report(prepared, manifest, n_bytes, elapsed_s, say)
    return prepared


def _finish_leaving(folder: Path) -> None:
    """Remove what a process left that was killed when all but that was done; not where the folder may only be read."""
    with suppress(OSError, TokenFileError), exclusive_lock(folder / "prepared"):
        _leave_only(folder, read_manifest(folder))


def _leave_only(folder: Path, manifest: Manifest) -> None:
    """Remove what an earlier preparation has left, and what this one needs no longer."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    wanted = {shard_path(folder, split, number) for split in SPLITS for number in range(len(manifest.sizes(split)))}
    for path in folder.iterdir():
        is_ours = path.name.startswith(tuple(f"{split}-" for split in SPLITS)) and path.suffix == ".bin"
        if (is_ours and path not in wanted) or path.name.startswith("lines-"):
            path.unlink()


def _report(prepared: PreparedData, manifest: Manifest, n_bytes: int, elapsed_s: float, say: Log) -> None:
    train, val = manifest.train, manifest.val
    n_documents, megabytes = train.n_documents + val.n_documents, n_bytes / 1e6
    say(
        f"Prepared {train.n_tokens:,} training and {val.n_tokens:,} validation tokens of {n_documents:,} documents "
        f"({val.n_documents:,} for validation, {manifest.n_duplicates:,} duplicates left out) in {prepared.folder}"
        + (f": {megabytes:.1f} MB in {elapsed_s:.1f} s, {megabytes / elapsed_s:.1f} MB/s" if n_bytes else "")
    )
    if train.n_unknown or val.n_unknown:
        shares = (100 * info.n_unknown / info.n_tokens for info in (train, val))
        say(
            "{}: {:,} symbols; unknown are {:.1f} % of the training and {:.1f} % of the validation tokens".format(
                manifest.tokenizer, manifest.vocab_size, *shares
            )
        )


def _tokenizer(
    source: CorpusSource,
    making: PrepareOptions,
    choice: TokenizerChoice,
    work: Path,
    assets_dir: Path,
    helpers: Workers,
    say: Log,
) -> Tokenizer:
    """The tokenizer of a choice; one that learns has learned from all documents, or did before the kill."""
    if not choice.learns:
        return build_tokenizer(choice, (), (), assets_dir)
    plan = _plan(source, making, choice.folder_name)
    learned = work / f"tokenizer-{plan[:16]}.json"
    if learned.is_file():
        return load_tokenizer(state_from_json(learned.read_bytes()))
    tokenizer = tokenizer_of(choice, *learn(source, making, choice, helpers, say))
    write_atomically(learned, state_to_json(tokenizer.state()))
    return tokenizer


def learn(
    source: CorpusSource, making: PrepareOptions, choice: TokenizerChoice, helpers: Workers, say: Log
) -> tuple[set[str], Counter[str]]:
    """The characters of all documents, or, for `word`, the units of those for training and how often they come."""
    bound = validation_bound(making.val_fraction, lowest=-1)
    characters, units, lowest = _learn_once(source, making, choice, helpers, bound, say)
    if choice.name != CHAR and lowest >= bound:  # no document was for validation, but one has to be
        characters, units, _ = _learn_once(source, making, choice, helpers, lowest + 1, say)
    return characters, units


def _learn_once(
    source: CorpusSource, making: PrepareOptions, choice: TokenizerChoice, helpers: Workers, bound: int, say: Log
) -> tuple[set[str], Counter[str], int]:
    characters: set[str] = set()
    units: Counter[str] = Counter()
    lowest = 2**64
    with progress("Learning", source.n_bytes, say) as count:
        jobs = (
            (task, task[1], making.reading, bound, choice.name != CHAR) for task in tasks(source.blocks(ReadPosition()))
        )
        part: VocabularyCounts
        for (_, blocks), part in helpers.map(learn_blocks, jobs):
            characters |= part.characters
            units.update(part.units)
            if len(units) > MOST_UNITS:
                units = _most_frequent(units, MOST_UNITS // 2)
            lowest = lowest if part.lowest is None else min(lowest, part.lowest)
            count(sum(block.n_read for block in blocks))
    return characters, units, lowest


def _most_frequent(units: Counter[str], n: int) -> Counter[str]:
    return Counter(dict(sorted(units.items(), key=lambda item: (-item[1], item[0]))[:n]))


def tokenizer_of(choice: TokenizerChoice, characters: set[str], units: Counter[str]) -> Tokenizer:
    """What `learn` found, or found in several corpora, made into a tokenizer."""
    if choice.name == CHAR:
        return CharTokenizer("".join(sorted(characters | set(SEPARATOR))))
    return WordTokenizer.of_counts(units + Counter({"\n": 1}), choice.max_vocab_size)
