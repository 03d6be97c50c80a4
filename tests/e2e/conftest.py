"""Fixtures of the end-to-end tests: real processes in a folder like a user's."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import chromium
from playwright.sync_api import Browser
from workspace import TINY_TEXT, Run, Workspace

from folio.data.assets import fetch
from folio.data.corpora import tiny_shakespeare
from folio.data.tokenizers.rank_files import ENCODINGS

# Kept from being imported by a program of the test's choice, and not as an ImportError, which could be caught.
SITECUSTOMIZE = """
import os, sys
from importlib.abc import MetaPathFinder

class ForbiddenImport(BaseException):
    pass

class Forbid(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["FORBIDDEN_IMPORTS"].split(","):
            raise ForbiddenImport(name)

sys.meta_path.insert(0, Forbid())
"""


@pytest.fixture(scope="session")
def make_workspace(assets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workspace]:
    """Makes workspaces that share one data folder, where the corpus is prepared once."""
    # Before any test: the first to need a download would see its progress where it expects silence.
    for asset in (tiny_shakespeare.ASSET, ENCODINGS["gpt2"].rank_file):
        fetch(asset, assets_dir)
    shared = tmp_path_factory.mktemp("shared")
    (shared / "assets").symlink_to(assets_dir.resolve(), target_is_directory=True)
    (shared / "tiny_shakespeare").mkdir()
    kept_out = ("FOLIO_", "HYDRA_", "SLURM_", "PYTHONPATH", "COLUMNS", "FORCE_COLOR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(kept_out)}
    environment |= {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}

    def make() -> Workspace:
        folder = tmp_path_factory.mktemp("workspace")
        (folder / "data").mkdir()
        for name in ("assets", "tiny_shakespeare"):
            (folder / "data" / name).symlink_to(shared / name, target_is_directory=True)
        (folder / "tiny.txt").write_text(TINY_TEXT)
        return Workspace(folder, environment)

    return make


@pytest.fixture
def workspace(make_workspace: Callable[[], Workspace]) -> Workspace:
    """A workspace of the test's own."""
    return make_workspace()


@pytest.fixture(scope="session")
def home(make_workspace: Callable[[], Workspace]) -> Workspace:
    """The workspace of `finished_run`. Tests look at it and do not change it."""
    return make_workspace()


@pytest.fixture(scope="session")
def finished_output(home: Workspace) -> str:
    """What the run of `finished_run` printed."""
    return home.must("train.py", "model=debug", "tokenizer=char", "trainer=cpu")


@pytest.fixture(scope="session")
def finished_run(home: Workspace, finished_output: str) -> Run:
    """A run of the smallest model on Tiny Shakespeare. Tests look at it and do not change it."""
    assert finished_output
    (folder,) = home.runs()
    return Run(folder)


@pytest.fixture(scope="session")
def forbid_imports(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Environment variables that make a process fail where it so much as looks for one of these packages.

    Not importing torch or lightning is what keeps an answer under two seconds; a test that measured the seconds
    would fail on a busy machine.
    """
    folder = tmp_path_factory.mktemp("forbid")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return lambda *packages: {"PYTHONPATH": str(folder), "FORBIDDEN_IMPORTS": ",".join(packages)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the tests of a file, which are skipped where the machine has none."""
    with chromium() as started:
        yield started
