"""A corpus of unknown origin takes memory within the promise of docs/data.md, and time within its size."""

import gzip
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.data.corpora.documents import DocumentFormat, parse_documents, read_blocks
from folio.data.corpora.files import find_files
from folio.data.corpora.parquet_pages import read_footer
from folio.data.corpora.thrift import ThriftError, ThriftReader
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import UntrustedFileError

zstd: Any = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

READ = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from folio.data.corpora.documents import DocumentFormat, parse_documents, read_blocks
from folio.data.corpora.files import find_files
from folio.runtime.errors import FolioError
from folio.runtime.memory import peak_bytes, reset_peak
address_space, names = int(sys.argv[1]), sys.argv[2:]
resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
for name in names:
    reset_peak()
    n = 0
    try:
        (file,) = find_files(name)
        for block in read_blocks(file, DocumentFormat()):
            n += sum(len(document.data) for document in parse_documents(block, DocumentFormat()))
        outcome = f"{n} bytes"
    except FolioError as error:
        outcome = str(error)
    print(Path(name).name, peak_bytes() >> 20, outcome, sep="\\t")
"""


def read_in_process(files: list[Path], address_space: int = 2 << 30) -> dict[str, tuple[int, str]]:
    """Read files in a process with a limited address space. Returns peak memory in MiB and outcome of each."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, str(address_space), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return {name: (int(peak), outcome) for name, peak, outcome in lines}


def repeated(n_rows: int, n_bytes: int) -> Any:
    """Return a table that holds one text in every row, stored once."""
    indices = pyarrow.array(np.zeros(n_rows, dtype=np.int32))
    return pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(["x" * n_bytes]))})


def texts(*values: Any, kind: Any = None) -> Any:
    return pyarrow.table({"text": pyarrow.array(values, kind)})


def prefixes() -> Any:
    return texts(*("x" * 2_000_000 + str(number % 3) for number in range(100)))


TABLES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "dictionary": (lambda: repeated(1024, 2_000_000), {}, "unpacks to more than 2"),
    "runs": (lambda: repeated(2_000_000, 1000), {}, "unpacks to more than 2"),
    "page": (lambda: texts("x" * 200_000_000), {}, "to 200,000,004 bytes, and Folio reads at most"),
    "nulls": (lambda: texts(*[None] * 2_000_000, kind=pyarrow.string()), {}, "declares 2,000,000 rows in"),
    "prefixes": (
        prefixes,
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}, "write_batch_size": 100},
        "200000100 bytes",
    ),
    "long": (lambda: texts("x" * 30_000_000), {"use_dictionary": False}, "30000000 bytes"),
}

LINES: dict[str, tuple[bytes, int, str]] = {
    "text.txt": (b"hello world\n" * 1000, 30_000, "unpacks to more than 2"),
    "line.jsonl": (b'{"text": "' + b"x" * 1000, 300_000, "line 1 is longer than 64 MiB"),
    "lists.jsonl": (b'{"text": "x", "y": [' + b"[]," * 1_000_000, 15, "line 1 holds millions of values"),
    "strings.jsonl": (b'{"text": "x", "y": [' + b'"ab",' * 1_000_000, 10, "line 1 holds millions of values"),
    "number.jsonl": (b'{"text": "hello", "n": ' + b"9" * 4_000_000 + b"}", 1, "5 bytes"),
    "deep.jsonl": (b'{"text": ' + b"[" * 4_000_000, 1, "line 1 is not JSON (maximum recursion depth"),
    "code.jsonl": (b'{"text": "' + b'{[]}\\\\ \\"' * 1_000_000 + b'"}', 1, "7000000 bytes"),
}


def packed(data: bytes, n: int) -> bytes:
    """Return the zstd form of data that is repeated n times."""
    compressor = zstd.ZstdCompressor()
    return b"".join(compressor.compress(data) for _ in range(n)) + compressor.flush()


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    outcomes = {}
    for name, (table, options, expected) in TABLES.items():
        parquet.write_table(table(), tmp_path / f"{name}.parquet", compression="zstd", **options)
        outcomes[f"{name}.parquet"] = expected
    for name, (data, n, expected) in LINES.items():
        (tmp_path / f"{name}.zst").write_bytes(packed(data, n))
        outcomes[f"{name}.zst"] = expected
    files = [tmp_path / name for name in outcomes]
    assert all(path.stat().st_size < 1 << 18 for path in files)
    for name, (peak, outcome) in read_in_process(files).items():
        assert outcomes[name] in outcome, name
        assert peak < 500, name


def varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def parquet_of(footer: bytes) -> bytes:
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


FOOTERS = {
    "many columns": b"\x29\xfc" + varint(10**9) + b"\x00" * 1000,
    "many row groups": b"\x49\xfc" + varint(300_000) + b"\x00" * 300_000,
    "many numbers": b"\x29\xf5" + varint(2**62),
    "deep structs": b"\x1c" * 100_000,
    "deep lists": b"\x29" + b"\x19" * 100_000,
    "deep columns": b"\x29\xfc" + varint(5000) + b"\x55\x02\x00" * 5000 + b"\x00",
    "many fields": b"\x11" * (2 << 20),
    "a long name": b"\x18" + varint(2**40) + b"x",
    "a long number": b"\x16" + b"\xff" * 100,
    "a list of other items": b"\x59\x15\x02\x00",
    "a field twice": b"\x15\x02\x05\x02\x04\x00",
    "a field that wraps around": b"\x06" + varint(2 * (65536 + 3)) + b"\x02\x00",
    "a number that wraps around": b"\x15" + varint(2**33 + 2) + b"\x00",
    "nothing": b"",
    "an unknown type": b"\x1e\x00",
}


@pytest.mark.parametrize("kind", FOOTERS)
def test_a_footer_that_describes_absurdly_much_is_refused_before_pyarrow_reads_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_of(FOOTERS[kind]))
    with pytest.raises(UntrustedFileError, match="has a footer that cannot be read") as error:
        read_footer(path)
    assert "\n" not in str(error.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_thrift_or_an_error(data: bytes) -> None:
    with suppress(ThriftError):
        dict(ThriftReader(data, 1000).struct())


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["text", "doc", "é", "a\n", ""]), inner),
)
CONTENT = st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode())


@given(
    CONTENT, st.sampled_from(["txt", "jsonl", "parquet"]), st.sampled_from(["", ".gz", ".zst"]), st.binary(max_size=5)
)
def test_any_bytes_are_texts_or_an_error_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str, compression: str, rest: bytes
) -> None:
    if kind == "parquet":
        content, compression = parquet_of(content), ""
    pack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd.compress}
    path = tmp_path_factory.mktemp("corpus") / f"a.{kind}{compression}"
    path.write_bytes(pack.get(compression, bytes)(content) + rest)
    try:
        (file,) = find_files(str(path))
        for text_field in ("text", "doc.text"):
            for block in read_blocks(file, DocumentFormat(text_field, "é")):
                list(parse_documents(block, DocumentFormat(text_field, "é")))
    except FolioError as error:
        if "\n" in str(error):
            raise AssertionError(f"several lines: {error}") from error


DOCUMENTS = [None if number % 7 == 0 else f"doc {number % 9} " * (number % 50) for number in range(300)]


def parquet_seeds() -> list[bytes]:
    """Return small files in all encodings of texts, compressions and versions of pages."""
    seeds = []
    for encoding in ("dictionary", "PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"):
        options = {"use_dictionary": True} if encoding == "dictionary" else {"column_encoding": {"text": encoding}}
        for compression in ("none", "snappy", "zstd", "gzip"):
            for version in ("1.0", "2.0"):
                buffer = io.BytesIO()
                fixed = {"compression": compression, "data_page_version": version, "row_group_size": 100}
                parquet.write_table(texts(*DOCUMENTS), buffer, **{"use_dictionary": False} | fixed | options)
                seeds.append(buffer.getvalue())
    return seeds


MUTATE = """
import random, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_hostile_corpora as tests
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
tests.read_mutations(Path(sys.argv[2]), float(sys.argv[3]))
"""


def read_mutations(folder: Path, n_files: float) -> None:
    """Read damaged Parquet files. Each is texts, or an error of one line."""
    choice, seeds, path = random.Random(5), parquet_seeds(), folder / "a.parquet"
    for _ in range(int(n_files)):
        data = bytearray(choice.choice(seeds))
        for _ in range(choice.choice([1, 1, 2, 3, 8])):
            position = choice.randrange(max(len(data) - 1200, 0) if choice.random() < 0.5 else 0, len(data))
            flipped = data[position] ^ (1 << choice.randrange(8))
            data[position] = choice.choice([0, 127, 128, 255, flipped, choice.randrange(256)])
        path.write_bytes(data)
        try:
            (file,) = find_files(str(path))
            for block in read_blocks(file, DocumentFormat()):
                list(parse_documents(block, DocumentFormat()))
        except FolioError as error:
            if "\n" in str(error):
                raise AssertionError(f"several lines: {error}") from error


@pytest.mark.parametrize("n_files", [1000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_damaged_parquet_file_is_texts_or_an_error_of_one_line(n_files: int, tmp_path: Path) -> None:
    """In a process of its own, because pyarrow ends the process at some damaged files that it is given unchecked."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MUTATE, str(Path(__file__).parent), str(tmp_path), str(n_files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
