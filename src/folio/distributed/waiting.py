"""How torch's threads wait for each other on a CPU: awake on a quiet machine, asleep on a busy one.

The threads of a step meet hundreds of times in it. Between two meetings a thread of libgomp, torch's pool of threads
on Linux, stays awake for some milliseconds and looks for its next work. Alone this is fastest: sleeping at once takes
twice the time. Beside other programs it is ruinous, because a thread that waits awake keeps a processor from the thread
that it waits for: a step can take fifty times as long. So this module watches the machine and changes the way of
waiting, which changes no result.
"""

import os
import threading
import time

import torch

from folio.runtime.cpus import worked_seconds

PERIOD_S = 0.5
"""How long the watcher sleeps between two looks at the machine."""

CROWDED = 0.25
"""How many processors' time others may use, beyond what our threads leave, before our threads wait asleep."""

ENOUGH_WORK = 1 << 16
"""Elements of a tensor that several threads fill; torch gives one thread at least half of this."""


class CrowdWatcher:
    """Watches in the background whether other programs want the processors, and lets idle threads sleep while they do.

    libgomp's threads stay awake only while they are no more than the processors. There is no function to change that,
    so the watcher adds threads that have nothing to do.
    Source: GCC, libgomp/config/linux/wait.h (do_spin), and the libgomp manual, GOMP_SPINCOUNT.
    """

    def __init__(self, n_threads: int, n_cpus: int) -> None:
        self.n_threads = n_threads
        """Threads of a step, at least 2."""
        self.n_cpus = n_cpus
        self._end_teams: threading.Event | None = None
        self._teams: list[threading.Thread] = []

    @property
    def lets_threads_sleep(self) -> bool:
        return bool(self._teams)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="crowd watcher", daemon=True).start()

    def look(self, others: float) -> None:
        """Choose how threads wait.

        Args:
            others: how many processors' time other programs have used of late.
        """
        is_crowded = others + self.n_threads > self.n_cpus + CROWDED
        if is_crowded and not self._teams:
            self._add_teams()
        elif not is_crowded and self._teams:
            self._remove_teams()

    def _watch(self) -> None:
        before = _measure()
        while before is not None:
            time.sleep(PERIOD_S)
            if (now := _measure()) is not None:
                elapsed_s, worked_s, own_s = (b - a for a, b in zip(before, now, strict=True))
                self.look(max(0.0, worked_s - own_s) / elapsed_s)
            before = now

    def _add_teams(self) -> None:
        # A thread of ours brings a team of n_threads. libgomp does not count the thread itself.
        n_teams = 1 + max(0, self.n_cpus - self.n_threads) // (self.n_threads - 1)
        self._end_teams = end = threading.Event()

        def bring_team() -> None:
            torch.ones(ENOUGH_WORK)
            end.wait()

        self._teams = [threading.Thread(target=bring_team, daemon=True) for _ in range(n_teams)]
        for team in self._teams:
            team.start()

    def _remove_teams(self) -> None:
        assert self._end_teams is not None
        self._end_teams.set()
        for team in self._teams:
            team.join()
        self._teams = []


def _measure() -> tuple[float, float, float] | None:
    """Return the time, and for how long all programs and this one have used the processors, in seconds."""
    worked_s = worked_seconds()
    return None if worked_s is None else (time.monotonic(), worked_s, time.process_time())


_watcher: CrowdWatcher | None = None


def watch_for_crowds(n_threads: int) -> None:
    """Let the n_threads of a step wait as the machine allows, from now on, unless the user has chosen how they wait."""
    global _watcher
    if n_threads < 2 or os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return
    if _watcher is not None:  # a later job of a sweep
        _watcher.n_threads = n_threads
    elif worked_seconds() is not None:
        _watcher = CrowdWatcher(n_threads, len(os.sched_getaffinity(0)))
        _watcher.start()
