"""The part `prepare`: one text, and a corpus of many documents, made into tokens, against tiktoken alone."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.report.results import Series
from folio.data.assets import fetch
from folio.data.corpora.documents import DocumentFormat
from folio.data.corpora.named_texts import TEXT_FILE
from folio.data.corpora.prepare_documents import FilesSource, PrepareOptions, prepare_corpus
from folio.data.corpora.prepare_text import prepare
from folio.data.corpora.tiny_shakespeare import ASSET
from folio.data.tokenizers.registry import Tokenizer, TokenizerChoice, build_tokenizer
from folio.runtime.cpus import available_cpus

TOKENIZER = "gpt2"
N_COPIES = 180
"""Of Tiny Shakespeare: 200 MB, so that starting the processes is a small part."""

LINES_IN_DOCUMENT = 100
N_DOCUMENTS_OF_ONE_THREAD = 4_000
"""Of all of them: 11 MB."""


def measure_preparing(rounds: int, data_dir: Path, say: Callable[[str], None]) -> list[Series]:
    """MB of text a second: the whole of data=text_files and data=text_file, and tiktoken with all threads and with one.

    The facts of text_files hold `share`: what it reaches of tiktoken's speed with one thread times the processors.
    """
    n = available_cpus()
    assets_dir = data_dir / "assets"
    lines = fetch(ASSET, assets_dir).read_text(encoding="utf-8").splitlines()
    choice = TokenizerChoice(TOKENIZER)
    tokenizer = build_tokenizer(choice, (), (), assets_dir)
    tokenizer.encode("")
    documents = list(documents_of(lines))
    few = documents[:N_DOCUMENTS_OF_ONE_THREAD]
    n_bytes, n_bytes_of_few = size_of(documents), size_of(few)
    reading = DocumentFormat()
    making = PrepareOptions(reading, val_fraction=0.01, shard_tokens=10_000_000)
    as_files, as_text, all_threads, one_thread = (list[float]() for _ in range(4))
    with tempfile.TemporaryDirectory(prefix="folio-benchmark-") as folder:
        corpus, text = Path(folder, "corpus.jsonl"), Path(folder, "text.txt")
        corpus.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
        text.write_text("\n".join(documents), encoding="utf-8")
        source = FilesSource(str(corpus), reading)
        for number in range(rounds):
            say(f"prepare: round {number + 1} of {rounds}")
            out = Path(folder, str(number))
            out.mkdir()
            (out / "assets").symlink_to(assets_dir.resolve())
            with timed(n_bytes, as_files):
                prepare_corpus(source, making, choice, out / "corpus", assets_dir, lambda line: None)
            with timed(n_bytes, as_text):
                prepare(TEXT_FILE, text, choice, out, lambda line: None)
            with timed(n_bytes, all_threads):
                encode(tokenizer, documents, n)
            with timed(n_bytes_of_few, one_thread):
                encode(tokenizer, few, 1)
    share = float(np.median([mine / (n * its) for mine, its in zip(as_files, one_thread, strict=True)]))
    note = f"{share:.2f} of tiktoken with one thread x {n} processors"
    size = f"{n_bytes / 1e6:.0f} MB"
    many, single = f"{size} in {len(documents):,} documents, {TOKENIZER}", f"{size} in one text, {TOKENIZER}"
    return [
        Series("prepare", many, f"data=text_files, {n} processors", "MB/s", as_files, note, {"share": share}),
        Series("prepare", many, f"tiktoken, {n} threads", "MB/s", all_threads),
        Series("prepare", many, "tiktoken, 1 thread", "MB/s", one_thread),
        Series("prepare", single, f"data=text_file, {n} threads", "MB/s", as_text),
        Series("prepare", single, f"tiktoken, {n} threads, in documents", "MB/s", all_threads),
    ]


def documents_of(lines: list[str]) -> Iterator[str]:
    """Documents of LINES_IN_DOCUMENT lines, no two alike, for equal ones would be left out."""
    for copy in range(N_COPIES):
        for first in range(0, len(lines), LINES_IN_DOCUMENT):
            yield f"{copy}.{first}: " + "\n".join(lines[first : first + LINES_IN_DOCUMENT])


def size_of(documents: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in documents)


@contextmanager
def timed(n_bytes: int, rates: list[float]) -> Iterator[None]:
    """Appends the MB/s at which what stands inside has read so many bytes."""
    started = time.perf_counter()
    yield
    rates.append(n_bytes / 1e6 / (time.perf_counter() - started))


def encode(tokenizer: Tokenizer, documents: Sequence[str], n_threads: int) -> None:
    """With tiktoken, which does not hold the interpreter meanwhile, as its own `encode_ordinary_batch` does."""
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(tokenizer.encode, documents):
            pass
