"""Files as people have them: links, brackets, folders that may not be read, source code, nested fields."""

import glob
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st

from folio.cli.explain import explain_hydra_error
from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora.documents import DocumentFormat, parse_documents, read_blocks
from folio.data.corpora.files import find_files
from folio.data.corpora.patterns import matching_names
from folio.data.corpora.signatures import UTF8_BOM
from folio.data.corpora.text_files import TextFiles
from folio.runtime.errors import FolioError

zstd: Any = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")


def create(folder: Path, *names: str) -> None:
    """Write files that hold their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def found(pattern: Path | str, folder: Path, *text_suffixes: str) -> list[str]:
    return [str(file.path.relative_to(folder)) for file in find_files(str(pattern), text_suffixes)]


def documents(path: Path, **options: Any) -> list[str]:
    (file,) = find_files(glob.escape(str(path)))
    document_format = DocumentFormat(**options)
    blocks = read_blocks(file, document_format)
    return [document.text for block in blocks for document in parse_documents(block, document_format)]


NAMES = st.sampled_from(["a", "b", "ab", "a.txt", "b.txt", ".hidden", "A-b.txt", "a b", "é.txt"])
PARTS = st.sampled_from(["a", "*", "**", "*.txt", "?", "[ab]", "[!a]*", "a.txt", ".*", "."])


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=8), st.lists(PARTS, min_size=1, max_size=4))
def test_a_pattern_matches_what_it_matches_in_the_standard_library(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]], parts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for name in names:
        path = folder.joinpath(*name)
        if all(not parent.is_file() for parent in path.parents) and not path.exists():
            create(folder, str(path.relative_to(folder)))
    pattern = str(folder.joinpath(*parts))
    expected = {name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)}
    assert [name for name in matching_names(pattern) if os.path.isfile(name)] == sorted(expected, key=os.fsencode)


@pytest.mark.parametrize("pattern", ["c", "c/**/*.txt", "c/**"])
def test_links_that_loop_are_followed_once(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path, "c/a/x.txt", "c/y.txt", "outside/z.txt")
    for link, target in (("self", "."), ("A", "."), ("a/up", ".."), ("a/z", "../../outside")):
        (tmp_path / "c" / link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    assert [str(file.path) for file in find_files(pattern)] == ["c/a/x.txt", "c/a/z/z.txt", "c/y.txt"]


def test_a_name_with_brackets_is_taken_as_it_is_before_it_is_a_pattern(tmp_path: Path) -> None:
    create(tmp_path, "br [2020]/book [v1].txt", "br [2020]/book v.txt", "br 2/a.txt", "v1.txt", "v2.txt")
    assert found(tmp_path / "br [2020]" / "book [v1].txt", tmp_path) == ["br [2020]/book [v1].txt"]
    assert len(found(tmp_path / "br [2020]" / "*.txt", tmp_path)) == 2
    assert len(found(tmp_path / "br [2020]", tmp_path)) == 2
    assert found(tmp_path / "v[12].txt", tmp_path) == ["v1.txt", "v2.txt"]
    with pytest.raises(FolioError, match=r"matches no file in .*; a \[ in a name that does not exist is a pattern"):
        find_files(str(tmp_path / "v[345].txt"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("pattern", ["", "**/*.txt", "*/*.txt"])
def test_a_folder_that_may_not_be_read_is_named(pattern: str, mode: int, tmp_path: Path) -> None:
    create(tmp_path, "c/good/a.txt", "c/shut/b.txt")
    (tmp_path / "c" / "shut").chmod(mode)
    for folder in (tmp_path, tmp_path / "c", *tmp_path.parents[:2]):
        folder.chmod(0o755)
    code = (
        "import os, sys; from folio.data.corpora.files import find_files\n"
        f"os.chdir({str(tmp_path)!r}); os.setuid(65534)\n"
        f"find_files({os.path.join('c', pattern)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "c/shut" in done.stderr.splitlines()[-1]
    assert "cannot be read: Permission denied; fix its permissions" in done.stderr.splitlines()[-1]


def test_what_only_looks_like_a_file_is_named(tmp_path: Path) -> None:
    create(tmp_path, "a.txt")
    path = tmp_path / "b.txt"
    path.symlink_to("nothing.txt")
    for pattern in (tmp_path, tmp_path / "*", path):
        with pytest.raises(FolioError, match=r"b\.txt is a link to nothing, .*; restore it, or narrow"):
            find_files(str(pattern))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FolioError, match=r"b\.txt is a FIFO, not a regular file"):
        find_files(str(tmp_path))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(FolioError, match=r"b\.txt is a device, not a regular file"):
        find_files(str(tmp_path))


def test_source_code_is_text_where_its_suffix_is_named(tmp_path: Path) -> None:
    create(tmp_path, "src/a.py", "src/b/c.R", "src/d.md", "src/e.bin", "src/f.py.gz")
    assert found(tmp_path / "src", tmp_path, "py", ".R") == ["src/a.py", "src/b/c.R", "src/d.md", "src/f.py.gz"]
    assert found(tmp_path / "src" / "**" / "*.py", tmp_path, ".py") == ["src/a.py"]
    with pytest.raises(FolioError, match=r"matches .*/a\.py, which .*say so: data\.text_suffixes=\[\.py\]"):
        find_files(str(tmp_path / "src" / "*"))
    (tmp_path / "src" / "a.tar.gz").write_bytes(gzip.compress(b"many files"))
    with pytest.raises(FolioError, match=r"matches .*/a\.tar\.gz, which is packed by gzip; unpack it"):
        find_files(str(tmp_path / "src" / "*.tar.gz"))
    (tmp_path / "src" / "d.md").unlink()
    with pytest.raises(
        FolioError, match=r"but .*\.py \(1\), .*; say which others are text, as in data\.text_suffixes=\["
    ):
        find_files(str(tmp_path / "src"))


def test_a_json_file_is_text_where_its_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1,\n2]")
    (file,) = find_files(str(tmp_path), (".json",))
    assert [
        document.text
        for block in read_blocks(file, DocumentFormat())
        for document in parse_documents(block, DocumentFormat())
    ]


def test_fields_in_fields_are_named_by_dots(tmp_path: Path) -> None:
    lines = [{"doc": {"text": "one"}}, {"doc": None}, {"doc.text": "flat", "doc": {"text": "two"}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert documents(tmp_path / "a.jsonl", text_field="doc.text") == ["one", "flat"]
    with pytest.raises(FolioError, match=r"line 1: the field doc has parts; .* data\.text_field=doc\.text"):
        documents(tmp_path / "a.jsonl", text_field="doc")
    with pytest.raises(FolioError, match=r"line 1 has no field data\.text_field=doc\.body; it has text"):
        documents(tmp_path / "a.jsonl", text_field="doc.body")


def test_columns_of_bytes_and_columns_in_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "bytes": pyarrow.array([b"one", None, "zwölf".encode()]),
        "large": pyarrow.array(["one", None, "zwölf"], pyarrow.large_string()),
        "view": pyarrow.array(["one", None, "zwölf"], pyarrow.string_view()),
        "categories": pyarrow.array(["one", None, "zwölf"]).dictionary_encode(),
        "doc": pyarrow.array([{"text": "one", "n": 1}, None, {"text": "zwölf", "n": 2}]),
        "meta": pyarrow.array([{"text": "nested"}] * 3),
        "meta.text": pyarrow.array(["one", None, "zwölf"]),
        "words": pyarrow.array([["one"]] * 3),
        "number": pyarrow.array([1, 2, 3]),
    }
    parquet.write_table(pyarrow.table(columns), path)
    for name in ("bytes", "large", "view", "categories", "doc.text", "meta.text"):
        assert documents(path, text_field=name) == ["one", "zwölf"], name
    refusals = {
        "doc": r"has parts; name one, as in data\.text_field=doc\.text",
        "words": "holds lists; name one that holds text",
        "number": "holds INT64, not text",
        "body": r"has no column data\.text_field=body; it has bytes",
    }
    for name, refusal in refusals.items():
        with pytest.raises(FolioError, match=refusal):
            documents(path, text_field=name)


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_answered_with_the_command_that_makes_lines_of_it(indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "my docs.json"
    path.write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=indent))
    with pytest.raises(FolioError, match=r"is one JSON array, .*: (jq .*)") as error:
        documents(path)
    if shutil.which("jq"):
        subprocess.run(str(error.value).rpartition(": ")[2], shell=True, check=True)
        assert documents(tmp_path / "my docs.jsonl") == ["one", "two"]


def test_a_long_window_is_answered_with_the_command_that_repacks(tmp_path: Path) -> None:
    path = tmp_path / "my docs.txt.zst"
    # A frame header that declares a window of 2 GiB, and a block of five bytes.
    path.write_bytes(bytes.fromhex("28b52ffd00a8290000") + b"hello")
    with pytest.raises(
        FolioError, match=r"is not damaged, but was packed with zstd --long, .*: (zstd -dc .*)"
    ) as error:
        documents(path)
    if shutil.which("zstd"):
        subprocess.run(str(error.value).rpartition(": ")[2], shell=True, check=True)
        assert documents(path) == ["hello"]


def test_a_byte_order_mark_is_no_part_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(UTF8_BOM + b"one<|>two")
    (tmp_path / "b.txt.zst").write_bytes(zstd.compress(UTF8_BOM + b"one"))
    (tmp_path / "c.jsonl").write_bytes(UTF8_BOM + b'{"text": "one"}')
    assert documents(tmp_path / "a.txt", document_separator="<|>") == ["one", "two"]
    assert documents(tmp_path / "b.txt.zst") == ["one"]
    assert documents(tmp_path / "c.jsonl") == ["one"]


@pytest.mark.parametrize(("separator", "is_warned"), [("<|end|>", False), ("<|End|>", True), (r"\n---\n", True)])
def test_a_separator_that_occurs_nowhere_is_a_warning(separator: str, is_warned: bool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|end|>two")
    create(tmp_path, "b.txt", "c.txt")
    lines: list[str] = []
    corpus = TextFiles(path=str(tmp_path / "*.txt"), val_fraction=0.1, shard_tokens=500, document_separator=separator)
    corpus.prepare(choose_tokenizer("byte"), tmp_path / "out", lines.append)
    warnings = [line for line in lines if line.startswith("warning: data.document_separator=")]
    assert len(warnings) == is_warned
    for warning in warnings:
        assert "the corpus has 3 documents" in warning
        assert ("in the shell" in warning) == (r"\n" in separator)


def test_a_part_with_special_characters_is_answered_with_words_that_hydra_reads() -> None:
    parser = OverridesParser.create()
    with pytest.raises(OverrideParseException) as error:
        parser.parse_overrides(['data.parts={"my (1).txt": 0.5}'])
    hint = explain_hydra_error(error.value).rpartition("under a name: ")[2]
    parts = parser.parse_override(shlex.split(hint)[0]).value()
    assert {"weight": 0.5, "name": "text_file"}.items() <= {
        str(key): value for key, value in parts["mine"].items()
    }.items()
