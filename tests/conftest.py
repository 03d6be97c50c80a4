"""Fixtures for every test."""

import csv
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from folio.cli.compose import load_config
from folio.cli.explain import explain_hydra_error
from folio.cli.plugins import without_targets
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.token_file import FORMAT, TokenFileInfo

CONF = Path(__file__).parents[1] / "conf"

# A deadline would fail on a busy machine.
settings.register_profile("folio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("folio")

# With tensors as small as in these tests, threads cost more than they save, above all on a busy machine.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rehearse", action="store_true", help="run the tests marked gpu on the CPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu on a machine without an NVIDIA GPU, unless they are rehearsed."""
    if torch.cuda.is_available() or config.getoption("--rehearse"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def rehearse(request: pytest.FixtureRequest) -> bool:
    """Whether the tests marked gpu run on the CPU."""
    return bool(request.config.getoption("--rehearse"))


@pytest.fixture(scope="session")
def assets_dir() -> Path:
    """Return the folder that keeps pinned files between runs, so that a fresh clone downloads each wheel once."""
    default = Path(__file__).parents[1] / "data" / "assets"
    return Path(os.environ.get("FOLIO_ASSETS_DIR", default))


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    """Import Hugging Face's library, which `make setup` keeps apart: tests/golden/transformers.txt says why."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.append(str(Path(sys.prefix) / "hugging_face"))
    return importlib.import_module("transformers")


@pytest.fixture
def data_dir(assets_dir: Path, tmp_path: Path) -> Path:
    """Return an empty data folder for one test, which shares the pinned files."""
    assets_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "assets").symlink_to(assets_dir.resolve(), target_is_directory=True)
    return tmp_path / "data"


@pytest.fixture
def info_of() -> Callable[..., TokenFileInfo]:
    """Return a function that makes the sidecar of a token file without the file: info_of(n_tokens=10, n_bytes=40)."""
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
    """Return a function that composes the shipped YAML files: compose("model=debug", "seed=2")."""

    def composed(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            values = OmegaConf.to_container(hydra_compose("train", list(overrides)), resolve=True)
        assert isinstance(values, dict)
        return RunConfig.model_validate(without_targets(values, CONF))

    return composed


@pytest.fixture
def load() -> Iterator[Callable[..., RunConfig]]:
    """Yield a function that composes and checks as train.py does: load("seed=2")."""

    def load(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra_compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return load_config(cfg)

    yield load
    HydraConfig.instance().cfg = None


@pytest.fixture
def refuse(load: Callable[..., RunConfig]) -> Callable[..., str]:
    """Return a function that gives the error message for invalid overrides: refuse("sede=2")."""

    def refuse(*overrides: str) -> str:
        try:
            load(*overrides)
        except ConfigError as error:
            message = str(error)
        except (HydraException, OmegaConfBaseException) as error:
            message = explain_hydra_error(error)
        else:
            pytest.fail(f"{overrides} was accepted")
        assert "\n" not in message
        return message

    return refuse


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run folder without training: write_run("a", {"seed": 2}, loss=1.5).

    `changes` has dotted keys of the config. With status=None there is no metrics.json.
    """

    def write(
        name: str,
        changes: dict[str, Any] | None = None,
        *,
        loss: float = 1.5,
        status: str | None = "finished",
        curve: tuple[float, ...] = (),
        sample: str = "",
        error: str | None = None,
        **metrics: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config: dict[str, Any] = {
            "name": None,
            "seed": 1,
            "paths": {"output_dir": "outputs"},
            "tokenizer": {"name": "char"},
            "model": {"n_layers": 2, "d_model": 8},
            "positional_encoding": {"name": "learned"},
            "objective": {"name": "causal_lm"},
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
            "training": {"max_steps": 40},
        }
        for key, value in (changes or {}).items():
            *sections, leaf = key.split(".")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[leaf] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (folder / "preflight.json").write_text(
            json.dumps({"n_parameters": 1234, "tokens_per_step": 100, "text_sha256": "0" * 64})
        )
        if status is not None:
            measured = {
                "status": status,
                "val/loss_nats": loss,
                "val/bits_per_byte": loss / math.log(2),
                "n_parameters": 1234,
                "step": 40,
                "elapsed_s": 12.5,
                "train/tokens_per_s": 1000.0,
                "peak_memory_bytes": 300 * 2**20,
                "seed": config["seed"],
                "device": "CPU (x86_64, 1 threads)",
            }
            measured |= metrics | ({} if error is None else {"error": error})
            (folder / "metrics.json").write_text(json.dumps(measured))
        if curve:
            (folder / "csv").mkdir()
            with (folder / "csv" / "metrics.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("step", "name", "value"))
                for number, value in enumerate(curve, start=1):
                    rows.writerow((10 * number, "train/tokens_per_s", 1000.0))
                    rows.writerow((10 * number, "train/loss_nats", value + 0.1))
                    rows.writerow((10 * number, "val/loss_nats", value))
        if sample:
            indented = "\n".join(f"    {line}" for line in sample.splitlines())
            (folder / "samples.md").write_text(f"## Step 20\n\n    early\n\n## Step 40\n\n{indented}\n\n")
        return folder

    return write
