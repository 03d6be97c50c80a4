"""Fixtures for the end-to-end tests, which run real processes in a folder like a user's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from workspace import TINY_TEXT, Run, Workspace, clean_environment

from folio.data.assets import fetch
from folio.data.corpora import tiny_shakespeare
from folio.data.tokenizers.rank_files import ENCODINGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Not an ImportError, which the program could catch.
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
    """Create workspaces that share prepared data: make_workspace()."""
    # Before any test: otherwise the first one that needs a download would print its progress.
    for asset in (tiny_shakespeare.ASSET, ENCODINGS["gpt2"].rank_file):
        fetch(asset, assets_dir)
    shared = tmp_path_factory.mktemp("shared")
    (shared / "assets").symlink_to(assets_dir.resolve(), target_is_directory=True)
    (shared / "tiny_shakespeare").mkdir()
    environment = clean_environment() | {"TERM": "xterm-256color"}

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
    """A new workspace for one test."""
    return make_workspace()


@pytest.fixture(scope="session")
def home(make_workspace: Callable[[], Workspace]) -> Workspace:
    """The workspace of `finished_run`. Tests must not change it."""
    return make_workspace()


@pytest.fixture(scope="session")
def finished_output(home: Workspace) -> str:
    """The output of `finished_run`."""
    return home.must("train.py", "model=debug", "tokenizer=char", "trainer=cpu")


@pytest.fixture(scope="session")
def finished_run(home: Workspace, finished_output: str) -> Run:
    """A finished run of the smallest model on Tiny Shakespeare. Tests must not change it."""
    assert finished_output
    (folder,) = home.runs()
    return Run(folder)


@pytest.fixture(scope="session")
def forbid_imports(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Return environment variables that make a process fail if it tries to import one of these packages.

    A command that imports neither torch nor lightning answers within two seconds; measuring those seconds would fail
    on a busy machine.
    """
    folder = tmp_path_factory.mktemp("forbid")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return lambda *packages: {"PYTHONPATH": str(folder), "FORBIDDEN_IMPORTS": ",".join(packages)}


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A headless Chromium for the tests of a file, which are skipped if the machine has none."""
    from browser import chromium  # which needs Playwright: a GPU machine may lack it

    with chromium() as started:
        yield started
