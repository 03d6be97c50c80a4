"""What is refused leaves nothing behind: no folder, no lock, no half of a corpus."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folio.cli.compose import composed, load_config
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.corpora.text_files import TextFiles
from folio.data.corpora.workers import HelperKilledError, Workers
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.runs.folders import list_checkpoints
from folio.runtime.console import LogFile, log
from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, remove_if_empty, remove_lock
from folio.training.assembly import check_initial_weights

CONF = Path(__file__).parents[2] / "conf"
CHAR = TokenizerChoice(CharTokenizer, "char")
SIZES: dict[str, Any] = {"val_fraction": 0.1, "shard_tokens": 500}


@pytest.mark.parametrize("content", [b"", b" \n", b"\0", b"\xff\xfe\0", b"caf\xe9", None])
def test_documents_that_are_refused_leave_no_folder(content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    if content is not None:
        (tmp_path / "texts" / "a.txt").write_bytes(content)
    said: list[str] = []
    with pytest.raises(FolioError):
        TextFiles(path=str(tmp_path / "texts"), **SIZES).prepare(CHAR, tmp_path / "data", said.append)
    assert not (tmp_path / "data").exists()
    assert content is not None or said == []  # not even "Preparing ..." if there is nothing to prepare


def test_the_work_of_a_helper_that_was_killed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise HelperKilledError("killed")

    (tmp_path / "a.txt").write_text("to be or not to be")
    monkeypatch.setattr(Workers, "map", killed)
    with pytest.raises(HelperKilledError):
        TextFiles(path=str(tmp_path / "a.txt"), **SIZES).prepare(CHAR, tmp_path / "data", print)
    assert list((tmp_path / "data").rglob("unfinished"))


def test_a_lock_that_was_removed_while_a_process_waited_for_it_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock, waits = tmp_path / ".a.lock", fcntl.flock, [True]

    def flock_after_removal(descriptor: int, operation: int) -> None:
        if waits and waits.pop():
            lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with exclusive_lock(tmp_path / "a"):
        assert lock.exists()
        remove_lock(tmp_path / "a")
    assert not lock.exists()


def test_folders_that_an_error_finds_empty_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "work").touch()
    with pytest.raises(KeyError), remove_if_empty(tmp_path / "a" / "b", tmp_path / "a", tmp_path / "c"):
        raise KeyError
    assert os.listdir(tmp_path) == ["c"]


def test_a_positional_encoding_without_a_class_is_refused_before_torch(tmp_path: Path) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    text = (conf / "positional_encoding" / "alibi.yaml").read_text().replace("alibi", "spiral")
    (conf / "positional_encoding" / "spiral.yaml").write_text(text)
    with (
        composed(["positional_encoding=spiral"], conf) as cfg,
        pytest.raises(ConfigError, match=r"^positional_encoding=spiral: .*spiral.yaml has no class .*positional.py"),
    ):
        load_config(cfg)


def test_weights_that_no_run_could_start_with_are_refused_before_its_folder(
    compose: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = compose("model=debug")
    check_initial_weights(config)
    with pytest.raises(ConfigError, match=rf"^init_from={tmp_path}: .*config.json"):
        check_initial_weights(config.model_copy(update={"init_from": str(tmp_path)}))


def test_a_folder_that_cannot_be_listed_is_not_one_without_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    assert list_checkpoints(tmp_path) == []
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError, match="checkpoints"):
        list_checkpoints(tmp_path)


def test_a_log_that_cannot_be_opened_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = LogFile(tmp_path / "none" / "train.log", delay=True)
    for _ in range(2):
        file.emit(log.makeRecord("folio", 20, "", 0, "text", (), None))
    assert capsys.readouterr().out.count("cannot be written") == 1
