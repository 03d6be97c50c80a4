"""data=mixture: several corpora with one tokenizer, joined, each with its share of the training sequences."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from folio.data.corpora.document_corpus import with_separator
from folio.data.corpora.preparation import DataSource, explain_disk_errors
from folio.data.corpora.progress import Log
from folio.data.document_index import DocumentIndex, join_indexes
from folio.data.prepared import MIXTURE_BLOCK, MixturePart, PreparedData, TokenSplit
from folio.data.sharded_tokens import ShardedTokens, join_tokens
from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.state import MAX_TOKENIZER_BYTES, state_to_json
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, write_atomically
from folio.runtime.untrusted import read_json_object


@dataclass(frozen=True)
class WeightedSource:
    """One corpus of a mixture."""

    name: str
    weight: float
    source: DataSource


@dataclass(frozen=True)
class CorpusMixture:
    """Several corpora."""

    parts: tuple[WeightedSource, ...]

    def prepare(self, tokenizer: TokenizerChoice, data_dir: Path, log: Log, verify_all: bool = False) -> PreparedData:
        """See `DataSource`. A learned vocabulary is learned from all parts together."""
        kind = tokenizer.learned_kind
        if kind is not None:
            with explain_disk_errors(data_dir):
                shared = self._learned_tokenizer(tokenizer, kind, data_dir, log)
            tokenizer = replace(tokenizer, shared=shared)
        corpora = [part.source.prepare(tokenizer, data_dir, log, verify_all) for part in self.parts]
        return join_corpora([(part.name, part.weight, data) for part, data in zip(self.parts, corpora, strict=True)])

    def identity(self, data_dir: Path) -> str:
        """See `DataSource`."""
        return _digest([part.source.identity(data_dir) for part in self.parts])

    def count_units(self, kind: type[LearnedTokenizer], data_dir: Path, log: Log) -> Counter[str]:
        """See `DataSource`."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts.update(part.source.count_units(kind, data_dir, log))
        return counts

    def _learned_tokenizer(
        self, choice: TokenizerChoice, kind: type[LearnedTokenizer], data_dir: Path, log: Log
    ) -> Tokenizer:
        """Return the tokenizer of all parts. It is kept with what it was learned from, so that it is learned once."""
        identities = [part.source.identity(data_dir) for part in self.parts]
        folder = data_dir / "mixture"
        file = folder / _digest(identities)[:8] / f"{choice.folder_name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(file):
            for kept in folder.glob(f"*/{file.name}"):  # earlier versions named the folders differently
                if (tokenizer := _read_learned(kept, choice, identities)) is not None:
                    return tokenizer
            log(f"Learning the vocabulary of {len(self.parts)} corpora together")
            counts = self.count_units(kind, data_dir, log)
            tokenizer = choice.build(data_dir / "assets", with_separator(counts, kind))
            fields = {"learned_from": identities, "state": json.loads(state_to_json(tokenizer.state()))}
            write_atomically(file, json.dumps(fields).encode())
        return tokenizer


def _read_learned(file: Path, choice: TokenizerChoice, identities: list[str]) -> Tokenizer | None:
    """Return the tokenizer of a file, if it was learned from corpora with these identities."""
    try:
        fields = read_json_object(file, MAX_TOKENIZER_BYTES)
        if fields["learned_from"] == identities:
            return choice.load(json.dumps(fields["state"]).encode())
    except (OSError, ValueError, KeyError):  # FolioError is a ValueError
        pass
    return None


@dataclass(frozen=True)
class JoinedSplit:
    """The same split of several corpora, one after the other."""

    path: Path
    info: TokenFileInfo
    tokens: ShardedTokens
    splits: tuple[TokenSplit, ...]
    documents: DocumentIndex | None
    completions_info: TokenFileInfo | None

    def check_unchanged(self) -> None:
        """Raises: TokenFileError if one of the splits was written to since it was opened."""
        for split in self.splits:
            split.check_unchanged()


def join_corpora(corpora: list[tuple[str, float, PreparedData]]) -> PreparedData:
    """Join corpora of one tokenizer, given with their names and weights.

    Raises: FolioError if a corpus has less than one training sequence in MIXTURE_BLOCK, or ids of another type.
    """
    total = sum(weight for _, weight, _ in corpora)
    parts = []
    for name, weight, data in corpora:
        if weight / total < 1 / MIXTURE_BLOCK:
            raise FolioError(
                f"data.parts: {name} has {weight:g} of {total:g}, less than one sequence in {MIXTURE_BLOCK:,}; "
                "leave it out, or raise its weight"
            )
        parts.append(MixturePart(name, weight / total, data.train, data.val))
    first_name, _, first = corpora[0]
    for name, _, data in corpora:
        here, there = data.train.info.dtype[1:], first.train.info.dtype[1:]
        if here != there:
            raise FolioError(
                f"data.parts: the ids of {name} are of type {here}, and those of {first_name} of type {there}; "
                "join files of one type"
            )
    train, val = (_join([getattr(part, split) for part in parts]) for split in ("train", "val"))
    has_test = any(data.open_test is not None for _, _, data in corpora)
    open_test = partial(_join_tests, [(name, data) for name, _, data in corpora]) if has_test else None
    return PreparedData(train, val, first.tokenizer, first.folder, tuple(parts), open_test)


def _join_tests(corpora: list[tuple[str, PreparedData]]) -> JoinedSplit:
    """Raises: FolioError if a corpus has no test split."""
    tests = []
    for name, data in corpora:
        if data.open_test is None:
            raise FolioError(f"data.parts: {name} has no test split, and the others have one; give all of them one")
        tests.append(data.open_test())
    return _join(tests)


def _join(splits: list[TokenSplit]) -> JoinedSplit:
    completions = [split.completions_info for split in splits if split.completions_info is not None]
    return JoinedSplit(
        splits[0].path,
        _join_infos([split.info for split in splits]),
        join_tokens([split.tokens for split in splits]),
        tuple(splits),
        join_indexes([split.documents for split in splits]),
        _join_infos(completions) if len(completions) == len(splits) else None,
    )


def _join_infos(infos: list[TokenFileInfo]) -> TokenFileInfo:
    return replace(
        infos[0],
        n_tokens=sum(info.n_tokens for info in infos),
        n_unknown=sum(info.n_unknown for info in infos),
        n_bytes=sum(info.n_bytes for info in infos),
        spelling_bits=sum(info.spelling_bits for info in infos),
        source_sha256=_digest([info.source_sha256 for info in infos]),
        tokens_sha256=_digest([info.tokens_sha256 for info in infos]),
    )


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
