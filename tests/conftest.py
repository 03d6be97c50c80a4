"""Fixtures for every test."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A deadline is a test that times itself, and fails on a busy machine.
settings.register_profile("folio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("folio")


@pytest.fixture(scope="session")
def assets_dir() -> Path:
    """Where pinned files are kept between runs, so that a fresh clone downloads each wheel once."""
    default = Path(__file__).parents[1] / "data" / "assets"
    return Path(os.environ.get("FOLIO_ASSETS_DIR", default))


@pytest.fixture
def data_dir(assets_dir: Path, tmp_path: Path) -> Path:
    """An empty data folder of the test's own that shares the pinned files."""
    assets_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "assets").symlink_to(assets_dir.resolve(), target_is_directory=True)
    return tmp_path / "data"
