"""Several corpora drawn from by their shares, each batch still a pure function of (seed, step).

Draw n of a run is one sequence. In each block of BLOCK_DRAWS draws every corpus has a fixed number of places, as many
as its share comes to, and a permutation says which draws they are. So which corpus a draw reads, and how many draws
read that corpus before, follows from n without looking at the others.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from folio.data.batches.random_numbers import Permutation, RandomStream, random_uint64, uniform_integers
from folio.data.prepared import MixturePart, PreparedData, TokenSplit
from folio.data.sharded_tokens import ShardedTokens, joined
from folio.data.token_file import TokenFileInfo
from folio.runtime.errors import FolioError

BLOCK_DRAWS = 1 << 16
"""In so many draws the shares are exact; a corpus has at least one of them."""


def places_of(shares: tuple[float, ...]) -> np.ndarray:
    """(n,) int64: how many of BLOCK_DRAWS each share comes to, by largest remainders, and one at least."""
    exact = np.array(shares) / sum(shares) * BLOCK_DRAWS
    places = np.maximum(np.floor(exact).astype(np.int64), 1)
    order = np.argsort(places - exact, kind="stable")  # those that were cut most come first
    for number in range(BLOCK_DRAWS - int(places.sum())):
        places[order[number % len(order)]] += 1
    places[places.argmax()] -= places.sum() - BLOCK_DRAWS  # what small shares were given beyond theirs
    return places


@dataclass(frozen=True)
class Mixture:
    """Indices into corpora that stand one behind the other: those of corpus i are `offsets[i]` + [0, `sizes[i]`)."""

    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]

    def places(self, seed: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each draw (B,) its corpus, and its number among the draws of that corpus: both (B,) int64.

        Every number comes once. Within a block the numbers of a corpus do not ascend.
        """
        counts = places_of(self.shares)
        ends = np.cumsum(counts)
        blocks, slots = np.divmod(draws, BLOCK_DRAWS)
        corpora, numbers = np.empty_like(draws), np.empty_like(draws)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            values = Permutation(BLOCK_DRAWS, seed, block, RandomStream.MIXTURE)(slots[here])
            corpus = np.searchsorted(ends, values, side="right")
            corpora[here] = corpus
            numbers[here] = block * counts[corpus] + values - (ends - counts)[corpus]
        return corpora, numbers

    def indices(self, window_order: str, seed: int, step: int, batch_size: int) -> np.ndarray:
        """(B,) int64: the global batch of a step."""
        draws = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
        corpora, numbers = self.places(seed, draws)
        words = random_uint64(seed, step, batch_size, RandomStream.WINDOW_ORDER)
        indices = np.empty(batch_size, dtype=np.int64)
        for corpus in np.unique(corpora).tolist():
            here, size = corpora == corpus, self.sizes[corpus]
            if window_order == "random":
                own = uniform_integers(words[here], size)
            else:
                own = self._shuffled(corpus, numbers[here], seed)
            indices[here] = self.offsets[corpus] + own
        return indices

    def _shuffled(self, corpus: int, numbers: np.ndarray, seed: int) -> np.ndarray:
        """Each index once an epoch of this corpus."""
        epochs, places = np.divmod(numbers, self.sizes[corpus])
        own = np.empty_like(numbers)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            # An order of its own for each corpus, also where two have one size.
            own[here] = Permutation(self.sizes[corpus], seed, epoch + ((corpus + 1) << 40))(places[here])
        return own


@dataclass(frozen=True)
class JoinedSplit:
    """One split of several corpora, one behind the other."""

    path: Path
    info: TokenFileInfo
    tokens: ShardedTokens
    splits: tuple[TokenSplit, ...]

    def check_unchanged(self) -> None:
        """Raises: TokenFileError where something has written to one of them since it was opened."""
        for split in self.splits:
            split.check_unchanged()


def mixed(corpora: list[tuple[str, float, PreparedData]]) -> PreparedData:
    """Corpora of one tokenizer as one, with their names and weights.

    Raises: FolioError for a corpus that is so small a part that it would never be drawn.
    """
    total = sum(weight for _, weight, _ in corpora)
    parts = []
    for name, weight, data in corpora:
        if weight / total < 1 / BLOCK_DRAWS:
            raise FolioError(
                f"data.parts: {name} has {weight:g} of {total:g}, less than one sequence in {BLOCK_DRAWS:,}; "
                "leave it out, or raise its weight"
            )
        parts.append(MixturePart(name, weight / total, data.train, data.val))
    first = corpora[0][2]
    train, val = (_join([getattr(part, split) for part in parts]) for split in ("train", "val"))
    return PreparedData(train, val, first.tokenizer, first.folder, tuple(parts))


def _join(splits: list[TokenSplit]) -> JoinedSplit:
    infos = [split.info for split in splits]
    info = replace(
        infos[0],
        n_tokens=sum(info.n_tokens for info in infos),
        n_unknown=sum(info.n_unknown for info in infos),
        n_bytes=sum(info.n_bytes for info in infos),
        spelling_bits=sum(info.spelling_bits for info in infos),
        source_sha256=_digest([info.source_sha256 for info in infos]),
        tokens_sha256=_digest([info.tokens_sha256 for info in infos]),
    )
    return JoinedSplit(splits[0].path, info, joined([split.tokens for split in splits]), tuple(splits))


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
