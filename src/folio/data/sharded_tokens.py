"""Token arrays that lie in several files, read as one."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from folio.data.token_file import MappedTokens, TokenFileError, check_whole, map_tokens

MOST_MAPPED = 256
"""Shards that are mapped at a time: each holds an open file, of which a process may have about a thousand."""


@dataclass(frozen=True)
class ShardFile:
    """A file of `n_tokens` ids, mapped when one of them is first asked for."""

    path: Path
    n_tokens: int
    dtype: str
    at_random: bool = False
    """Read in windows that lie anywhere, from a corpus larger than memory: see `map_tokens`."""

    def __len__(self) -> int:
        return self.n_tokens

    def map(self) -> MappedTokens:
        """Raises: TokenFileError where the file is gone, or is not as long as it was when the corpus was opened."""
        try:
            n_bytes = self.path.stat().st_size
            if n_bytes == self.n_tokens * np.dtype(self.dtype).itemsize:
                return map_tokens(self.path, self.dtype, self.at_random)
        except FileNotFoundError:
            raise TokenFileError(self.path, "is missing") from None
        raise TokenFileError(self.path, f"has {n_bytes} bytes where {self.n_tokens} tokens belong")


class ShardedTokens:
    """Shards one behind the other as one array of shape (n_tokens,), of which no more is in memory than is read.

    What is asked for is what `np.concatenate` of the shards would give, across their borders too. Starting costs the
    same whatever the size: a shard is mapped at its first use, and MOST_MAPPED of them at most.
    """

    def __init__(self, shards: Sequence[np.ndarray | ShardFile]) -> None:
        assert shards
        self.shards = tuple(shards)
        self.dtype = np.dtype(shards[0].dtype)
        assert all(np.dtype(shard.dtype) == self.dtype for shard in shards)
        self._ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)
        self._begins = self._ends - [len(shard) for shard in shards]
        self._mapped: OrderedDict[int, MappedTokens] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": OrderedDict()}  # each process maps for itself

    def __getitem__(self, where: slice) -> np.ndarray:
        """(N,): a copy of the tokens of a slice without a step."""
        first, end, step = where.indices(len(self))
        assert step == 1
        if end <= first:
            return np.empty(0, self.dtype)
        first_shard, last_shard = np.searchsorted(self._ends, [first, end - 1], side="right").tolist()
        return np.concatenate([self._part(number, first, end) for number in range(first_shard, last_shard + 1)])

    def _part(self, number: int, first: int, end: int) -> np.ndarray:
        begin = int(self._begins[number])
        return self.shard(number)[max(first - begin, 0) : end - begin]

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The tokens at `positions`, of any shape."""
        taken = np.empty(positions.shape, self.dtype)
        for number, here in self._by_shard(positions):
            taken[here] = self.shard(number)[positions[here] - self._begins[number]]
        return taken

    def windows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """(B, width): the window at each start. Those that cross a border are put together one by one."""
        windows = np.empty((len(starts), width), self.dtype)
        first, last = (np.searchsorted(self._ends, place, side="right") for place in (starts, starts + width - 1))
        within = first == last
        for number, here in self._by_shard(np.where(within, starts, -1)):
            local = starts[here] - self._begins[number]
            windows[here] = sliding_window_view(self.shard(number), width)[local]
        for row in np.flatnonzero(~within).tolist():
            start = int(starts[row])
            windows[row] = self[start : start + width]
        return windows

    def _by_shard(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each shard that one of the positions lies in, and which of them do; those below 0 lie in none."""
        numbers = np.where(positions < 0, -1, np.searchsorted(self._ends, positions, side="right"))
        for number in np.unique(numbers).tolist():
            if number >= 0:
                yield number, numbers == number

    def shard(self, number: int) -> np.ndarray:
        """Raises: TokenFileError where its file is gone, or shorter by now."""
        shard = self.shards[number]
        if not isinstance(shard, ShardFile):
            check_whole(shard)
            return np.asarray(shard)
        tokens = self._mapped.pop(number, None)
        if tokens is None:
            tokens = shard.map()
            if len(self._mapped) >= MOST_MAPPED:
                self._mapped.popitem(last=False)
        self._mapped[number] = tokens  # the one used last is the last to go
        check_whole(tokens)
        return np.asarray(tokens)


Tokens = np.ndarray | ShardedTokens
"""(N,) ids, in one array or in many."""


def joined(arrays: Sequence[Tokens]) -> ShardedTokens:
    """One behind the other, without copying a token."""
    shards: list[np.ndarray | ShardFile] = []
    for array in arrays:
        shards += array.shards if isinstance(array, ShardedTokens) else [array]
    return ShardedTokens(shards)
