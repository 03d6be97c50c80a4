"""A corpus can have a test split, which training never reads, and of which each look is counted."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from folio.config.data import TextFilesConfig
from folio.config.hparams_search import SearchConfig
from folio.config.section import ConfigError
from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora.manifest import MANIFEST
from folio.data.corpora.mixture import join_corpora
from folio.data.corpora.prepared_folder import PreparedFolder
from folio.data.corpora.single_text import TextFile
from folio.data.corpora.split_documents import TEST, TRAIN, VAL, Bands, assign_splits
from folio.data.corpora.tasks import DOCUMENT, hash_document
from folio.data.corpora.text_files import TextFiles
from folio.data.corpora.token_files import TokenFiles
from folio.data.prepared import PreparedData, TokenSplit
from folio.runs.test_looks import RECORD, check_recordable, read_looks, record_look
from folio.runtime.errors import FolioError

BYTE = choose_tokenizer("byte")
DOCUMENTS = [f"document {number} has {'many ' * (number % 7)}words" for number in range(60)]
SIZES: dict[str, Any] = {"val_fraction": 0.2, "shard_tokens": 500}


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    return path


def ignore(line: str) -> None:
    """A log that keeps nothing."""


def open_test(data: PreparedData) -> TokenSplit:
    assert data.open_test is not None
    return data.open_test()


def documents_of(split: TokenSplit) -> list[str]:
    return bytes(split.tokens[:].tolist()).decode().removesuffix("\n\n").split("\n\n")


# Documents, by bands of their hash


@given(
    hashes=st.sets(st.integers(0, 2**64 - 1), min_size=3, max_size=30),
    val_fraction=st.floats(1e-12, 0.4),
    test_fraction=st.just(0.0) | st.floats(1e-12, 0.4),
)
def test_each_split_is_a_band_of_hashes_and_has_a_document(
    hashes: set[int], val_fraction: float, test_fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("documents")
    table = np.zeros(len(hashes), DOCUMENT)
    table["high"] = np.array(list(hashes), np.uint64)
    table.tofile(folder / "documents")
    try:
        assignment = assign_splits(folder / "documents", folder / "roles", val_fraction, test_fraction)
    except FolioError:
        low, high = val_fraction * 2**64, (1 - test_fraction) * 2**64
        between = [each for each in sorted(hashes)[1 : -1 if test_fraction else None] if low <= each < high]
        assert not between, "refused only if no document is left to train on"
        return
    assert assignment.splits == ["train", "val", "test"][: 3 if test_fraction else 2]
    ordered = assignment.roles[np.argsort(table["high"])]
    order = {VAL: 0, TRAIN: 1, TEST: 2}
    ranks = [order[role] for role in ordered.tolist()]
    assert ranks == sorted(ranks), "the lowest hashes are for validation, the highest for test"
    assert set(ranks) == ({0, 1, 2} if test_fraction else {0, 1})
    for high, role in zip(sorted(hashes), ordered.tolist(), strict=True):
        if high / 2**64 < val_fraction * (1 - 1e-9):
            assert role == VAL
        if test_fraction and high / 2**64 > 1 - test_fraction * (1 - 1e-9):
            assert role == TEST


def test_a_test_split_takes_documents_from_training_alone(lines: Path, tmp_path: Path) -> None:
    two = TextFiles(path=str(lines), **SIZES).prepare(BYTE, tmp_path / "data", ignore)
    logged: list[str] = []
    three = TextFiles(path=str(lines), test_fraction=0.3, **SIZES).prepare(BYTE, tmp_path / "data", logged.append)
    assert two.open_test is None
    assert documents_of(three.val) == documents_of(two.val)
    together = documents_of(three.train) + documents_of(three.val) + documents_of(open_test(three))
    assert Counter(together) == Counter(DOCUMENTS)
    hashes = [hash_document(document.encode())[0] for document in documents_of(open_test(three))]
    assert len(hashes) > 5
    assert min(hashes) >= 0.7 * 2**64
    assert f"{len(hashes)} for test" in logged[-1]
    assert open_test(three).documents is not None
    assert "test" not in json.loads((two.folder / MANIFEST).read_text()), "corpus.json is what it always was"
    moved = PreparedFolder(three.folder.rename(tmp_path / "moved")).prepare(BYTE, tmp_path / "data", ignore)
    assert (
        bytes(open_test(moved).tokens[:].tolist())
        == "".join(f"{d}\n\n" for d in documents_of(open_test(moved))).encode()
    )


def test_the_smallest_corpus_with_a_test_split_has_three_documents(tmp_path: Path) -> None:
    for n, fits in ((2, False), (3, True)):
        path = tmp_path / f"{n}.jsonl"
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS[:n]))
        source = TextFiles(path=str(path), val_fraction=1e-9, test_fraction=1e-9, shard_tokens=500)
        if fits:
            data = source.prepare(BYTE, tmp_path / "data", ignore)
            assert [len(documents_of(split)) for split in (data.train, data.val, open_test(data))] == [1, 1, 1]
        else:
            with pytest.raises(FolioError, match=r"data.val_fraction=1e-09 with data.test_fraction=1e-09 leaves no"):
                source.prepare(BYTE, tmp_path / "data", ignore)


@pytest.mark.parametrize("test_fraction", [0.3, 1e-9])
def test_words_are_learned_from_the_training_documents_alone(test_fraction: float, tmp_path: Path) -> None:
    """With 1e-9, the document of the highest hash is the test split although its band is empty."""
    path = tmp_path / "words.jsonl"
    names = [f"name{number}" for number in range(40)]
    path.write_text("".join(json.dumps({"text": name}) + "\n" for name in names))
    source = TextFiles(path=str(path), val_fraction=0.2, test_fraction=test_fraction, shard_tokens=500)
    choice = choose_tokenizer("word", max_vocab_size=1000)
    data = source.prepare(choice, tmp_path / "data", ignore)
    bands = Bands.of_fractions(0.2, test_fraction)
    highs = {name: hash_document(name.encode())[0] for name in names}
    bands = bands.widened(min(highs.values()), max(highs.values()))
    learned = {name for name in names if data.tokenizer.encode_with_unknown(name)[1].n_tokens == 0}
    assert learned == {name for name in names if bands.is_train(highs[name])}
    assert 0 < open_test(data).info.n_unknown < len(names) - len(learned)


# Texts, by place


def test_the_last_characters_of_a_text_are_for_test(tmp_path: Path) -> None:
    text = "".join(f"é{number}\n" for number in range(300))
    (tmp_path / "my.txt").write_text(text, encoding="utf-8")
    source, plain = TextFile(tmp_path / "my.txt", 0.2), TextFile(tmp_path / "my.txt")
    data = source.prepare(BYTE, tmp_path / "data", ignore)
    end = int(0.8 * len(text))
    parts = [bytes(split.tokens[:].tolist()).decode() for split in (data.train, data.val, open_test(data))]
    assert parts == [text[: int(0.9 * end)], text[int(0.9 * end) : end], text[end:]]
    assert plain.folder(tmp_path) != source.folder(tmp_path), "the two do not replace each other"
    assert plain.prepare(BYTE, tmp_path / "data", ignore).open_test is None


def test_a_damaged_test_split_hinders_no_training_and_is_made_again_on_request(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("To be, or not to be. " * 30)
    source = TextFile(tmp_path / "my.txt", 0.2)
    file = open_test(source.prepare(BYTE, tmp_path / "data", ignore)).path
    whole = file.read_bytes()
    file.write_bytes(b"?" + whole[1:])
    logged: list[str] = []
    data = source.prepare(BYTE, tmp_path / "data", logged.append)
    assert logged == [], "only opened"
    with pytest.raises(FolioError, match=r"test.bin was altered.*prepare the data again"):
        open_test(data)
    source.prepare(BYTE, tmp_path / "data", logged.append, verify_all=True)
    assert file.read_bytes() == whole


def test_token_files_are_named_for_test_or_end_with_it(tmp_path: Path) -> None:
    ids = np.arange(200, dtype="<u2")
    ids.tofile(tmp_path / "all.bin")
    data = TokenFiles(tmp_path / "all.bin", 0.1, 0.25).prepare(BYTE, tmp_path, ignore)
    splits = [split.tokens[:].tolist() for split in (data.train, data.val, open_test(data))]
    assert splits == [list(range(135)), list(range(135, 150)), list(range(150, 200))]
    ids[:50].tofile(tmp_path / "test.bin")
    alone = TokenFiles(tmp_path / "test.bin", 0.1).prepare(BYTE, tmp_path, ignore)
    assert (len(alone.train.tokens), alone.open_test) == (45, None), "an only file may have any name"
    named = TokenFiles(tmp_path, 0.1).prepare(BYTE, tmp_path, ignore)
    assert [len(split.tokens) for split in (named.train, named.val, open_test(named))] == [180, 20, 50]


def test_a_mixture_has_a_test_split_if_all_its_corpora_have_one(tmp_path: Path) -> None:
    corpora = []
    for name, test_fraction in (("a", 0.2), ("b", 0.4), ("c", 0.0)):
        (tmp_path / f"{name}.txt").write_text(f"The words of {name}. " * 40)
        source = TextFile(tmp_path / f"{name}.txt", test_fraction)
        corpora.append((name, 1.0, source.prepare(BYTE, tmp_path / "data", ignore)))
    both = open_test(join_corpora(corpora[:2]))
    assert both.tokens[:].tolist() == [
        token for _, _, data in corpora[:2] for token in open_test(data).tokens[:].tolist()
    ]
    with pytest.raises(FolioError, match=r"data.parts: c has no test split, and the others have one"):
        open_test(join_corpora(corpora))
    assert join_corpora(corpora[2:]).open_test is None


# Looks


def test_each_look_is_counted_even_if_its_line_is_damaged(tmp_path: Path) -> None:
    assert read_looks(tmp_path) == []
    assert [record_look(tmp_path, {"metrics": {"loss_nats": loss}}) for loss in (2.0, 1.5)] == [1, 2]
    with (tmp_path / RECORD).open("a") as file:
        file.write('{"metrics": {"loss\n[1]\n')
    assert record_look(tmp_path, {"metrics": {"loss_nats": 1.0}}) == 5
    assert read_looks(tmp_path)[1:] == [{"metrics": {"loss_nats": 1.5}}, {}, {}, {"metrics": {"loss_nats": 1.0}}]


def test_a_look_that_cannot_be_recorded_is_refused_before_the_figure_is_known(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside.txt"
    run.mkdir()
    outside.write_text("mine")
    check_recordable(run)
    (run / RECORD).symlink_to(outside)
    with pytest.raises(FolioError, match=r"is a link to .*outside\.txt"):
        check_recordable(run)
    (run / RECORD).unlink()
    os.mkfifo(run / RECORD)
    with pytest.raises(FolioError, match=f"{RECORD} is a FIFO"):
        check_recordable(run)


# Choices


@pytest.mark.parametrize("objective", ["test/loss_nats", "test/bits_per_byte"])
def test_a_search_cannot_optimize_a_figure_of_the_test_split(objective: str) -> None:
    values = {"name": "optuna", "n_trials": 2, "space": None, "n_startup_trials": 1, "prune": False}
    with pytest.raises(ValidationError, match="figure of the test split, by which nothing may be chosen"):
        SearchConfig.model_validate(values | {"objective": objective})


def test_two_fractions_that_leave_nothing_are_refused() -> None:
    keys = {"text_field": "text", "document_separator": None, "text_suffixes": [], "window_order": "random"}
    config = TextFilesConfig(
        name="text_files", path="x", prompt_field=None, completion_field=None, val_fraction=0.5, test_fraction=0.5,
        shard_tokens=5, **keys,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"data.test_fraction=0.5 and data.val_fraction=0.5 leave nothing to train"):
        config.check()
