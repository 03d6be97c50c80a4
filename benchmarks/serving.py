"""Load a server: many clients that ask again as soon as they are answered: python -m benchmarks.serving latest

Each seed is asked for many times, alone in a stream or in whole answers, and must always give the same text.
"""

import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from folio.cli.scripts import run_script
from folio.runtime.errors import FolioError

ROOT = Path(__file__).parents[1]
PROMPT, N_TOKENS, N_SEEDS = "\n", 40, 20

SERVING = re.compile(r"serving (http://\S+)/v1")

LEAVES_EVERY = 10
"""One of so many streams is left by its client after the first token."""


@dataclass
class Load:
    """Everything that the clients saw."""

    n_answered: int = 0
    n_left: int = 0
    """Streams that their clients left."""
    texts: dict[int, set[str]] = field(default_factory=dict)
    """The texts of each seed: one, if nothing was lost or mixed up."""
    errors: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    """Time to each whole text."""
    first_s: list[float] = field(default_factory=list)
    """Time to the first token of each stream."""
    memory_mib: list[float] = field(default_factory=list)
    """Memory of the server, every second."""
    elapsed_s: float = 0.0


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    clients: Annotated[int, typer.Option(help="Number of clients.")] = 50,
    seconds: Annotated[float, typer.Option(help="Duration.")] = 60.0,
) -> None:
    """Start scripts/serve.py, load it, and print what its clients saw."""
    with started_server(run) as (process, url):
        load = measure(url, process.pid, clients, seconds)
    print("\n".join(describe(load, clients)))


@contextmanager
def started_server(run: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server for a run; yield its process and address, and stop it. Raises: FolioError if it does not start."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), run, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = next((match for line in process.stdout if (match := SERVING.match(line))), None)
        if found is None:
            raise FolioError(f"scripts/serve.py ended with code {process.wait()}")
        try:
            yield process, found[1]
        finally:
            process.send_signal(signal.SIGINT)


def measure(url: str, pid: int, n_clients: int, seconds: float) -> Load:
    """Let clients ask for texts until the time is over; each finishes its last one."""
    load, lock = Load(), threading.Lock()
    started = time.perf_counter()
    end = started + seconds
    threads = [threading.Thread(target=client, args=(url, index, end, load, lock)) for index in range(n_clients)]
    for thread in threads:
        thread.start()
    while time.perf_counter() < end:
        load.memory_mib.append(resident_mib(pid))
        time.sleep(1)
    for thread in threads:
        thread.join()
    load.elapsed_s = time.perf_counter() - started
    return load


def client(url: str, index: int, end: float, load: Load, lock: threading.Lock) -> None:
    """Ask for one text after the other: half of the clients for streams."""
    number = index
    while time.perf_counter() < end:
        seed = number % N_SEEDS
        leaves = index % 2 == 0 and number % LEAVES_EVERY == 0
        number += 7
        started = time.perf_counter()
        try:
            text, first_s = ask(url, seed, stream=index % 2 == 0, leaves=leaves)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            with lock:
                load.errors.append(repr(error))
            continue
        with lock:
            if first_s is not None:
                load.first_s.append(first_s)
            if leaves:
                load.n_left += 1
                continue
            load.n_answered += 1
            load.latencies_s.append(time.perf_counter() - started)
            load.texts.setdefault(seed, set()).add(text)


def ask(url: str, seed: int, *, stream: bool, leaves: bool) -> tuple[str, float | None]:
    """Return a text, and the time to its first token in a stream. Raises: OSError, HTTPException, ValueError."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    started = time.perf_counter()
    body = json.dumps({"prompt": PROMPT, "max_tokens": N_TOKENS, "seed": seed, "stream": stream})
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {response.read().decode()}")
        if not stream:
            return str(json.load(response)["choices"][0]["text"]), None
        text, first_s = "", None
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            first_s = first_s or time.perf_counter() - started
            if leaves:
                break
            text += json.loads(line[6:])["choices"][0]["text"]
        return text, first_s
    finally:
        connection.close()


def resident_mib(pid: int) -> float:
    """Return the memory of a process that is in use."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def describe(load: Load, n_clients: int) -> list[str]:
    """Return the result in lines."""
    n_tokens = load.n_answered * N_TOKENS
    early = load.memory_mib[len(load.memory_mib) // 6]
    return [
        f"clients          {n_clients}, {load.elapsed_s:.0f} s",
        f"answered         {load.n_answered:,} texts of {N_TOKENS} tokens, {n_tokens / load.elapsed_s:,.0f} tokens/s",
        f"errors           {len(load.errors)}",
        f"left by clients  {load.n_left}",
        f"texts            {sum(map(len, load.texts.values()))} different ones for {len(load.texts)} seeds",
        f"whole text       {percentiles(load.latencies_s)}",
        f"first token      {percentiles(load.first_s)}",
        f"memory           {early:.0f} MiB after a sixth of the time, {load.memory_mib[-1]:.0f} MiB at the end",
    ]


def percentiles(seconds: list[float]) -> str:
    """Return the median and the 99th percentile."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"median {cuts[49]:.2f} s, 99th percentile {cuts[98]:.2f} s"


if __name__ == "__main__":
    run_script(main)
