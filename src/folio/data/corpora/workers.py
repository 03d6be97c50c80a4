"""Work spread over all processors, with results in the order of the tasks."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np

from folio.data.tokenizers.base import Tokenizer, UnknownTokens
from folio.runtime.cpus import available_cpus
from folio.runtime.errors import FolioError

N_AHEAD = 2
"""Number of tasks in flight beyond one for each processor, so that none waits for the next."""

SMALL_BYTES = 1 << 23
"""Size of a corpus that is done before helper processes would have started."""


def map_in_order(
    pool: Executor, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[Any, Any]]:
    """Yield the first of each task's arguments, which stays here, with the function's result for the others.

    No more tasks are in memory than are in flight.
    """
    n_in_flight = available_cpus() + N_AHEAD
    in_flight: deque[tuple[Any, Future[Any]]] = deque()
    for key, *rest in arguments:
        in_flight.append((key, pool.submit(function, *rest)))
        if len(in_flight) >= n_in_flight:
            key, future = in_flight.popleft()
            yield key, future.result()
    while in_flight:
        key, future = in_flight.popleft()
        yield key, future.result()


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[tuple[np.ndarray, UnknownTokens]]:
    """Yield the ids of each piece of a text, and what is unknown in it.

    In threads, because tiktoken and Hugging Face's library release the interpreter lock; the other tokenizers keep it,
    and gain nothing.
    """
    tokenizer.encode("")  # tiktoken reads its ranks at first use, and otherwise every thread would do so
    pool = ThreadPoolExecutor(available_cpus())
    try:
        for _, encoded in map_in_order(pool, tokenizer.encode_with_unknown, ((None, piece) for piece in pieces)):
            yield encoded
    finally:
        pool.shutdown(cancel_futures=True)


class HelperKilledError(FolioError):
    """The end of a helper process, which is no fault of the documents: the work so far can be resumed."""


class Workers:
    """Helper processes, or only this one if the corpus is small."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def map(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, Any]]:
        """Like `map_in_order`. Raises: HelperKilledError."""
        if self._pool is None:
            yield from ((key, function(*rest)) for key, *rest in arguments)
            return
        try:
            yield from map_in_order(self._pool, function, arguments)
        except BrokenProcessPool:
            raise HelperKilledError(
                "a process that helped to prepare the data was killed, perhaps because memory ran out; run the command "
                "again: it resumes where it stopped"
            ) from None


@contextmanager
def start_workers(n_bytes: int) -> Iterator[Workers]:
    """Start as many processes as there are processors; none for a small corpus."""
    if n_bytes <= SMALL_BYTES:
        yield Workers(None)
        return
    # Spawned, because a forked process inherits locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(available_cpus(), mp_context=context, initializer=_start_worker)
    with _known_start_method():
        try:
            yield Workers(pool)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _known_start_method() -> Iterator[None]:
    """Work around joblib, under which a sweep's jobs run.

    A new process inherits the name of its parent's start method. joblib's own is unknown to it, and it would exit.
    """
    own = multiprocessing.get_start_method(allow_none=True)
    if own is None or own in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(own, force=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent process, and exit if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
