"""How far the reading of a text is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_LINE_EVERY_S = 10.0


@contextmanager
def progress(what: str, n_bytes: int, say: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Gives the function to be told of bytes that were read. The bar goes when all is done; lines go to `say`."""
    # Here, because every start of a training passes this file, and few of them have something to prepare.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console()
    if not console.is_terminal:
        yield _lines(what, n_bytes, say)
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task(what, total=n_bytes)
        yield lambda n: bar.advance(task, n)


def _lines(what: str, n_bytes: int, say: Callable[[str], None]) -> Callable[[int], None]:
    started = last = time.perf_counter()
    done = 0

    def count(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.perf_counter()
        if now - last >= PLAIN_LINE_EVERY_S:
            last = now
            per_s = done / (now - started)
            left_s = (n_bytes - done) / per_s
            say(f"{what}: {done / 1e6:.0f} of {n_bytes / 1e6:.0f} MB, {per_s / 1e6:.1f} MB/s, {left_s:.0f} s left")

    return count
