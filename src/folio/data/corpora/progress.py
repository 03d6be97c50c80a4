"""Reports of how far a preparation is: a progress bar on a terminal, an occasional line elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from folio.runtime.terminal import printable

PLAIN_LINE_EVERY_S = 10.0

Log = Callable[[str], None]
"""Takes one line about what is being done."""

Advance = Callable[[int], None]
"""Takes the number of bytes that were just processed."""


@contextmanager
def progress(action: str, n_bytes: int, log: Log) -> Iterator[Advance]:
    """Give the function that reports processed bytes. The bar disappears at the end; plain lines go to `log`."""
    # Imported here because every training run imports this module, and few have something to prepare.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from folio.runtime.console import SafeConsole

    console = SafeConsole("stdout")
    if not console.is_terminal:
        yield _plain_lines(action, n_bytes, log)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task(printable(action, keep=""), total=n_bytes)
        yield lambda n: bar.advance(task, n)


def _plain_lines(action: str, n_bytes: int, log: Log) -> Advance:
    started = last = time.perf_counter()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.perf_counter()
        if now - last >= PLAIN_LINE_EVERY_S:
            last = now
            per_s = done / (now - started)
            left_s = (n_bytes - done) / per_s
            log(f"{action}: {done / 1e6:.0f} of {n_bytes / 1e6:.0f} MB, {per_s / 1e6:.1f} MB/s, {left_s:.0f} s left")

    return advance
