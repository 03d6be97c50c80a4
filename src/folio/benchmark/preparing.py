"""The part `prepare`: a corpus made into shards, against tiktoken alone on the same documents."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from folio.benchmark.results import Series
from folio.data.assets import fetch
from folio.data.corpora.corpus import FilesSource, Making, prepare_corpus
from folio.data.corpora.reading import Reading
from folio.data.encoding import processors
from folio.data.tiny_shakespeare import ASSET
from folio.data.tokenizers import Tokenizer, TokenizerChoice, build_tokenizer

TOKENIZER = "gpt2"
N_COPIES = 90
"""Of Tiny Shakespeare: 100 MB, so that starting the processes is a small part."""

LINES_IN_DOCUMENT = 100
N_DOCUMENTS_ALONE = 1600
"""That tiktoken encodes for each processor: 4 MB."""


def measure_preparing(rounds: int, data_dir: Path, say: Callable[[str], None]) -> list[Series]:
    """MB of text a second: the whole of data=text_files on all processors, and tiktoken with one thread and with all.

    The facts of Folio's side hold `share`: what it reaches of tiktoken's speed with one thread times the processors.
    """
    n = processors()
    lines = fetch(ASSET, data_dir / "assets").read_text(encoding="utf-8").splitlines()
    choice = TokenizerChoice(TOKENIZER)
    tokenizer = build_tokenizer(choice, (), (), data_dir / "assets")
    tokenizer.encode("")
    with tempfile.TemporaryDirectory(prefix="folio-benchmark-") as folder:
        path = Path(folder, "corpus.jsonl")
        documents = list(documents_of(lines))
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        n_bytes = sum(len(text.encode()) for text in documents)
        reading = Reading()
        folio, one, all_ = [], [], []
        for number in range(rounds):
            say(f"prepare: round {number + 1} of {rounds}")
            started = time.perf_counter()
            making = Making(reading, val_fraction=0.01, shard_tokens=10_000_000)
            out = Path(folder, str(number))
            prepare_corpus(FilesSource(str(path), reading), making, choice, out, data_dir / "assets", lambda line: None)
            folio.append(n_bytes / 1e6 / (time.perf_counter() - started))
            one.append(alone(tokenizer, documents[:N_DOCUMENTS_ALONE], 1))
            all_.append(alone(tokenizer, documents[: n * N_DOCUMENTS_ALONE], n))
    subject = f"{n_bytes / 1e6:.0f} MB in {len(documents):,} documents, {TOKENIZER}"
    share = float(np.median([mine / (n * its) for mine, its in zip(folio, one, strict=True)]))
    note = f"{share:.2f} of tiktoken with one thread x {n} processors"
    return [
        Series("prepare", subject, f"data=text_files, {n} processors", "MB/s", folio, note, {"share": share}),
        Series("prepare", subject, f"tiktoken, {n} threads", "MB/s", all_),
        Series("prepare", subject, "tiktoken, 1 thread", "MB/s", one),
    ]


def documents_of(lines: list[str]) -> Iterator[str]:
    """Documents of LINES_IN_DOCUMENT lines, no two alike, for equal ones would be left out."""
    for copy in range(N_COPIES):
        for first in range(0, len(lines), LINES_IN_DOCUMENT):
            yield f"{copy}.{first}: " + "\n".join(lines[first : first + LINES_IN_DOCUMENT])


def alone(tokenizer: Tokenizer, documents: list[str], n_threads: int) -> float:
    """MB/s of tiktoken, which encodes without holding the interpreter."""
    started = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(tokenizer.encode, documents, chunksize=50):
            pass
    return sum(len(text.encode()) for text in documents) / 1e6 / (time.perf_counter() - started)
