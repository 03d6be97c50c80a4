"""A text is checked, split and read in pieces as if it had been read at once."""

import bz2
import gzip
import hashlib
import lzma
import os
import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from folio.data.corpora import text as module
from folio.data.corpora.documents import Document, DocumentFormat, parse_documents, read_blocks
from folio.data.corpora.files import find_files
from folio.data.corpora.signatures import UTF8_BOM, recognize
from folio.data.corpora.text import check_text_file, cut_into_pieces, split_text
from folio.data.tokenizers.base import last_white_space
from folio.runtime.errors import FolioError


def test_a_valid_text_passes_the_check(tmp_path: Path) -> None:
    text = b"The quality of mercy is not strain'd."
    (tmp_path / "mercy.txt").write_bytes(text)
    assert check_text_file(tmp_path / "mercy.txt") == hashlib.sha256(text).hexdigest()


def test_what_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="does not exist"):
        check_text_file(tmp_path / "nothing.txt")
    with pytest.raises(FolioError, match="not a regular file"):
        check_text_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FolioError, match="not a regular file"):
        check_text_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"abc\0def", "NUL byte at byte offset 3"),
        ("text".encode("utf-16-le"), "NUL byte"),
        ("na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve".encode("latin-1"), "byte offset 2 "),
        (b"x" * 99 + "\N{ROSE}".encode()[:-1], "byte offset 99 "),
        ("\N{ROSE}".encode() * 5 + b"\x80", "byte offset 20 "),
    ],
)
def test_what_is_not_utf8_text_is_refused_with_its_offset(
    content: bytes, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 7)
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(FolioError, match=fault) as caught:
        check_text_file(tmp_path / "bad.txt")
    assert "\n" not in str(caught.value)


@given(content=st.binary(min_size=1), chunk_bytes=st.integers(1, 9))
def test_the_offset_is_the_one_that_python_reports(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, chunk_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "any.txt"
    path.write_bytes(content.replace(b"\0", b"0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk_bytes)
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            assume(recognize(content) is None)
            with pytest.raises(FolioError, match=f"byte offset {error.start} "):
                check_text_file(path)
        else:
            check_text_file(path)


def ignore(n_bytes: int) -> None:
    """An `advance` that reports nothing."""


@given(text=st.text(st.characters(codec="utf-8"), min_size=2), chunk_bytes=st.integers(1, 9))
def test_the_splits_are_cut_at_nine_tenths_of_the_characters(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "any.txt"
    path.write_bytes(text.encode())
    counted: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk_bytes)
        splits, sha256 = split_text(path)
        parts = ["".join(splits[name].read(counted.append)) for name in ("train", "val")]
    cut = int(0.9 * len(text))
    assert parts == [text[:cut], text[cut:]]
    assert sum(counted) == sum(split.n_bytes for split in splits.values()) == len(text.encode())
    assert sha256 == hashlib.sha256(text.encode()).hexdigest()


@given(text=st.text(st.characters(codec="utf-8"), min_size=2), chunk_bytes=st.integers(1, 9), data=st.data())
def test_splits_may_lie_anywhere_in_a_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk_bytes: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("text") / "any.txt"
    path.write_bytes(text.encode())
    text = text.removeprefix("\ufeff")
    assume(text)
    first = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(first + 1, len(text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk_bytes)
        splits, _ = split_text(path, lambda n_characters: {"test": (first, end)})
        assert "".join(splits["test"].read(ignore)) == text[first:end]


def test_bytes_that_became_invalid_are_named_with_their_offset(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"0123456789" * 10)
    val = split_text(path)[0]["val"]
    path.write_bytes(b"0123456789" * 9 + b"01234\xff6789")
    with pytest.raises(FolioError, match="byte offset 95 "):
        list(val.read(ignore))


def test_a_text_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"0123456789" * 10)
    val = split_text(path)[0]["val"]
    path.write_bytes(b"0123456789" * 9)
    with pytest.raises(FolioError, match="became shorter"):
        list(val.read(ignore))


@given(st.lists(st.text("ab \n")))
def test_pieces_are_the_text_and_cut_no_word(chunks: list[str]) -> None:
    cut = list(cut_into_pieces(chunks, last_white_space))
    assert "".join(cut) == "".join(chunks)
    assert all(piece[0].isspace() for piece in cut[1:])


def test_a_piece_is_yielded_as_soon_as_it_can_be_cut() -> None:
    def chunks() -> Iterator[str]:
        yield from ("To be", " or", " not")
        pytest.fail("a piece was held back")

    assert list(islice(cut_into_pieces(chunks(), last_white_space), 2)) == ["To", " be"]


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 10_000])
def test_a_cut_is_found_however_far_from_the_end(length: int) -> None:
    assert last_white_space("a b" + "x" * length) == 1
    assert last_white_space("ab" + "x" * length) == 0


def test_memory_is_bounded_if_a_text_has_no_safe_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIECE_CHARACTERS", 10)
    chunks = ["之乎者也"] * 50
    cut = list(cut_into_pieces(chunks, last_white_space))
    assert "".join(cut) == "".join(chunks)
    assert max(map(len, cut)) < 10 + len(chunks[0])


def test_a_device_and_a_socket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="not a regular file"):
        check_text_file(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(FolioError, match="not a regular file"):
            check_text_file(tmp_path / "socket")


def test_a_gigabyte_of_nothing_is_refused_at_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "sparse.txt"
    path.touch()
    os.truncate(path, 2**30)
    with pytest.raises(FolioError, match="NUL byte at byte offset 0,"):
        check_text_file(path)


@pytest.mark.parametrize("mark", [b"", UTF8_BOM])
def test_line_endings_are_ordinary_characters_and_a_byte_order_mark_is_none(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    text = "To be,\r\nor not to be\r\n"
    path.write_bytes(mark + text.encode())
    check_text_file(path)
    splits, sha256 = split_text(path)
    train, val = ("".join(splits[name].read(ignore)) for name in ("train", "val"))
    assert (train, val) == (text[:19], text[19:])
    assert sha256 == hashlib.sha256(mark + text.encode()).hexdigest()


def test_a_byte_order_mark_alone_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(UTF8_BOM)
    with pytest.raises(FolioError, match="train split of a 0 character text is empty"):
        split_text(tmp_path / "a.txt")


PACKED = {
    "gzip": gzip.compress(b"hello"),
    "bzip2": bz2.compress(b"hello"),
    "xz": lzma.compress(b"hello"),
    "zstd": bytes.fromhex("28b52ffd2005290000") + b"hello",
    "zip": b"PK\x03\x04\x14\0\0\0",
    "Parquet": b"PAR1\x15\0",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "UTF-16": "木".encode("utf-16"),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_file_of_another_kind_is_named_with_what_reads_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_bytes(PACKED[kind])
    for read in (check_text_file, lambda path: list(parse_all(path))):
        with pytest.raises(FolioError, match=rf"en\.txt is .*{kind}.*(unpack|under a name|extract|convert)"):
            read(tmp_path / "en.txt")


def parse_all(path: Path) -> Iterator[Document]:
    (file,) = find_files(str(path))
    for block in read_blocks(file, DocumentFormat()):
        yield from parse_documents(block, DocumentFormat())


def test_a_text_that_begins_like_a_packed_file_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("%PDF-1.7 is how it begins, BZh91AY&SY another, PAR1 a third")
    check_text_file(tmp_path / "a.txt")
