"""Token arrays in several files, read as one array."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from folio.data.token_file import MappedTokens, TokenFileError, check_whole, map_tokens

MAX_MAPPED = 256
"""Number of shards that are mapped at a time. Each is an open file, and a process can have about a thousand."""


@dataclass(frozen=True)
class ShardFile:
    """A file of `n_tokens` ids, mapped when one of them is first needed.

    Example:

        >>> len(ShardFile(Path("00000.bin"), n_tokens=5, dtype="<u2"))  # nothing is opened yet
        5
    """

    path: Path
    n_tokens: int
    dtype: str
    random_access: bool = False
    """Whether windows anywhere in a corpus larger than memory are read; see `map_tokens`."""
    offset: int = 0
    """Bytes before the first id, such as a header."""
    file_bytes: int | None = None
    """Size of the whole file; None if it ends with the last id."""

    def __len__(self) -> int:
        return self.n_tokens

    def part(self, first: int, n_tokens: int) -> "ShardFile":
        """Return some of the ids as if they were all."""
        assert self.file_bytes is not None
        return replace(self, n_tokens=n_tokens, offset=self.offset + first * np.dtype(self.dtype).itemsize)

    def map(self) -> MappedTokens:
        """Raises: TokenFileError if the file is gone, or its size has changed since the corpus was opened."""
        try:
            n_bytes = self.path.stat().st_size
            if n_bytes == (self.file_bytes or self.n_tokens * np.dtype(self.dtype).itemsize):
                return map_tokens(self.path, self.dtype, self.random_access, self.offset, self.n_tokens)
        except FileNotFoundError:
            raise TokenFileError(self.path, "is missing") from None
        raise TokenFileError(self.path, f"has {n_bytes} bytes, which are not its {self.n_tokens} tokens")


class ShardedTokens:
    """Shards as one array of shape (n_tokens,), of which only what is read is in memory.

    Results are those of `np.concatenate` of the shards, also across their boundaries. Opening takes the same time for
    any size, since a shard is mapped at its first use; at most MAX_MAPPED of them are mapped.

        >>> tokens = ShardedTokens([np.arange(3), np.arange(3, 5)])
        >>> tokens[1:4].tolist()
        [1, 2, 3]
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
        return self.__dict__ | {"_mapped": OrderedDict()}  # each process maps the shards itself

    def __getitem__(self, index: slice) -> np.ndarray:
        """Return a copy of the tokens in a slice without a step: (N,)."""
        first, end, step = index.indices(len(self))
        assert step == 1
        if end <= first:
            return np.empty(0, self.dtype)
        first_shard, last_shard = np.searchsorted(self._ends, [first, end - 1], side="right").tolist()
        return np.concatenate([self._part(number, first, end) for number in range(first_shard, last_shard + 1)])

    def _part(self, number: int, first: int, end: int) -> np.ndarray:
        begin = int(self._begins[number])
        return self.shard(number)[max(first - begin, 0) : end - begin]

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the tokens at `positions`, an array of any shape."""
        taken = np.empty(positions.shape, self.dtype)
        for number, here in self._by_shard(positions):
            taken[here] = self.shard(number)[positions[here] - self._begins[number]]
        return taken

    def windows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """Return the window at each start: (B, width). Windows across a boundary are assembled one by one."""
        windows = np.empty((len(starts), width), self.dtype)
        first, last = (np.searchsorted(self._ends, ends, side="right") for ends in (starts, starts + width - 1))
        within = first == last
        for number, here in self._by_shard(np.where(within, starts, -1)):
            local = starts[here] - self._begins[number]
            windows[here] = sliding_window_view(self.shard(number), width)[local]
        for row in np.flatnonzero(~within).tolist():
            start = int(starts[row])
            windows[row] = self[start : start + width]
        return windows

    def _by_shard(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each shard that holds some of the positions, and which of them; positions below 0 are in none."""
        numbers = np.where(positions < 0, -1, np.searchsorted(self._ends, positions, side="right"))
        for number in np.unique(numbers).tolist():
            if number >= 0:
                yield number, numbers == number

    def shard(self, number: int) -> np.ndarray:
        """Return the tokens of one shard. Raises: TokenFileError if its file is gone or was cut short."""
        shard = self.shards[number]
        if not isinstance(shard, ShardFile):
            check_whole(shard)
            return np.asarray(shard)
        tokens = self._mapped.pop(number, None)
        if tokens is None:
            tokens = shard.map()
            if len(self._mapped) >= MAX_MAPPED:
                self._mapped.popitem(last=False)
        self._mapped[number] = tokens  # the most recently used is evicted last
        check_whole(tokens)
        return np.asarray(tokens)


Tokens = np.ndarray | ShardedTokens
"""(N,) ids, in one array or in shards."""


def join_tokens(arrays: Sequence[Tokens]) -> ShardedTokens:
    """Return the arrays as one, without copying a token."""
    shards: list[np.ndarray | ShardFile] = []
    for array in arrays:
        shards += array.shards if isinstance(array, ShardedTokens) else [array]
    return ShardedTokens(shards)
