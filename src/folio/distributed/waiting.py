"""How torch's threads share a CPU with other programs.

The threads of a step meet hundreds of times in it. Between two meetings a thread of libgomp, torch's pool of threads
on Linux, stays awake for some milliseconds and looks for its next work. Alone this is fastest: sleeping at once takes
twice the time. Beside other programs it is ruinous, because a thread that waits awake keeps a processor from the thread
that it waits for: a step can take fifty times as long. And threads that share each of their processors with another
program are rarely on at the same time, so they wait for each other longer than they work.

So this module watches the machine. While others want the processors, our threads wait asleep, and keep to the
processors that the others leave. Neither changes how many threads there are, so neither changes a result.
"""

import os
import random
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from folio.runtime.cpus import allowed_cpus, worked_seconds

PERIOD_S = 0.5
"""How long the watcher sleeps between two looks at the machine."""

CROWDED = 0.25
"""How many processors' time others may use, beyond what our threads leave, before our threads make room."""

ENOUGH_WORK = 1 << 16
"""Elements of a tensor that several threads fill; torch gives one thread at least half of this."""


class CrowdWatcher:
    """Watches in the background whether other programs want the processors, and shares them while they do.

    Args:
        n_threads: threads of a step, at least 2.
        cpus: the processors that this process may use.
        may_move: whether its threads may be kept to some of them.
    """

    def __init__(self, n_threads: int, cpus: Collection[int], *, may_move: bool = True) -> None:
        self.n_threads = n_threads
        self.cpus = frozenset(cpus)
        self.may_move = may_move
        self.cpus_in_use = self.cpus
        """Processors on which our threads may run now."""
        self._end_teams: threading.Event | None = None
        self._teams: list[threading.Thread] = []
        self._dice = random.Random(os.getpid())  # its own, because random's state belongs to the training

    @property
    def lets_threads_sleep(self) -> bool:
        return bool(self._teams)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="crowd watcher", daemon=True).start()

    def look(self, worked: Mapping[int, float], own: float) -> None:
        """Choose how our threads wait, and where they run.

        Args:
            worked: share of the time that each processor worked of late, for any program, from 0 to 1.
            own: how many processors' time this process used of it.
        """
        others = max(0.0, sum(worked[cpu] for cpu in self.cpus) - own)
        is_crowded = others + self.n_threads > len(self.cpus) + CROWDED
        if is_crowded and not self._teams:
            self._add_teams()
        elif not is_crowded and self._teams:
            self._remove_teams()
        self._keep_to(self._fitting_cpus(worked, own, others) if is_crowded and self.may_move else self.cpus)

    def _watch(self) -> None:
        before = _Usage.measure()
        while before.worked_s:
            time.sleep(PERIOD_S)
            now = _Usage.measure()
            elapsed_s = now.time_s - before.time_s
            if self.cpus <= now.worked_s.keys() & before.worked_s.keys():
                worked = {cpu: (now.worked_s[cpu] - before.worked_s[cpu]) / elapsed_s for cpu in self.cpus}
                self.look(worked, (now.own_s - before.own_s) / elapsed_s)
            before = now

    def _fitting_cpus(self, worked: Mapping[int, float], own: float, others: float) -> frozenset[int]:
        """Return as many processors as the others leave: those of now, unless others work there and not elsewhere."""
        n_left = max(1, len(self.cpus) - int(others + CROWDED))
        if len(self.cpus_in_use) == n_left:
            others_here = sum(worked[cpu] for cpu in self.cpus_in_use) - own
            idle_elsewhere = sum(1 - worked[cpu] for cpu in self.cpus - self.cpus_in_use)
            # Two runs that moved at once would meet again, so each moves half of the time.
            if min(others_here, idle_elsewhere) < CROWDED or self._dice.random() < 0.5:
                return self.cpus_in_use
        calm_first = sorted(self._dice.sample(sorted(self.cpus), len(self.cpus)), key=lambda cpu: round(worked[cpu], 1))
        return frozenset(calm_first[:n_left])

    def _keep_to(self, cpus: frozenset[int]) -> None:
        if cpus == self.cpus_in_use:
            return
        for task in os.listdir("/proc/self/task"):
            try:
                os.sched_setaffinity(int(task), cpus)
            except OSError:  # the thread has ended, or a cluster took a processor away
                continue
        self.cpus_in_use = cpus

    def _add_teams(self) -> None:
        # libgomp's threads stay awake only while they are no more than the processors. There is no function to change
        # that, so these are threads that have nothing to do. A thread of ours brings a team of n_threads; libgomp does
        # not count the thread itself. Source: GCC, libgomp/config/linux/wait.h (do_spin); the manual, GOMP_SPINCOUNT.
        n_teams = 1 + max(0, len(self.cpus) - self.n_threads) // (self.n_threads - 1)
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


@dataclass(frozen=True)
class _Usage:
    """For how long each processor has worked for all programs, and all of them for this one, in seconds."""

    time_s: float
    worked_s: dict[int, float]
    own_s: float

    @classmethod
    def measure(cls) -> "_Usage":
        return cls(time.monotonic(), worked_seconds(), time.process_time())


_watcher: CrowdWatcher | None = None


def watch_for_crowds(n_threads: int, *, may_move: bool) -> None:
    """Let the n_threads of a step share the machine from now on, unless the user has chosen how they wait.

    Args:
        may_move: whether they may keep to the processors that others leave.
    """
    global _watcher
    if n_threads < 2 or os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return
    if _watcher is not None:  # a later job of a sweep
        _watcher.n_threads, _watcher.may_move = n_threads, may_move
    elif worked_seconds():
        _watcher = CrowdWatcher(n_threads, allowed_cpus(), may_move=may_move)
        _watcher.start()
