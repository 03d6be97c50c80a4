"""Whatever the environment, memory and disks of the machine are, one line says what is wrong with them."""

import errno
import importlib
import os
import resource
from pathlib import Path

import pytest
import torch

from folio.cli.errors import describe_error
from folio.distributed.devices import is_out_of_memory
from folio.runtime import environment
from folio.runtime.environment import check_environment, correct_environment
from folio.runtime.errors import FolioError, explain_machine_error, explain_os_error
from folio.runtime.files import atomic_writer, check_output_folder, make_folder

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.mark.parametrize("name", environment.INTEGERS)
@pytest.mark.parametrize("value", ["x", "", "-1", "1.5", "٣", "9" * 5000, "a\x1b[31m\nb"])
def test_a_variable_of_a_launcher_that_is_no_integer_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(FolioError, match=rf"^{name}=.*must be an integer.*unset {name}") as caught:
        check_environment({name: value})
    assert str(caught.value).isprintable()
    check_environment({name: "0"})
    check_environment({})


def test_variables_that_would_break_a_promise_are_corrected() -> None:
    variables = dict.fromkeys(environment.IGNORED, "1") | {
        "MPLBACKEND": "nope",
        "COLUMNS": "0",
        "HOME": "",
        "LINES": "7",
    }
    correct_environment(variables)
    assert variables == {"MPLBACKEND": "agg", "LINES": "7"}


def test_docs_name_every_variable_that_is_corrected_or_refused() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in (*environment.IGNORED, *environment.INTEGERS) if f"`{name}=" not in page] == []


def test_a_current_folder_that_was_removed_is_named_as_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FolioError, match="the current folder cannot be used"):
        check_environment({})


@pytest.mark.parametrize(
    "raises",
    ["ValueError('no such log:\\nall, none')", "MemoryError()", "SystemError('no exception set')", "ImportError('x')"],
)
def test_a_library_that_cannot_be_imported_is_named_in_one_line(
    raises: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text(f"raise {raises}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BROKEN_LIBRARY_LOGS", "foo")
    with pytest.raises((ValueError, MemoryError, SystemError, ImportError)) as caught:
        importlib.import_module("broken_library")
    message = describe_error(caught.value) if isinstance(caught.value, Exception) else None
    assert message is not None
    assert message.startswith(f"cannot import broken_library ({raises.partition('(')[0]}")
    assert "BROKEN_LIBRARY_LOGS" in message
    assert "\n" not in message


def test_a_bug_of_our_own_keeps_its_traceback() -> None:
    for error in (ValueError("x"), KeyError("x"), RuntimeError("shapes do not match"), ImportError("folio.nothing")):
        assert explain_machine_error(error) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_anywhere_is_one_line(error: Exception) -> None:
    message = describe_error(error)
    assert message is not None
    assert message.startswith("out of memory")
    assert "ulimit -v" in message
    assert is_out_of_memory(error)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_an_allocation_that_numpy_and_torch_refuse_is_a_lack_of_memory() -> None:
    for allocate in (lambda: torch.empty(2**60, dtype=torch.int8), lambda: bytearray(2**62)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)


def test_too_many_open_files_give_the_limit() -> None:
    message = explain_os_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.txt"))
    assert message == (
        f"a.txt: Too many open files, of which the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} (ulimit -n)"
    )


def test_a_file_that_cannot_be_written_is_named_not_its_temporary_file(tmp_path: Path) -> None:
    def write(path: Path, problem: int) -> None:
        with atomic_writer(path) as file:
            file.write(b"half")
            raise OSError(problem, os.strerror(problem))

    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path / "a.json", errno.ENOSPC)
    assert caught.value.filename == str(tmp_path / "a.json")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        write(tmp_path / "file" / "a.json", errno.EIO)
    assert caught.value.filename == str(tmp_path / "file" / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("folder", ["file", "file/x", "/proc/x/y", "/dev/null", "dangling", "dangling/x", "a" * 300])
def test_an_output_folder_that_cannot_be_used_is_refused_before_the_work(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FolioError, match=r"^--output=.*; use another folder$"):
        check_output_folder(tmp_path / folder, "--output")
    assert sorted(tmp_path.iterdir()) == before
    for usable in (tmp_path, tmp_path / "new", tmp_path / "new" / "er"):
        check_output_folder(usable, "--output")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_whose_files_fail_is_removed_again_unless_it_was_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new" / "er", tmp_path / "old"):
        with pytest.raises(OSError, match="full"), make_folder(folder, "--output"):
            raise OSError(errno.ENOSPC, "full")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
