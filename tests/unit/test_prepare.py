"""A text is prepared once, prepared again when it changes, and never left half-written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folio.config.tokenizer import TOKENIZERS, choose_tokenizer
from folio.data.corpora import preparation
from folio.data.corpora import text as texts
from folio.data.corpora.single_text import NamedText, TextFile
from folio.data.prepared import PreparedData
from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.runtime import files
from folio.runtime.errors import FolioError

TEXT = "The quality of mercy is not strain'd,\r\nIt droppeth as the gentle rain from heaven.\n" * 20


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "mercy.txt"
    path.write_bytes(TEXT.encode())
    return path


class Preparation:
    """Prepares one text with one tokenizer in one folder, and keeps what was logged last."""

    def __init__(self, path: Path, tokenizer: str, data_dir: Path, max_vocab_size: int | None = None) -> None:
        self.choice = choose_tokenizer(tokenizer, max_vocab_size=max_vocab_size)
        self.path, self.data_dir = path, data_dir
        self.logged: list[str] = []

    def __call__(self) -> PreparedData:
        self.logged = []
        return TextFile(self.path).prepare(self.choice, self.data_dir, self.logged.append)


@pytest.fixture
def mercy(text_file: Path, tmp_path: Path) -> Preparation:
    return Preparation(text_file, "char", tmp_path / "data")


def test_the_splits_are_the_text_byte_for_byte(mercy: Preparation) -> None:
    data = mercy()
    cut = int(0.9 * len(TEXT))
    train, val = (data.tokenizer.decode(file.tokens.tolist()) for file in (data.train, data.val))
    assert (train, val) == (TEXT[:cut], TEXT[cut:])
    assert data.train.info.n_bytes + data.val.info.n_bytes == len(TEXT)


def test_words_are_learned_from_the_training_split_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b " * 9 + "c d ")
    words = Preparation(tmp_path / "a.txt", "word", tmp_path / "data")
    data = words()
    assert data.tokenizer.state()["units"] == ["a", "b"]
    assert data.tokenizer.decode(data.val.tokens.tolist()) == "<unk> <unk> "
    assert (data.train.info.n_unknown, data.train.info.spelling_bits) == (0, 0.0)
    assert data.val.info.n_unknown == 2
    assert data.val.info.spelling_bits == data.tokenizer.unknown("c d ").spelling_bits > 0
    assert words.logged[2] == "word: 5 symbols; unknown are 0.0 % of the training and 66.7 % of the validation tokens"


def test_lossless_tokenizers_report_nothing_unknown(text_file: Path, tmp_path: Path) -> None:
    for tokenizer in ("byte", "char"):
        preparation = Preparation(text_file, tokenizer, tmp_path / "data")
        info = preparation().val.info
        assert (info.n_unknown, info.spelling_bits) == (0, 0.0)
        assert len(preparation.logged) == 2


def test_vocabularies_of_two_sizes_lie_side_by_side(text_file: Path, tmp_path: Path) -> None:
    prepared = [Preparation(text_file, "word", tmp_path / "data", size)() for size in (None, 8, 9)]
    assert [data.folder.name for data in prepared] == ["word", "word-8", "word-9"]
    assert [data.tokenizer.vocab_size for data in prepared[1:]] == [8, 9]


def test_a_vocabulary_above_the_limit_is_not_reused(text_file: Path, tmp_path: Path) -> None:
    nine, eight = (Preparation(text_file, "word", tmp_path / "data", size) for size in (9, 8))
    folder = nine().folder
    folder.rename(folder.with_name("word-8"))
    assert eight().tokenizer.vocab_size == 8
    assert "another tokenizer" in eight.logged[0]


def make_older(folder: Path) -> None:
    """Turn the sidecars into those of the first version of Folio."""
    for split in ("train", "val"):
        sidecar = folder / f"{split}.json"
        fields = json.loads(sidecar.read_text())
        del fields["n_unknown"], fields["spelling_bits"]
        sidecar.write_text(json.dumps(fields | {"format": 1}))


def test_bytes_and_characters_are_counted_separately(tmp_path: Path) -> None:
    text = "\N{EURO SIGN}" + "é" * 9
    (tmp_path / "e.txt").write_bytes(text.encode())
    data = Preparation(tmp_path / "e.txt", "char", tmp_path / "data")()
    assert (data.train.info.n_tokens, data.train.info.n_bytes) == (9, 3 + 16)
    assert (data.val.info.n_tokens, data.val.info.n_bytes) == (1, 2)
    assert data.tokenizer.vocab_size == 2


def test_prepared_data_is_reused_without_a_log_line_or_a_write(
    mercy: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mercy()
    assert len(mercy.logged) == 2
    monkeypatch.setattr(preparation, "exclusive_lock", None)
    monkeypatch.setattr(TokenizerChoice, "build", None)
    second = mercy()
    assert mercy.logged == []
    assert second.train.info == first.train.info
    assert second.tokenizer.state() == first.tokenizer.state()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def change_source(folder: Path) -> None:
    path = folder.parents[3] / "mercy.txt"
    path.write_text(TEXT + "More.")


def swap_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"characters": "abc", "name": "char"}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_source, "the text has changed"),
        (lambda folder: cut(folder / "train.bin"), "train.bin has"),
        (lambda folder: cut(folder / "val.json"), "val.bin has a sidecar"),
        (lambda folder: cut(folder / "tokenizer.json"), "tokenizer.json is damaged"),
        (lambda folder: (folder / "val.bin").unlink(), "val.bin is missing"),
        (lambda folder: (folder / "val.json").unlink(), "val.bin has no sidecar"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (swap_tokenizer, "another tokenizer"),
        (make_older, "train.json that is not of format 2"),
    ],
)
def test_a_change_is_reported_and_the_text_prepared_again(
    damage: Callable[[Path], None], reason: str, mercy: Preparation
) -> None:
    damage(mercy().folder)
    repaired = mercy()
    assert reason in mercy.logged[0]
    assert "\n" not in mercy.logged[0]
    whole = repaired.tokenizer.decode([*repaired.train.tokens.tolist(), *repaired.val.tokens.tolist()])
    assert whole.encode() == mercy.path.read_bytes()
    mercy()
    assert mercy.logged == []


@pytest.mark.parametrize("n_written", range(5))
def test_a_crash_between_any_two_files_is_noticed(
    n_written: int, mercy: Preparation, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mercy()
    text_file.write_bytes(TEXT.upper().encode())
    replace, n_calls = os.replace, 0

    def replace_until_crash(source: Path, target: Path) -> None:
        nonlocal n_calls
        if n_calls == n_written:
            raise KeyboardInterrupt
        n_calls += 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace_until_crash)
        with pytest.raises(KeyboardInterrupt):
            mercy()
    data = mercy()
    assert "again" in mercy.logged[0]
    assert data.tokenizer.decode(data.val.tokens.tolist()) == TEXT.upper()[int(0.9 * len(TEXT)) :]


def test_two_processes_prepare_once(text_file: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from folio.config.tokenizer import choose_tokenizer\n"
        "from folio.data.corpora.single_text import TextFile\n"
        "sys.stdin.read()\n"
        "data = TextFile(sys.argv[1]).prepare(choose_tokenizer('char'), Path(sys.argv[2]), print)\n"
        "print(data.train.info.tokens_sha256)"
    )
    command = [sys.executable, "-c", program, str(text_file), str(tmp_path / "data")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    outputs = []
    for process in processes:
        with process:
            assert process.stdout is not None
            outputs.append(process.stdout.read().splitlines())
        assert process.returncode == 0
    assert sorted(len(lines) for lines in outputs) == [1, 3]
    assert outputs[0][-1] == outputs[1][-1]


def test_texts_of_one_name_and_tokenizers_have_folders_of_their_own(tmp_path: Path, data_dir: Path) -> None:
    folders = set()
    for place in ("a", "b"):
        path = tmp_path / place / "my.txt"
        path.parent.mkdir()
        path.write_text(TEXT)
        for tokenizer in ("char", "gpt2"):
            folders.add(Preparation(path, tokenizer, data_dir)().folder)
    assert len(folders) == 4


def test_a_path_is_the_same_text_however_it_is_written(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = Preparation(text_file, "char", tmp_path / "data")()
    assert Preparation(Path("mercy.txt"), "char", tmp_path / "data")().folder == absolute.folder


@pytest.mark.parametrize(("text", "split"), [("a", "train"), ("", "")])
def test_a_text_too_short_for_two_splits_is_refused(text: str, split: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(FolioError, match=f"{split} split|is empty"):
        Preparation(tmp_path / "short.txt", "char", tmp_path / "data")()


def test_an_unknown_name_of_a_text_is_refused() -> None:
    with pytest.raises(FolioError, match=r"data=wikipedia is unknown; choose one of tiny_shakespeare, .*, text_file"):
        NamedText("wikipedia")


def test_a_data_folder_that_cannot_be_made_is_named_with_its_key(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(FolioError, match=r"paths\.data_dir="):
        Preparation(text_file, "char", tmp_path / "data")()


def test_importing_the_preparation_leaves_torch_out() -> None:
    program = "import sys, folio.data.corpora.single_text; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "huggingface"])  # it has no one vocabulary
def test_a_text_in_pieces_becomes_the_tokens_of_the_whole(
    name: str, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXT + "\N{ROSE}né,  15\t(O!)\n\n\n  " * 99 + "中文。\n好\n" * 50
    (tmp_path / "long.txt").write_bytes(text.encode())
    monkeypatch.setattr(texts, "CHUNK_BYTES", 101)
    data = Preparation(tmp_path / "long.txt", name, data_dir)()
    cut = int(0.9 * len(text))
    for file, part in ((data.train, text[:cut]), (data.val, text[cut:])):
        assert file.tokens.tolist() == data.tokenizer.encode(part).tolist()
        assert file.info.n_bytes == len(part.encode())
        unknown = data.tokenizer.unknown(part)
        assert file.info.n_unknown == unknown.n_tokens
        assert file.info.spelling_bits == pytest.approx(unknown.spelling_bits)


def test_the_speed_is_logged_at_the_end(mercy: Preparation) -> None:
    mercy()
    assert re.search(r": 0\.0 MB in [0-9.]+ s, [0-9.]+ MB/s$", mercy.logged[-1])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError, MemoryError])
def test_an_interruption_in_the_middle_of_a_text_leaves_no_partial_file(
    stop: type[BaseException], mercy: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(tokenizer: CharTokenizer, text: str) -> np.ndarray:
        if text.startswith("rain"):
            raise stop
        return encode(tokenizer, text)

    encode = CharTokenizer.encode
    monkeypatch.setattr(texts, "CHUNK_BYTES", TEXT.index("rain"))
    with monkeypatch.context() as patch:
        patch.setattr(CharTokenizer, "encode", stopping)
        with pytest.raises(FolioError if stop is OSError else stop):
            mercy()
    (folder,) = mercy.data_dir.glob("text_file/*/char")
    assert {path.name for path in folder.iterdir()} == {".prepared.lock", "tokenizer.json"}
    data = mercy()
    assert data.tokenizer.decode(data.train.tokens.tolist()) == TEXT[: int(0.9 * len(TEXT))]


def test_files_of_a_killed_process_are_removed(mercy: Preparation) -> None:
    folder = mercy().folder
    (folder / "val.json").unlink()
    (folder / ".val.bin.0123.tmp").write_bytes(b"half")
    mercy()
    assert {path.name for path in folder.glob(".*")} == {".prepared.lock"}


def test_a_text_that_changes_while_it_is_prepared_is_refused(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_and_change_text(choice: TokenizerChoice, *arguments: Any) -> Tokenizer:
        text_file.write_bytes(TEXT.upper().encode())
        return build(choice, *arguments)

    build = TokenizerChoice.build
    monkeypatch.setattr(TokenizerChoice, "build", build_and_change_text)
    with pytest.raises(FolioError, match="changed while it was being prepared"):
        Preparation(text_file, "byte", tmp_path / "data")()
