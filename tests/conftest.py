"""Fixtures for every test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf

from folio.config import RunConfig

# A deadline is a test that times itself, and fails on a busy machine.
settings.register_profile("folio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("folio")

# For tensors as small as the tests', threads cost more than they bring, most of all on a busy machine.
torch.set_num_threads(1)


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


@pytest.fixture
def compose() -> Callable[..., RunConfig]:
    """The shipped YAML files with overrides, as typed values: compose("model=debug", "seed=2")."""

    def composed(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
            values = OmegaConf.to_container(hydra_compose("train", list(overrides)), resolve=True)
        return RunConfig.model_validate(values)

    return composed
