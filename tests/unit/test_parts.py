"""Parts of a corpus, prepared anywhere and in any order, are joined to the bytes that one machine writes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.cli.compose import composed, load_config
from folio.cli.corpus import prepare_part
from folio.config.part import parse_part
from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora import document_corpus, staging
from folio.data.corpora.document_corpus import DocumentCorpus
from folio.data.corpora.files import TEXT, CorpusFile
from folio.data.corpora.hugging_face import HuggingFaceDataset
from folio.data.corpora.parts import CorpusInParts
from folio.data.corpora.tasks import ReadPosition
from folio.data.corpora.text_files import TextFiles
from folio.data.tokenizers.choice import TokenizerChoice
from folio.runtime.errors import FolioError

CONF = Path(__file__).parents[2] / "conf"
N_PARTS = 3


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of different formats and sizes, one without documents, and documents that several of them have."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, n_documents in enumerate((7, 1, 0, 12, 3)):
        documents = [f"Document {number}.{i} has {'many ' * (i % 5)}words." for i in range(n_documents)] + ["The same."]
        lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
        (folder / f"{number}.jsonl").write_text(lines if n_documents else "")
    (folder / "5.txt").write_text("A text of its own.#Another one.#The same.")
    return folder


def corpus_of(files: Path, **options: Any) -> TextFiles:
    options = {"val_fraction": 0.2, "test_fraction": 0.2, "shard_tokens": 100, "document_separator": "#"} | options
    return TextFiles(path=str(files), **options)


@pytest.fixture
def in_parts(files: Path, tmp_path: Path) -> Callable[..., CorpusInParts]:
    """Return a function that makes a new CorpusInParts, as another process would."""

    def make(tokenizer: str = "byte", log: Callable[[str], None] = print, **options: Any) -> CorpusInParts:
        choice = choose_tokenizer(tokenizer, max_vocab_size=300 if tokenizer in ("word", "bpe") else None)
        return CorpusInParts(corpus_of(files, **options), choice, tmp_path / "parts", N_PARTS, log)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tokenizer", ["byte", "word", "bpe"])
def test_parts_in_any_order_and_interrupted_join_to_the_bytes_of_one_machine(
    tokenizer: str,
    in_parts: Callable[..., CorpusInParts],
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice: TokenizerChoice = in_parts(tokenizer).choice
    corpus_of(files).prepare(choice, tmp_path / "one", print)
    monkeypatch.setattr(staging, "JOURNAL_EVERY_S", 0.0)
    monkeypatch.setattr("folio.data.corpora.tasks.BLOCK_BYTES", 2)  # a task for each file
    in_parts(tokenizer).prepare(3)
    encode, n_calls = document_corpus.encode_in_worker, 0

    def encode_and_die(*arguments: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(document_corpus, "encode_in_worker", encode_and_die)
    with pytest.raises(KeyboardInterrupt):
        in_parts(tokenizer).prepare(1)
    logged: list[str] = []
    in_parts(tokenizer, logged.append).prepare(1)
    assert logged[0].startswith("Resuming after")
    in_parts(tokenizer).prepare(2)
    in_parts(tokenizer).join()
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    before = n_calls
    in_parts(tokenizer).prepare(1)
    in_parts(tokenizer).join()
    assert n_calls == before, "what is prepared is not prepared again"


def test_a_part_that_is_missing_or_another_is_named_with_its_command(
    in_parts: Callable[..., CorpusInParts], files: Path
) -> None:
    in_parts().prepare(2)
    with pytest.raises(FolioError, match=r"part=join/3: part 1, 3 is not prepared in .*; run .* with part=1/3 first"):
        in_parts().join()
    for number in (1, 3):
        in_parts().prepare(number)
    folder = in_parts().part_folder(2)
    kept = {name: (folder / name).read_bytes() for name in ("tokens", "documents", "part.json")}
    for name, content, message in (
        ("tokens", kept["tokens"][:-1], r"2-of-3/tokens is not whole; run the same command with part=2/3 again"),
        ("tokens", b"?" + kept["tokens"][1:], r"2-of-3/tokens was altered: .* with part=2/3 again"),
        ("part.json", b"{}", r"2-of-3/part.json is damaged; run the same command with part=2/3 again"),
        ("part.json", b"[" * 10_000, r"2-of-3/part.json is damaged"),
        ("part.json", (in_parts().part_folder(1) / "part.json").read_bytes(), "2-of-3 was made from other files"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(FolioError, match=message):
            in_parts().join()
        (folder / name).write_bytes(kept[name])
    (folder / "tokens").write_bytes(kept["tokens"][:-1])
    in_parts().prepare(2)
    assert (folder / "tokens").read_bytes() == kept["tokens"], "the command that the message names repairs it"
    (files / "0.jsonl").write_text((files / "0.jsonl").read_text() + '{"text": "new"}\n')
    with pytest.raises(FolioError, match=r"1-of-3 was made from other files, with other options or another tokenizer"):
        in_parts().join()
    assert not (in_parts().folder / "corpus.json").exists()


def test_a_faulty_document_is_named_and_leaves_nothing(
    in_parts: Callable[..., CorpusInParts], files: Path, tmp_path: Path
) -> None:
    (files / "4.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    with pytest.raises(FolioError, match=r"4.jsonl, line 2"):
        in_parts().prepare(3)
    assert not (tmp_path / "parts").exists()
    in_parts().prepare(1)


def test_files_that_change_during_a_part_are_refused(
    in_parts: Callable[..., CorpusInParts], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, encode = in_parts(), document_corpus.encode_in_worker

    def encode_and_change(*arguments: Any) -> Any:
        (files / "9.txt").write_text("new")
        return encode(*arguments)

    monkeypatch.setattr(document_corpus, "encode_in_worker", encode_and_change)
    with pytest.raises(FolioError, match="files were changed while they were being prepared"):
        corpus.prepare(1)
    assert not corpus.part_folder(1).exists()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.data())
def test_parts_are_whole_files_of_about_equal_size(sizes: list[int], data: st.DataObject) -> None:
    n_parts = data.draw(st.integers(1, len(sizes)))
    corpus = TextFiles(path="x", val_fraction=0.1, shard_tokens=1)
    corpus.__dict__["_files"] = [CorpusFile(Path(f"{i}"), TEXT, "", n_bytes, 0) for i, n_bytes in enumerate(sizes)]
    parts = corpus.divide(n_parts)
    assert [part.begin.file for part in parts] == [0, *(part.end.file for part in parts[:-1])]
    assert parts[-1].end.file == len(sizes)
    for part in parts:
        assert part.begin.file < part.end.file
        assert part.n_bytes == sum(sizes[part.begin.file : part.end.file])
        is_one = part.end.file - part.begin.file == 1
        assert is_one or part.n_bytes <= sum(sizes) / n_parts + max(sizes)
    with pytest.raises(FolioError, match=f"matches {len(sizes)} files, too few for {len(sizes) + 1} parts"):
        corpus.divide(len(sizes) + 1)


@pytest.mark.parametrize("n_parts", [1, 4, 50])
def test_rows_of_a_dataset_are_divided_too(n_parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folio.data.corpora.hugging_face.ROWS_PER_BATCH", 7)
    texts = [f"row {number}" for number in range(50)]
    table = pyarrow.table({"text": texts})

    class Rows:
        data = SimpleNamespace(nbytes=1000)

        def __len__(self) -> int:
            return len(texts)

        def __getitem__(self, rows: slice) -> Any:
            return table[rows]

    corpus: DocumentCorpus = HuggingFaceDataset(path="a/b", val_fraction=0.1, shard_tokens=500)
    corpus.__dict__["_rows"] = Rows()

    def documents(blocks: Iterator[Any]) -> list[bytes]:
        return [document for _, block in blocks for document in block.documents]

    parts = corpus.divide(n_parts)
    together = [document for part in parts for document in documents(corpus.blocks(part.begin, part.end))]
    assert together == documents(corpus.blocks(ReadPosition())) == [text.encode() for text in texts]
    assert documents(corpus.blocks(parts[-1].end)) == []
    with pytest.raises(FolioError, match="has 50 rows"):
        corpus.divide(51)


@pytest.mark.parametrize("part", ["0/4", "5/4", "1/0", "4", "join", "1/4/2", "-1/4", "join/0", "1.5/4"])
def test_what_is_no_part_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match=r"must be k/n with k from 1 to n"):
        parse_part(part)


def test_only_preparation_takes_a_part_and_only_of_documents(tmp_path: Path) -> None:
    with composed(["part=1/4"], CONF) as cfg:
        with pytest.raises(FolioError, match="part=1/4 prepares a part of a corpus; write python scripts/prepare_data"):
            load_config(cfg)
        config = load_config(cfg, only_prepares=True)
    assert "part" not in config.model_dump(), "it is no key of a run"
    with pytest.raises(FolioError, match=r"part=1/4 divides data=text_files and data=huggingface alone"):
        prepare_part(config)
