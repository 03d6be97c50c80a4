"""Prepared corpora, run folders and reports from strangers may hold FIFOs, devices and links in place of files."""

import ast
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from folio.config.tokenizer import choose_tokenizer, read_tokenizer_file
from folio.data.batches import lines
from folio.data.batches.lines import LineFiles, Lines
from folio.data.corpora.prepared_folder import PreparedFolder
from folio.data.corpora.single_text import TextFile
from folio.data.corpora.staging import Staging
from folio.data.corpora.tasks import DOCUMENT
from folio.data.corpora.text_files import TextFiles
from folio.report.reading import read_folders
from folio.runs.folders import find_resumable_run, read_status
from folio.runs.requeue import requeued_run
from folio.runs.rewind import rewind
from folio.runtime.errors import FolioError
from folio.runtime.files import check_writable, exclusive_lock

SOURCES = Path(__file__).parents[2] / "src" / "folio"
CHAR = choose_tokenizer("char")
TEXT = "The quality of mercy is not strain'd.\n" * 40

REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


def replace(path: Path, kind: str) -> None:
    assert path.is_file()
    path.unlink()
    REPLACEMENTS[kind](path)


def prepared_text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return TextFile(tmp_path / "text.txt").prepare(CHAR, tmp_path / "data", lambda _: None).folder


def prepared_documents(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps({"text": f"{n}: {TEXT}"}) + "\n" for n in range(9)))
    source = TextFiles(path=str(tmp_path / "in"), val_fraction=0.3, shard_tokens=5000)
    return source.prepare(CHAR, tmp_path / "data", lambda _: None).folder


@pytest.mark.parametrize("kind", REPLACEMENTS)
@pytest.mark.parametrize("make", [prepared_text, prepared_documents])
def test_a_prepared_folder_with_anything_but_files_is_refused_at_once(
    make: Callable[[Path], Path], kind: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert {"tokenizer.json"} < set(names)
    for name in names:
        content = (folder / name).read_bytes()
        replace(folder / name, kind)
        with pytest.raises(FolioError, match=r"^data.path=.*") as error:
            PreparedFolder(folder).prepare(CHAR, tmp_path / "data", lambda _: None)
        assert "\n" not in str(error.value)
        (folder / name).rmdir() if kind == "folder" else (folder / name).unlink()
        (folder / name).write_bytes(content)
    PreparedFolder(folder).prepare(CHAR, tmp_path / "data", lambda _: None)


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_a_run_folder_with_anything_but_files_is_refused_or_read_without_them(
    kind: str, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    good = write_run("runs/good", curve=(2.0, 1.0), sample="text")
    bad = write_run("runs/bad", curve=(2.0, 1.0), sample="text")
    (bad / "tokenizer.json").write_text("{}")
    (bad / "overrides.json").write_text("[]")
    for name in ("tokenizer.json", "samples.md", "overrides.json", "csv/metrics.csv", "metrics.json"):
        replace(bad / name, kind)
        warnings: list[str] = []
        runs, _ = read_folders([tmp_path / "runs"], warnings.append)
        assert good in [run.folder for run in runs]
    assert read_status(bad) is None
    with pytest.raises(FolioError):
        read_tokenizer_file(bad / "tokenizer.json")
    with pytest.raises(FolioError, match=kind):
        rewind(bad, 10)


def test_a_fifo_in_a_run_folder_is_not_opened_to_write(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "checkpoints" / "last.ckpt").touch()
    assert find_resumable_run(str(run), tmp_path) == run
    os.mkfifo(run / "train.log")
    with pytest.raises(FolioError, match=r"train\.log is a FIFO, and would be written to; remove it$"):
        find_resumable_run(str(run), tmp_path)


def test_the_run_of_a_requeued_job_is_checked_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "7").write_text(str(tmp_path / "run"))
    assert requeued_run(tmp_path) == tmp_path / "run"
    (tmp_path / "run" / "samples.md").symlink_to("/etc/hostname")
    with pytest.raises(FolioError, match="is a link to /etc/hostname"):
        requeued_run(tmp_path)
    replace(tmp_path / ".jobs" / "7", "FIFO")
    with pytest.raises(FolioError, match="a FIFO"):
        requeued_run(tmp_path)


@pytest.mark.parametrize("name", ["unfinished", "unfinished/tokens", "unfinished/roles"])
def test_a_link_out_of_a_prepared_folder_is_never_written_to(name: str, tmp_path: Path) -> None:
    folder = prepared_documents(tmp_path)
    victim = tmp_path / "victim"
    if name == "unfinished":
        victim.mkdir()
        (victim / "tokens").write_text("years of work")
    else:
        victim.write_text("years of work")
        (folder / "unfinished").mkdir()
    (folder / name).symlink_to(victim)
    (folder / "corpus.json").unlink()
    with pytest.raises(FolioError, match=r"is a link to .*victim, outside"):
        TextFiles(path=str(tmp_path / "in"), val_fraction=0.3, shard_tokens=5000).prepare(
            CHAR, tmp_path / "data", lambda _: None
        )
    assert (victim / "tokens" if victim.is_dir() else victim).read_text() == "years of work"


def test_a_lock_creates_no_file_through_a_link_and_waits_for_no_fifo(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "good"):
        pass
    (tmp_path / ".a.lock").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / ".b.lock")
    with pytest.raises(OSError, match=r"a\.lock"), exclusive_lock(tmp_path / "a"):
        pass
    with exclusive_lock(tmp_path / "b"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_in_which_files_vanish_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: iter([self / "gone"]))
    check_writable(tmp_path)


JOURNAL = {
    "plan": "p",
    "position": {"file": 0, "end": 5, "next": 2},
    "tokens_bytes": 4,
    "documents_bytes": 4,
    "n_read": 5,
    "n_separators": 0,
    "row_bytes": DOCUMENT.itemsize,
}


@pytest.mark.parametrize(
    "change",
    [{"tokens_bytes": -4}, {"tokens_bytes": 4.0}, {"n_read": "5"}, {"n_read": 10**400}, {"plan": ["p"]},
     {"position": {"file": "0", "end": 5, "next": 2}}, {"position": 5}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_a_false_journal_is_not_resumed_from(change: dict[str, object], tmp_path: Path) -> None:
    for name in ("tokens", "documents"):
        (tmp_path / name).write_bytes(b"1234")
    staging = Staging(tmp_path, "p")
    (tmp_path / "journal.json").write_text(json.dumps(JOURNAL))
    assert staging.read_journal().n_read == 5
    (tmp_path / "journal.json").write_text(json.dumps(JOURNAL | change))
    assert staging.read_journal().n_read == 0


@pytest.mark.parametrize(("starts", "lengths"), [([-1], [2]), ([0], [0]), ([0], [2**32 - 1]), ([99], [2])])
def test_false_line_files_are_refused_before_memory_is_allocated(
    starts: list[int], lengths: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_TOKENS_IN_MEMORY", 10)
    tokens, newlines = np.full(100, 7, np.uint16), np.array([10])
    files = LineFiles(tmp_path / "lines")
    assert Lines(tokens, newlines, 8, files=files).gather(np.array([0]))[1].tolist() == [8]
    np.array(starts, "<i8").tofile(files.starts)
    np.array(lengths, "<u4").tofile(files.lengths)
    files.summary.write_text('{"n_lines": 1}')
    with pytest.raises(FolioError, match="are damaged; remove these files"):
        Lines(tokens, newlines, 8, files=files).gather(np.array([0]))


OPENERS = {
    "open", "os.open", "io.open", "np.memmap", "np.load", "np.fromfile", "MappedTokens", "torch.load", "safe_open",
    "load_file", "zipfile.ZipFile", "tarfile.open", "gzip.open", "EventAccumulator", "parquet.ParquetFile",
    "parquet.read_table", "datasets.load_dataset", "json.load", "json.loads", "yaml.load", "yaml.safe_load",
    "yaml.compose", "yaml.parse", "csv.reader", "OmegaConf.load",
}  # fmt: skip
"""Functions that open a file for reading, or parse what is in one."""

METHODS = {"read_text", "read_bytes"}
"""Methods of Path that read."""

DIRECT_READERS = {
    "runtime.untrusted": "is the reader",
    "runtime.plain_yaml": "parses texts that the reader has read",
    "runtime.torch_files": "opens what has passed its check",
    "runtime.files": "writes new files, and locks folders",
    "runtime.memory": "a file of the kernel",
    "runtime.streams": "/dev/null",
    "distributed.environment": "/dev/null",
    "report.page": "files of this package",
    "export.page.page": "files of this package",
    "export.gguf_tokenizer": "parses a text of its own",
    "data.corpora.tiny_shakespeare": "a file of this package",
    "data.assets": "a wheel whose sha256 was checked",
    "data.tokenizers.tiktoken_bpe": "a file whose sha256 was checked",
    "data.tokenizers.state": "parses bytes that the reader has read, of which no number is allowed",
    "data.token_file": "maps what the reader has found to be a regular file",
    "data.batches.lines": "maps what the reader has found to be regular files",
    "data.corpora.text": "a text in pieces, after the check for a regular file",
    "data.corpora.documents": "documents in blocks, after the check for regular files",
    "data.corpora.hugging_face": "the cache of the library datasets",
    "data.corpora.mixture": "parses a state of its own",
    "data.corpora.shards": "files of this preparation, in a folder that check_writable has passed",
    "data.corpora.token_formats": "maps the lengths in an index that the reader has opened",
    "data.corpora.split_documents": "files of this preparation, in a folder that check_writable has passed",
    "data.corpora.staging": "files of this preparation, in a folder that check_writable has passed",
    "report.joint_law": "parses CSV that the reader has read",
    "figures.curves": "parses CSV that the reader has opened",
    "models.formats.folder": "safetensors that the reader has found to be regular files",
    "cli.config_files": "parses texts that the reader has read",
    "cli.config_page": "files of this checkout",
    "cli.compose": "a file of this package",
    "sweeps.search": "parses a text of its own",
}
"""Modules that open or parse files by other means than `folio.runtime.untrusted`, and why they may."""


def direct_reads(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        if function in OPENERS or is_method:
            yield f"{function} in line {node.lineno}"


def test_files_are_read_by_the_one_reader_of_untrusted_files_alone() -> None:
    """A new module that opens files takes `folio.runtime.untrusted`, or a line in the table above."""
    found = {}
    for path in [*SOURCES.rglob("*.py"), *SOURCES.parents[1].glob("scripts/*.py"), SOURCES.parents[1] / "train.py"]:
        if reads := list(direct_reads(path)):
            is_module = path.is_relative_to(SOURCES)
            name = ".".join(path.relative_to(SOURCES).with_suffix("").parts) if is_module else path.name
            found[name] = reads
    assert found.keys() - DIRECT_READERS == set(), {name: found[name] for name in found.keys() - DIRECT_READERS}
    assert DIRECT_READERS.keys() - found == set(), "these read no file directly any more"
