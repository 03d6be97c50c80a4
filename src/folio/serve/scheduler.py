"""The thread that computes: one step of each request in turn, so that none waits for another to end."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from folio.serve.errors import ApiError

T = TypeVar("T")


class Finished:
    """The result after the last one of a job."""


@dataclass
class RequestJob:
    """The steps of one request. A step ends at each `yield`; what it yields is delivered, unless it is None."""

    steps: Iterator[Any]
    deliver: Callable[[Any], None]
    is_cancelled: bool = False
    """Set by any thread; no further step begins."""

    def step(self) -> Any:
        """Run one step. Returns its result, or Finished or an exception if no other follows."""
        if self.is_cancelled:
            return Finished()
        try:
            return next(self.steps, Finished())
        except Exception as error:  # of this request alone: the others go on
            return error


class Scheduler:
    """Runs the jobs of at most max_jobs requests in a thread of its own, a step of each in turn.

    Every request advances by one token per round, whatever the others ask for. A step computes one text alone, so its
    bits do not depend on what else runs; padded batches would be faster and round differently.
    """

    def __init__(self, max_jobs: int) -> None:
        self._max_jobs = max_jobs
        self._waiting: deque[RequestJob] = deque()
        self._changed = threading.Condition()
        self._is_stopped = False
        self.n_jobs = 0
        """Number of requests that have not ended."""
        self._thread = threading.Thread(target=self._run, name="folio-serve", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """End all jobs after the current step, each with an error. Takes no lock: signal handlers call it."""
        self._is_stopped = True

    def run(self, steps: Iterator[T | None]) -> AsyncGenerator[T]:
        """Start the steps of a request, and return what they yield. Closing the result early cancels them.

        Raises: ApiError if there are too many requests, or the server stops; while iterating, whatever a step raises.
        """
        loop = asyncio.get_running_loop()
        results: asyncio.Queue[Any] = asyncio.Queue()

        def deliver(result: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(results.put_nowait, result)

        job = RequestJob(steps, deliver)
        self._submit(job)
        return _delivered(job, results)

    def _submit(self, job: RequestJob) -> None:
        with self._changed:
            if self._is_stopped:
                raise stopping()
            if self.n_jobs >= self._max_jobs:
                raise ApiError(
                    f"the server is answering {self.n_jobs} requests, the most that it takes at once; try again, or "
                    "start it with a larger --max-requests",
                    status=429,
                    code="too_many_requests",
                    retry=True,
                )
            self.n_jobs += 1
            self._waiting.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while not self._is_stopped:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                job = self._waiting.popleft()
            result = job.step()
            with self._changed:  # before the client hears of the end, and may send its next request
                if isinstance(result, Finished | Exception):
                    self.n_jobs -= 1
                else:
                    self._waiting.append(job)
            if result is not None:
                job.deliver(result)
            del job, result  # with the cache in its steps, while the thread waits for the next
        for job in self._waiting:
            job.deliver(stopping())


async def _delivered(job: RequestJob, results: asyncio.Queue[Any]) -> AsyncGenerator[Any]:
    try:
        while not isinstance(result := await results.get(), Finished):
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        job.is_cancelled = True


def stopping() -> ApiError:
    """Return the error of requests that meet the end of the server."""
    return ApiError("the server is stopping; try again later", status=503, code="stopping")
