"""The part `prepare`: one text and a corpus of many documents encoded into tokens, against tiktoken alone."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from benchmarks.report.statistics import ratios
from folio.config.tokenizer import choose_tokenizer
from folio.data.assets import fetch
from folio.data.corpora.single_text import TextFile
from folio.data.corpora.text_files import TextFiles
from folio.data.corpora.tiny_shakespeare import ASSET
from folio.data.tokenizers.base import Tokenizer
from folio.runtime.cpus import available_cpus

TOKENIZER = "gpt2"
N_COPIES = 180
"""Copies of Tiny Shakespeare: 200 MB, so that starting processes is a small part of the time."""

DOCUMENT_LINES = 100
N_SINGLE_THREAD_DOCUMENTS = 4_000
"""Documents that one thread encodes: 11 MB of the 200."""


def measure_preparation(options: Options, report: BenchmarkReport) -> None:
    """Add the MB/s of data=text_files and data=text_file, and of tiktoken with all threads and with one.

    The facts of text_files hold `share`: its speed over that of tiktoken with one thread times the processors.
    """
    n_processors = available_cpus()
    assets_dir = options.data_dir() / "assets"
    choice = choose_tokenizer(TOKENIZER)
    tokenizer = choice.build(assets_dir)
    tokenizer.encode("")
    documents = list(split_documents(fetch(ASSET, assets_dir).read_text(encoding="utf-8").splitlines()))
    few = documents[:N_SINGLE_THREAD_DOCUMENTS]
    n_bytes, n_few_bytes = count_bytes(documents), count_bytes(few)
    text_files, text_file, all_threads, one_thread = (list[float]() for _ in range(4))
    with tempfile.TemporaryDirectory(prefix="folio-benchmark-") as folder:
        corpus, text = Path(folder, "corpus.jsonl"), Path(folder, "text.txt")
        corpus.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
        text.write_text("\n".join(documents), encoding="utf-8")
        many_documents = TextFiles(path=str(corpus), val_fraction=0.01, shard_tokens=10_000_000)
        for number in range(options.rounds):
            options.say(f"prepare: round {number + 1} of {options.rounds}")
            out = Path(folder, str(number))
            out.mkdir()
            (out / "assets").symlink_to(assets_dir.resolve())
            with record_rate(n_bytes, text_files):
                many_documents.prepare(choice, out, lambda line: None)
            with record_rate(n_bytes, text_file):
                TextFile(text).prepare(choice, out, lambda line: None)
            with record_rate(n_bytes, all_threads):
                encode(tokenizer, documents, n_processors)
            with record_rate(n_few_bytes, one_thread):
                encode(tokenizer, few, 1)
    share = statistics.median(ratios(text_files, one_thread)) / n_processors
    note = f"{share:.2f} of tiktoken with one thread x {n_processors} processors"
    size = f"{n_bytes / 1e6:.0f} MB"
    many, single = f"{size} in {len(documents):,} documents, {TOKENIZER}", f"{size} in one text, {TOKENIZER}"
    threads = f"{n_processors} threads"
    report.series += [
        Series(
            "prepare", many, f"data=text_files, {n_processors} processors", "MB/s", text_files, note, {"share": share}
        ),
        Series("prepare", many, f"tiktoken, {threads}", "MB/s", all_threads),
        Series("prepare", many, "tiktoken, 1 thread", "MB/s", one_thread),
        Series("prepare", single, f"data=text_file, {threads}", "MB/s", text_file),
        Series("prepare", single, f"tiktoken, {threads}, in documents", "MB/s", all_threads),
    ]


def split_documents(lines: list[str]) -> Iterator[str]:
    """Yield documents of DOCUMENT_LINES lines, each different, because duplicates would be removed."""
    for copy in range(N_COPIES):
        for first in range(0, len(lines), DOCUMENT_LINES):
            yield f"{copy}.{first}: " + "\n".join(lines[first : first + DOCUMENT_LINES])


def count_bytes(documents: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in documents)


@contextmanager
def record_rate(n_bytes: int, rates: list[float]) -> Iterator[None]:
    """Append the MB/s at which the body has read so many bytes."""
    started = time.perf_counter()
    yield
    rates.append(n_bytes / 1e6 / (time.perf_counter() - started))


def encode(tokenizer: Tokenizer, documents: Sequence[str], n_threads: int) -> None:
    """Encode with tiktoken, which releases the GIL, as its own `encode_ordinary_batch` does."""
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(tokenizer.encode, documents):
            pass
