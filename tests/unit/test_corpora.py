"""Many files become shards: in any format, however often the preparation is interrupted, in bounded memory."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora import documents as documents_module
from folio.data.corpora import split_documents, workers
from folio.data.corpora.document_corpus import UNFINISHED
from folio.data.corpora.documents import DocumentBlock, DocumentFormat, parse_documents, read_blocks
from folio.data.corpora.files import find_files
from folio.data.corpora.hugging_face import HuggingFaceDataset
from folio.data.corpora.manifest import MANIFEST, read_manifest
from folio.data.corpora.single_text import TextFile
from folio.data.corpora.tasks import DOCUMENT, ReadPosition, hash_document
from folio.data.corpora.text_files import TextFiles
from folio.data.prepared import PreparedData
from folio.data.tokenizers.bpe import BPETokenizer
from folio.runtime.errors import FolioError

zstd: Any = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

DOCUMENTS = [f"Document {number}.\nIt has né {'many ' * (number % 7)}words.\n" for number in range(40)]


def write(path: Path, documents: list[str], field: str = "text", separator: str = "") -> Path:
    """Write the documents to a file in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table({field: documents, "number": range(len(documents))}), path, row_group_size=7)
        return path
    lines = "".join(json.dumps({field: document, "n": 1}) + "\n" for document in documents)
    data = (lines if "jsonl" in path.name else separator.join(documents)).encode()
    pack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd.compress}
    path.write_bytes(pack.get(path.suffix, lambda data: data)(data))
    return path


class Corpus:
    """Prepares a pattern with one tokenizer in one data folder, and keeps what was logged last."""

    def __init__(self, pattern: Path, data_dir: Path, tokenizer: str = "byte", **options: Any) -> None:
        self.options = {"path": str(pattern), "val_fraction": 0.1, "shard_tokens": 500} | options
        self.choice, self.data_dir = choose_tokenizer(tokenizer), data_dir
        self.folder = TextFiles(**self.options).folder(data_dir) / tokenizer
        self.logged: list[str] = []

    def __call__(self, verify_all: bool = False) -> PreparedData:
        self.logged = []
        return TextFiles(**self.options).prepare(self.choice, self.data_dir, self.logged.append, verify_all)


def texts(data: PreparedData, separator: str = "\n\n") -> tuple[list[str], list[str]]:
    """Decode the documents of both splits."""
    splits = (data.tokenizer.decode(split.tokens[:].tolist()) for split in (data.train, data.val))
    train, val = (split.removesuffix(separator).split(separator) for split in splits)
    return train, val


KINDS = ["jsonl", "jsonl.gz", "jsonl.zst", "txt", "txt.gz", "txt.zst", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_documents_are_the_same_in_every_format(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / f"a.{kind}", DOCUMENTS, separator="<|end|>")
    corpus = Corpus(tmp_path / "in" / "*", tmp_path / "out", document_separator="<|end|>")
    data = corpus()
    documents = [text.strip("\n") if kind.startswith("txt") else text for text in DOCUMENTS]
    train, val = texts(data, "\n\n" if kind.startswith("txt") else "\n\n\n")
    if not kind.startswith("txt"):
        documents = [text.removesuffix("\n") for text in documents]
    assert sorted(train + val) == sorted(documents)
    assert train == [text for text in documents if text in train], "in the order of the files"
    info = data.train.info
    assert info.n_bytes == sum(len(text.encode()) + (not kind.startswith("txt")) for text in train)
    assert len(data.train.tokens) == info.n_tokens == info.n_bytes + 2 * len(train)
    manifest = read_manifest(corpus.folder)
    assert manifest.shard_sizes("train")[:-1] == [500] * (len(manifest.shard_sizes("train")) - 1)
    assert sum(manifest.shard_sizes("train")) == info.n_tokens > 1000
    assert not (corpus.folder / UNFINISHED).exists()
    corpus()
    assert corpus.logged == []


def test_each_text_file_is_a_document_with_an_end_of_text_behind_it(tmp_path: Path, data_dir: Path) -> None:
    for number, text in enumerate(DOCUMENTS):
        write(tmp_path / "in" / f"{number % 3}" / f"{number}.txt", [text])
    data = Corpus(tmp_path / "in" / "**" / "*.txt", data_dir, "gpt2")()
    tokens = data.train.tokens[:]
    ends = np.flatnonzero(tokens == 50_256)
    assert ends[-1] == len(tokens) - 1
    parts = [data.tokenizer.decode(part.tolist()) for part in np.split(tokens, ends + 1)[:-1]]
    assert {part.removesuffix("<|endoftext|>") for part in parts} < set(DOCUMENTS)


@pytest.mark.parametrize("tokenizer", ["char", "word"])
def test_a_tokenizer_that_learns_has_learned_from_all_files(tokenizer: str, tmp_path: Path) -> None:
    for number, text in enumerate(DOCUMENTS):
        write(tmp_path / "in" / f"{number}.txt", [text])
    data = Corpus(tmp_path / "in", tmp_path / "out", tokenizer)()
    text = data.tokenizer.decode(data.train.tokens[:].tolist())
    assert sum(text.count(document) for document in DOCUMENTS) == read_manifest(data.folder).train.n_documents
    if tokenizer == "word":
        assert data.train.info.n_unknown == 0
        assert data.val.info.n_unknown > 0, "the numbers of validation are not in the vocabulary"
        assert data.val.info.spelling_bits > 0
    assert text.endswith("\n\n")


def test_byte_pairs_are_learned_from_the_training_documents_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [f"{document} {number}{'xyz' * 9}" for number, document in enumerate(DOCUMENTS)])
    data = Corpus(tmp_path / "a.jsonl", tmp_path / "out", "bpe")()
    tokens, end = data.train.tokens[:].tolist(), data.tokenizer.end_of_text
    documents = data.tokenizer.decode([token for token in tokens if token != end])
    assert tokens.count(end) == read_manifest(data.folder).train.n_documents
    learned = BPETokenizer.from_counts(
        Counter(
            unit
            for document in data.tokenizer.decode(tokens).removesuffix("<|endoftext|>").split("<|endoftext|>")
            for unit in BPETokenizer.find_units(document)
        ),
        None,
    )
    assert learned.state() == data.tokenizer.state()
    assert len(documents.encode()) == data.train.info.n_bytes
    assert data.val.info.n_unknown == data.val.info.spelling_bits == 0


def test_the_split_of_a_document_is_a_function_of_its_content(tmp_path: Path) -> None:
    write(tmp_path / "a" / "a.jsonl", DOCUMENTS)
    write(tmp_path / "b" / "b.jsonl", [*reversed(DOCUMENTS[:30]), *DOCUMENTS, "One more. " * 5])
    first, second = (Corpus(tmp_path / name, tmp_path / f"out-{name}")() for name in "ab")
    (train, val), (other_train, other_val) = texts(first, "\n\n\n"), texts(second, "\n\n\n")
    assert set(val) <= set(other_val)
    assert not set(train) & set(other_val)
    assert not set(other_train) & set(other_val)
    manifest = read_manifest(second.folder)
    assert manifest.n_duplicates == 30
    assert len(other_train) + len(other_val) == 41


def test_validation_has_one_document_at_least(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DOCUMENTS[:3])
    train, val = texts(Corpus(tmp_path / "a.jsonl", tmp_path / "out", val_fraction=1e-9)(), "\n\n\n")
    assert (len(train), len(val)) == (2, 1)
    lowest = min(DOCUMENTS[:3], key=lambda text: hash_document(text.encode())[0])
    assert val == [lowest.removesuffix("\n")]


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(0, 5), max_size=40), st.integers(1, 7))
def test_of_equal_hashes_the_first_is_kept(first: list[int], second: list[int], n_per_chunk: int) -> None:
    table = np.zeros(len(first) + len(second), DOCUMENT)
    table["high"] = np.array(first + second, dtype=np.uint64) << np.uint64(60)
    table["low"] = [value % 2 for value in first + second]
    roles = np.ones(len(table), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_documents, "DOCUMENTS_PER_CHUNK", n_per_chunk)
        patch.setattr(split_documents, "DOCUMENTS_PER_HASH_RANGE", 5)
        n_duplicates = split_documents._mark_duplicates(table, roles)
    values = first + second
    kept = [value not in values[:place] for place, value in enumerate(values)]
    assert roles.astype(bool).tolist() == kept
    assert n_duplicates == len(values) - sum(kept)


def documents(blocks: list[DocumentBlock], document_format: DocumentFormat) -> list[str]:
    return [document.text for block in blocks for document in parse_documents(block, document_format)]


@given(st.binary(max_size=400), st.booleans(), st.integers(0, 20))
def test_reading_resumes_after_any_block_as_if_it_had_not_stopped(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, has_separator: bool, n_read_bytes: int
) -> None:
    text = "".join("ab#\n é"[byte % 6] for byte in noise).encode()
    path = tmp_path_factory.mktemp("blocks") / "a.txt.gz"
    path.write_bytes(gzip.compress(text))
    (file,) = find_files(str(path))
    document_format = DocumentFormat(document_separator="##" if has_separator else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "MAX_DOCUMENT_BYTES", 30)
        patch.setattr(documents_module, "NEWLINE_SEARCH_BYTES", 8)
        patch.setattr(documents_module, "READ_BYTES", 5 + n_read_bytes)
        blocks = list(read_blocks(file, document_format))
        whole = documents(blocks, document_format)
        for number, block in enumerate(blocks):
            rest = list(read_blocks(file, document_format, block.end, block.next))
            assert documents(blocks[: number + 1], document_format) + documents(rest, document_format) == whole
        if not has_separator:
            assert "".join(part for block in blocks for part in map(bytes.decode, block.documents)) == text.decode()
        assert all(len(part.encode()) < 38 for part in whole)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora import documents, staging, tasks, workers
from folio.data.corpora.text_files import TextFiles
documents.BLOCK_BYTES, documents.READ_BYTES, tasks.BLOCK_BYTES = 2000, 1000, 2000
staging.JOURNAL_EVERY_S = 0
pattern, out, mode, tokenizer, kill_at = sys.argv[1:]
if mode == "pool":
    workers.SMALL_BYTES = 0
n_events = 0
def kill(event, arguments):
    global n_events
    if event in ("open", "os.rename", "os.remove", "os.truncate", "os.rmdir"):
        n_events += 1
        if n_events == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    corpus = TextFiles(path=pattern, val_fraction=0.1, shard_tokens=3000)
    choice = choose_tokenizer(tokenizer)
    sys.addaudithook(kill)
    corpus.prepare(choice, Path(out), print)
    print(n_events)
"""


def prepare_in_process(tmp_path: Path, out: str, mode: str, tokenizer: str, kill_at: int = 0) -> tuple[int, str]:
    """Return the exit code and the output of a process that is killed at its n-th file operation; 0: never."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [str(tmp_path / "in"), str(tmp_path / out), mode, tokenizer, str(kill_at)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture
def large(tmp_path: Path) -> Path:
    many = [f"{number} {text}" for number in range(8) for text in DOCUMENTS]
    for number, kind in enumerate(KINDS):
        write(tmp_path / "in" / f"{number}.{kind}", many[number * 40 : number * 40 + 60])
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize(("mode", "tokenizer"), [("alone", "byte"), ("alone", "word"), ("pool", "bpe")])
def test_a_preparation_killed_at_random_moments_ends_in_the_same_bytes(mode: str, tokenizer: str, large: Path) -> None:
    code, output = prepare_in_process(large, "whole", "alone", tokenizer)
    assert code == 0
    assert "duplicates left out" in output
    n_operations = int(output.split()[-1])
    moments, outputs = random.Random(7), ""
    # First late in the work, so that there is something to resume; then anywhere.
    for kill_at in (n_operations * 2 // 3, *(moments.randint(1, n_operations // 3) for _ in range(5))):
        code, output = prepare_in_process(large, "killed", mode, tokenizer, kill_at)
        outputs += output
        if code == 0:
            break
        assert code == -signal.SIGKILL
    code, output = prepare_in_process(large, "killed", mode, tokenizer)
    assert code == 0
    assert "Resuming after" in outputs + output
    assert contents(large / "killed") == contents(large / "whole")


def test_all_processors_make_the_bytes_of_one(large: Path) -> None:
    """The hash of a text is another one in each process, so a tokenizer that is learned shows any dependence on it."""
    for mode in ("alone", "pool"):
        assert prepare_in_process(large, mode, mode, "bpe")[0] == 0
    assert contents(large / "alone") == contents(large / "pool")


def prepare_with_helpers(folder: Path) -> int:
    """Prepare a corpus with helper processes, whatever its size. Returns the number of training tokens."""
    workers.SMALL_BYTES = 0
    return Corpus(folder / "in", folder / "out")().train.info.n_tokens


def test_a_job_of_a_parallel_sweep_has_helpers_too(large: Path) -> None:
    joblib: Any = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(prepare_with_helpers)(large) for _ in range(2))
    assert found == [Corpus(large / "in", large / "alone")().train.info.n_tokens] * 2


def test_new_and_changed_files_are_noticed_without_reading_them(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", DOCUMENTS)
    corpus = Corpus(tmp_path / "in", tmp_path / "out")
    before = corpus().train.info.source_sha256
    os.utime(tmp_path / "in" / "a.jsonl")
    assert corpus().train.info.source_sha256 == before, "the same content is the same text to a resumed run"
    assert "again: the files have changed since" in corpus.logged[0]
    write(tmp_path / "in" / "b.txt", ["Another."])
    assert corpus().train.info.source_sha256 != before
    corpus()
    assert corpus.logged == []


def cut_shard(folder: Path) -> None:
    path = next(folder.glob("train-*.bin"))
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = next(folder.glob("train-*.bin"))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_shard, "bytes, but corpus.json says"),
        (flip, "its sha256 is not the one in corpus.json"),
        (lambda folder: (folder / "val-00000.bin").unlink(), "val-00000.bin is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "is not a manifest of format 1"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 10_000), "corpus.json is nested too deeply"),
        (lambda folder: change_json(folder / MANIFEST, n_duplicates=-1), "is not a manifest of format 1"),
        (lambda folder: change_json(folder / MANIFEST, vocab_size=2**70), "is not a manifest of format 1"),
    ],
)
def test_damage_is_reported_and_the_corpus_prepared_again(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a.jsonl", DOCUMENTS)
    corpus = Corpus(tmp_path / "in", tmp_path / "out")
    corpus()
    before = contents(corpus.folder)
    damage(corpus.folder)
    corpus()
    assert reason in corpus.logged[0]
    assert contents(corpus.folder) == before


@pytest.mark.parametrize("change", [{"shard_tokens": 1}, {"shard_tokens": -1}, {"vocab_size": 10**9}, {"train": 3}])
def test_an_inconsistent_manifest_is_refused_before_it_is_used(change: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", DOCUMENTS)
    corpus = Corpus(tmp_path / "in", tmp_path / "out")
    corpus()
    path = corpus.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    corpus()
    assert "is not a manifest" in corpus.logged[0]


def test_a_shard_that_is_altered_while_it_is_read_stops_the_next_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", DOCUMENTS)
    corpus = Corpus(tmp_path / "in", tmp_path / "out")
    data = corpus()
    data.train.check_unchanged()
    time.sleep(0.01)
    flip(corpus.folder)
    with pytest.raises(FolioError, match="was altered while it was in use"):
        data.train.check_unchanged()


def bad(kind: str, folder: Path) -> Path:
    """Write a file that is refused. Returns its path."""
    good = json.dumps({"text": "A good document."})
    simple = {
        "no field": ("a.jsonl", f'{good}\n{{"body": "x"}}\n'),
        "no JSON": ("a.jsonl", f"{good}\n{good}\nnot json\n"),
        "no object": ("a.jsonl", "[1]\n"),
        "no text": ("a.jsonl", '{"text": 3}\n'),
        "half a pair": ("a.jsonl", '{"text": "\\ud800"}\n'),
        "deep": ("a.jsonl", "[" * 100_000 + "\n"),
        "unknown suffix": ("a.csv", "x"),
        "packed parquet": ("a.parquet.gz", "x"),
        "no parquet": ("a.parquet", "PAR1 and nothing more"),
        "no gzip": ("a.txt.gz", "plain"),
        "no zstd": ("a.txt.zst", "plain"),
        "white space": ("a.txt", " \n\n "),
        "one document": ("a.txt", "Only this."),
        "a NUL": ("a.txt", "To be\0or not"),
    }
    if kind in simple:
        name, text = simple[kind]
        (folder / name).write_text(text)
        return folder / name
    if kind == "wrong bytes":
        (folder / "a.txt").write_bytes(b"good\xff")
    elif kind == "cut gzip":
        (folder / "a.txt").write_bytes(b"")
        (folder / "a.txt.gz").write_bytes(gzip.compress(os.urandom(5000))[:-3000])
        return folder / "a.txt.gz"
    elif kind == "cut zstd":
        (folder / "a.txt.zst").write_bytes(zstd.compress(b"hello " * 1000)[:-5])
        return folder / "a.txt.zst"
    elif kind == "no column":
        return write(folder / "a.parquet", DOCUMENTS, field="body")
    elif kind == "cut parquet":
        path = write(folder / "a.parquet", DOCUMENTS)
        path.write_bytes(path.read_bytes()[:-100])
        return path
    return folder / "a.txt"


REFUSALS = {
    "no field": "a.jsonl, line 2 has no field data.text_field=text; it has body",
    "no JSON": "a.jsonl, line 3 is not JSON",
    "no object": "a.jsonl, line 1 is not a JSON object",
    "no text": "a.jsonl, line 1: the field text holds not a string but int",
    "half a pair": "a.jsonl, line 1: the field text holds half of a surrogate pair",
    "deep": "a.jsonl, line 1 is not JSON",
    "unknown suffix": "a.csv, which cannot be read; readable are .txt",
    "packed parquet": "a.parquet.gz, which cannot be read",
    "no parquet": "a.parquet is damaged",
    "cut parquet": "a.parquet is damaged",
    "no column": "a.parquet has no column data.text_field=text; it has body, number",
    "no gzip": "a.txt.gz is damaged: Not a gzipped file",
    "cut gzip": "a.txt.gz is damaged",
    "no zstd": "a.txt.zst is damaged",
    "cut zstd": "a.txt.zst is damaged",
    "white space": "the files that it matches hold only white space",
    "one document": "the files that it matches hold one document",
    "a NUL": "a.txt, document 1 holds a NUL byte",
    "wrong bytes": "a.txt, document 1 is not valid UTF-8",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_an_unreadable_file_is_an_error_of_one_line_with_its_place(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = bad(kind, tmp_path / "in")
    corpus = Corpus(path, tmp_path / "out")
    with pytest.raises(FolioError) as refusal:
        corpus()
    assert REFUSALS[kind] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "out").rglob(MANIFEST))


def test_a_pattern_without_a_match_is_named_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"x/\*\*/\*\.txt matches no file in .*; give a pattern"):
        Corpus(tmp_path / "x" / "**" / "*.txt", tmp_path / "out")()


def test_a_later_line_is_numbered_from_the_beginning_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "BLOCK_BYTES", 50)
    monkeypatch.setattr(documents_module, "READ_BYTES", 30)
    lines = [json.dumps({"text": text}) for text in DOCUMENTS]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "", '{"tex": 1}']))
    with pytest.raises(FolioError, match=r"a\.jsonl, line 42 has no field"):
        Corpus(tmp_path / "a.jsonl", tmp_path / "out")()


@pytest.mark.parametrize("kind", ["jsonl.gz", "txt.zst", "txt.gz"])
def test_decompressing_much_takes_little_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"bomb.{kind}"
    pack = gzip.compress if kind.endswith("gz") else zstd.compress
    path.write_bytes(pack(bytes(300 << 20)))  # 300 MiB of zeros in some hundred KB
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(FolioError, match=r"is longer than 64 MiB|holds a NUL byte"):
        Corpus(path, tmp_path / "out")()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20


def test_datasets_are_read_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "in" / "train.jsonl", DOCUMENTS)
    options: dict[str, Any] = {"path": str(tmp_path / "in"), "val_fraction": 0.1, "shard_tokens": 500}
    data = HuggingFaceDataset(**options).prepare(choose_tokenizer("byte"), tmp_path, lambda line: None)
    train, val = texts(data, "\n\n\n")
    assert sorted(train + val) == sorted(text.removesuffix("\n") for text in DOCUMENTS)
    with pytest.raises(FolioError, match=r"data\.path=.*has no column data\.text_field=body; it has text, n"):
        next(HuggingFaceDataset(**options, text_field="body").blocks(ReadPosition()))


def test_without_the_extra_the_command_to_install_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, zstd.__name__, None)
    monkeypatch.setitem(sys.modules, "backports", None)
    with pytest.raises(
        FolioError, match=r"data=huggingface needs the package datasets; pip install '\.\[huggingface\]'"
    ):
        _ = HuggingFaceDataset(path="a/b", val_fraction=0.1, shard_tokens=500).n_bytes
    for name, package in (("a.parquet", "pyarrow"), ("a.txt.zst", r"backports\.zstd")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(FolioError, match=rf"needs the package {package}; pip install '\.\[corpora\]'"):
            Corpus(tmp_path / name, tmp_path / "out")()


def test_files_of_a_process_killed_during_cleanup_are_removed(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", DOCUMENTS)
    corpus = Corpus(tmp_path / "in", tmp_path / "out")
    corpus()
    before = contents(corpus.folder)
    (corpus.folder / UNFINISHED).mkdir()
    (corpus.folder / UNFINISHED / "tokens").write_bytes(b"many")
    (corpus.folder / "train-00099.bin").write_bytes(b"of an earlier corpus")
    corpus()
    assert corpus.logged == []
    assert contents(corpus.folder) == before


def test_folders_and_digests_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    """The digests are those of the first version with shards. A change would orphan the folders of users."""
    files = TextFiles(path="/corpus/**/*.txt", val_fraction=0.01, shard_tokens=100_000_000)
    assert files.folder(Path("data")) == Path("data/text_files/corpus------txt-ff84b6e3")
    options: dict[str, Any] = {"text_field": "body", "val_fraction": 0.2, "shard_tokens": 500}
    dataset = HuggingFaceDataset(path="a/b", subset="s", val_fraction=0.01, shard_tokens=100_000_000)
    assert dataset.identity(tmp_path) == "13f4c9c531d4a5574a5ac5154af8aa265accee1d153ec80b0ce5eae5553287ed"
    stories = HuggingFaceDataset(path="roneneldan/TinyStories", subset="main", **options)
    assert stories.folder(Path("data")).parent == Path("data/huggingface")
    assert TextFile("/corpus/my.txt").folder(Path("data")) == Path("data/text_file/my-21d09634")

    class Known(TextFiles):
        def look_up_identity(self) -> str:
            return "abc"

    plain = Known(path="x", val_fraction=0.01, shard_tokens=100_000_000)
    assert plain.plan("f" * 64) == "e38ed9db897dfc7c9258df96d3b7c3887404867e3f9a1a62b3e7538105ffbb1c"
    separated = Known(path="x", document_separator="<|end|>", **options)
    assert separated.plan("word-8192") == "2a44cb9b80304b059b7ed65a51349137ded8f38591ffa97d3541bdb9ea17ba2b"
