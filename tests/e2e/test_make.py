"""The targets of the Makefile. Those that install or train for minutes are only dry runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from workspace import ROOT

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")

TARGETS = (
    "help",
    "setup",
    "train",
    "test",
    "test-slow",
    "check",
    "format",
    "docs",
    "docs-serve",
    "schema",
    "page",
    "tensorboard",
    "bench",
    "soak",
    "clean",
)


REQUIREMENTS = ("tests/golden/transformers.txt", "tests/golden/companions.txt")


def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # Without the variables that an outer make passes to these tests.
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "ARGS")}
    command = [MAKE or "make", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout whose environment counts as installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", *REQUIREMENTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def test_help_lists_every_target_and_is_the_default(clone: Path) -> None:
    text = make(clone, "help").stdout
    assert re.findall(r"^  make ([a-z-]+) {2,}\S", text, re.MULTILINE) == list(TARGETS)
    assert make(clone).stdout == text


def test_every_target_runs_even_if_a_file_has_its_name(clone: Path) -> None:
    for name in TARGETS:
        (clone / name).touch()
    for name in set(TARGETS) - {"setup"}:
        assert make(clone, "--question", name).returncode == 1, name


def test_a_second_setup_does_nothing(clone: Path) -> None:
    assert make(clone, "--question", "setup").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in clone.rglob("*")}
    assert make(clone, "setup").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in clone.rglob("*")} == before


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt", "tests/golden/transformers.txt"])
def test_setup_runs_again_when_its_inputs_have_changed(file: str, clone: Path) -> None:
    stamp = (clone / ".venv" / ".installed").stat().st_mtime_ns
    os.utime(clone / file, ns=(stamp + 10**9, stamp + 10**9))
    assert make(clone, "--question", "setup").returncode == 1
    assert "pip install" in make(clone, "--dry-run", "train").stdout


def test_train_without_arguments_runs_the_quickstart(clone: Path) -> None:
    assert (
        make(clone, "--dry-run", "train").stdout.splitlines()[-1] == ".venv/bin/python train.py experiment=quickstart"
    )


def test_arguments_of_train_are_passed_on(clone: Path) -> None:
    done = make(clone, "--dry-run", "train", "ARGS=model=mini trainer=gpu").stdout
    assert done.splitlines()[-1] == ".venv/bin/python train.py model=mini trainer=gpu"


def test_tensorboard_shows_the_output_folder_of_conf_or_the_given_one(clone: Path) -> None:
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nprintf '# @package paths\\ndata_dir: data\\noutput_dir: /big disk/runs\\n'\n")
    python.chmod(0o755)
    for given, folder in ((), "/big disk/runs"), (("OUTPUT_DIR=my runs",), "my runs"):
        command = make(clone, "--dry-run", "tensorboard", *given).stdout.splitlines()[-1]
        assert command.strip() == f'.venv/bin/python scripts/board.py --logdir "{folder}"'


def test_an_old_python_is_refused_before_anything_is_created(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    old = clone / "old-python"
    old.write_text("#!/bin/sh\nexec python3 -c 'import sys; sys.version_info = (3, 10)\n'\"$2\"\n")
    old.chmod(0o755)
    refused = make(clone, "setup", f"PYTHON={old}")
    assert refused.returncode != 0
    assert "Python 3.11" in refused.stderr
    assert not (clone / ".venv").exists()


def test_a_clone_has_an_outputs_folder_whose_contents_git_ignores(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    for name in (".gitignore", "outputs/.gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "outputs" / "run").mkdir()
    (tmp_path / "outputs" / "run" / "metrics.json").touch()
    subprocess.run([git, "init", "--quiet"], cwd=tmp_path, check=True)
    status = [git, "status", "--porcelain", "--untracked-files=all"]
    seen = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert seen == ["?? .gitignore", "?? outputs/.gitignore"]
