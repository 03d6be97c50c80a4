"""Fixtures for every test."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from folio.cli import load_config
from folio.config import ConfigError, RunConfig
from folio.data.token_file import FORMAT, TokenFileInfo
from folio.explain import explain

CONF = Path(__file__).parents[1] / "conf"

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


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    """Hugging Face's library, which `make setup` keeps apart: tests/golden/transformers.txt says why."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.append(str(Path(sys.prefix) / "hugging_face"))
    return importlib.import_module("transformers")


@pytest.fixture
def data_dir(assets_dir: Path, tmp_path: Path) -> Path:
    """An empty data folder of the test's own that shares the pinned files."""
    assets_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "assets").symlink_to(assets_dir.resolve(), target_is_directory=True)
    return tmp_path / "data"


@pytest.fixture
def info_of() -> Callable[..., TokenFileInfo]:
    """The sidecar of a token file that is not there: info_of(n_tokens=10, n_bytes=40)."""
    values: dict[str, Any] = {
        "format": FORMAT,
        "dtype": "<u2",
        "vocab_size": 65,
        "tokenizer": "char",
        "tokenizer_fingerprint": "",
        "split": "val",
        "n_unknown": 0,
        "spelling_bits": 0.0,
        "source_sha256": "",
        "tokens_sha256": "",
    }
    return lambda **changes: TokenFileInfo(**(values | changes))


@pytest.fixture(scope="session")
def compose() -> Callable[..., RunConfig]:
    """The shipped YAML files with overrides, as typed values: compose("model=debug", "seed=2")."""

    def composed(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            values = OmegaConf.to_container(hydra_compose("train", list(overrides)), resolve=True)
        return RunConfig.model_validate(values)

    return composed


@pytest.fixture
def load() -> Iterator[Callable[..., RunConfig]]:
    """Compose and check as train.py does: load("seed=2")."""

    def load(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra_compose("train", list(overrides), return_hydra_config=True)
        # What Hydra's own start sets, and compose does not.
        for source in cfg.hydra.runtime.config_sources:
            source.provider = "main" if source.path == str(CONF) else source.provider
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return load_config(cfg)

    yield load
    HydraConfig.instance().cfg = None


@pytest.fixture
def refuse(load: Callable[..., RunConfig]) -> Callable[..., str]:
    """The one line that the overrides are answered with."""

    def refuse(*overrides: str) -> str:
        try:
            load(*overrides)
        except ConfigError as error:
            message = str(error)
        except (HydraException, OmegaConfBaseException) as error:
            message = explain(error)
        else:
            pytest.fail(f"{overrides} was accepted")
        assert "\n" not in message
        return message

    return refuse
