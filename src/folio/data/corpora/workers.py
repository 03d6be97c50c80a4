"""Pieces of a text made into ids by all processors at once, in the order of the text."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from folio.data.tokenizers.base import UnknownTokens
from folio.data.tokenizers.registry import Tokenizer
from folio.runtime.cpus import available_cpus

Encoded = tuple[np.ndarray, UnknownTokens]

AHEAD = 2
"""Pieces in work for each thread: one that it encodes, and one so that it need not wait for the next."""


def encode_all(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[Encoded]:
    """The ids of each piece, and what is unknown in it.

    In threads, because tiktoken encodes without holding the interpreter; the other tokenizers hold it, and gain
    nothing, but they need not be told apart. No more pieces are in memory than there are in work.
    """

    def encode(piece: str) -> Encoded:
        return tokenizer.encode(piece), tokenizer.unknown(piece)

    tokenizer.encode("")  # tiktoken reads its ranks at first use, and each thread would do so
    n_threads = available_cpus()
    in_work: deque[Future[Encoded]] = deque()
    pool = ThreadPoolExecutor(n_threads)
    try:
        for piece in pieces:
            in_work.append(pool.submit(encode, piece))
            if len(in_work) >= AHEAD * n_threads:
                yield in_work.popleft().result()
        while in_work:
            yield in_work.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
