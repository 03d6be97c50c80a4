"""A text of the user: prepared once, and again when it has changed."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import TINY, TINY_TEXT, Workspace, choose

PREPARE = ("scripts/prepare_data.py", "tokenizer=char", "data=text_file", "data.path=tiny.txt")


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.startswith(".")}


def test_a_text_is_prepared_once_and_again_when_it_changes(workspace: Workspace) -> None:
    assert "Prepared" in workspace.must(*PREPARE)
    prepared = workspace.folder / "data" / "text_file"
    before = times(prepared)
    assert before

    assert "Prepar" not in workspace.must("train.py", *TINY, "dry_run=true")
    assert times(prepared) == before

    (workspace.folder / "tiny.txt").write_text(TINY_TEXT + "Zounds!\n")
    output = workspace.must(*PREPARE)
    assert "again: the text has changed" in output
    assert f"{int(0.9 * len(TINY_TEXT + 'Zounds!' + chr(10))):,} training" in output
    assert times(prepared).keys() == before.keys()
    assert "Prepar" not in workspace.must(*PREPARE)


def test_foreign_token_files_train_to_the_bits_of_the_text_that_they_were_made_from(workspace: Workspace) -> None:
    """In the format of llm.c, and resumed after they have moved."""
    recipe = choose(TINY, "tokenizer=byte", "schedule=constant")
    on_text = workspace.train(*recipe)
    (prepared,) = (workspace.folder / "data" / "text_file").glob("*/byte")
    shards = workspace.folder / "shards"
    shards.mkdir()
    for split in ("train", "val"):
        ids = (prepared / f"{split}.bin").read_bytes()
        header = struct.pack("<3i", 20240520, 1, len(ids) // 2).ljust(1024, b"\0")
        (shards / f"tiny_{split}_000000.bin").write_bytes(header + ids)
    on_files = workspace.train(*choose(recipe, "data=token_files", "data.path=shards"), "training.max_steps=10")
    shards.rename(workspace.folder / "moved")
    workspace.must("train.py", f"resume={on_files.folder}", "data.path=moved", "training.max_steps=20")
    assert on_files.equals(on_text)
    assert on_files.metrics["val/bits_per_byte"] == on_text.metrics["val/bits_per_byte"]


def test_a_run_on_a_text_that_has_changed_is_not_resumed(workspace: Workspace) -> None:
    run = workspace.train(*TINY)
    before = run.weights()
    (workspace.folder / "tiny.txt").write_text(TINY_TEXT.replace("ROMEO", "Zounds"))
    finished = workspace.run("train.py", f"resume={run.folder}", "training.max_steps=40")
    assert "the text is not the one that the run started with" in finished.error_line()
    assert all(value.equal(before[name]) for name, value in run.weights().items())


def test_a_text_can_be_cut_by_a_byte_pair_encoding(workspace: Workspace) -> None:
    run = workspace.train(*choose(TINY, "tokenizer=gpt2", "logger=none"))
    assert run.config["model"]["vocab_size"] == 50_257
    assert run.metrics["val/bits_per_byte"] < run.metrics["val/loss_nats"], "a token spans several bytes"


def create_file(kind: str, path: Path) -> None:
    """Create a file of that kind."""
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a gigabyte of nothing":
        path.touch()
        os.truncate(path, 2**30)
    else:
        path.write_bytes(TEXTS[kind])


TEXTS = {
    "empty": b"",
    "one character": b"x",
    "binary": bytes(range(256)) * 10,
    "wrong bytes": b"good text\n" * 100 + b"\xff",
    "a cut character": "never 木".encode()[:-1],
    "a NUL": b"To be\0or not",
}
REFUSALS = {
    "a folder": "is not a regular file",
    "a pipe": "is not a regular file",
    "a device": "is not a regular file",
    "a gigabyte of nothing": "NUL byte at byte offset 0",
    "empty": "is empty",
    "one character": "train split of a 1 character text is empty",
    "binary": "NUL byte at byte offset 0",
    "wrong bytes": "not valid UTF-8 at byte offset 1000 ",
    "a cut character": "not valid UTF-8 at byte offset 6 ",
    "a NUL": "NUL byte at byte offset 5",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_no_text_is_one_line_and_leaves_nothing(kind: str, workspace: Workspace) -> None:
    create_file(kind, workspace.folder / "mine.txt")
    line = workspace.run(*PREPARE[:-1], "data.path=mine.txt").error_line()
    assert REFUSALS[kind] in line
    assert not [path for path in workspace.files() if path.suffix in (".bin", ".json", ".tmp")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_text_that_may_not_be_read_is_one_line(workspace: Workspace) -> None:
    """Root may read everything, so another user tries."""
    path = workspace.folder / "mine.txt"
    path.write_text(TINY_TEXT)
    path.chmod(0)
    code = (
        "import os; from pathlib import Path; from folio.data.corpora.text import check_text_file\n"
        f"file = os.open({str(path)!r}, os.O_PATH); os.setuid(65534)\n"
        "check_text_file(Path(f'/proc/self/fd/{file}'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be read: Permission denied; fix its permissions" in done.stderr


def test_a_text_of_windows_is_prepared_as_it_is(workspace: Workspace) -> None:
    text = "\N{ZERO WIDTH NO-BREAK SPACE}" + TINY_TEXT.replace("\n", "\r\n")
    (workspace.folder / "windows.txt").write_bytes(text.encode())
    workspace.must(*PREPARE[:-1], "data.path=windows.txt")
    (state,) = (workspace.folder / "data" / "text_file").glob("windows-*/char/tokenizer.json")
    characters = json.loads(state.read_text())["characters"]
    assert "\r" in characters
    assert "\N{ZERO WIDTH NO-BREAK SPACE}" not in characters, "a byte order mark is no symbol"
