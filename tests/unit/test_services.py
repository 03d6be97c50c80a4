"""What W&B and MLflow get of a run, and that their servers cannot end or delay it."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import folio.training.loggers
from folio.cli.plugins import plugin_targets
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.training.loggers.base import RunLogger, logged_run
from folio.training.loggers.run_ids import FILE, read_run_id, write_run_id
from folio.training.loggers.wandb import STEP
from folio.training.loggers.wandb_file import RunFile
from folio.training.plugins import build_loggers, load_class

CONF = Path(__file__).parents[2] / "conf"
Compose = Callable[..., RunConfig]

RESULTS = {"status": "finished", "step": 3, "val/loss_nats": 1.5, "best/val/loss_nats": 1.25, "device": "CPU"}


@pytest.fixture
def unreachable() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _ignore_warnings_of_the_packages() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build(config: RunConfig, folder: Path, resumed_at: int | None = None) -> RunLogger:
    folder.mkdir(exist_ok=True)
    (logger,) = build_loggers(config, plugin_targets(config, CONF), folder, resumed_at)
    return logger


def run_part(logger: RunLogger, config: RunConfig, *steps: int) -> None:
    """Log what a part of a run logs that takes these steps and finishes."""
    with logged_run([logger], config, []):
        for step in steps:
            logger.log_metrics({"train/loss_nats": 1.0 / step}, step)
            logger.flush()
        logger.log_text("samples", "    a text", steps[-1])
        logger.log_figure("attention", Figure(), steps[-1])
        logger.log_results(RESULTS)


# MLflow


def mlflow_runs(folder: Path) -> tuple[Any, list[Any]]:
    """Return a client of the database in a folder, and its runs."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return client, list(client.search_runs([it.experiment_id for it in client.search_experiments()]))


def test_a_killed_run_goes_back_in_mlflow_and_keeps_its_id(compose: Compose, tmp_path: Path) -> None:
    """It also shows what a resumed run changes, which MLflow's parameters cannot."""
    words = ("logger=mlflow", f"paths.output_dir={tmp_path}")
    first = compose(*words, "training.max_steps=5", "tags=[baseline]")
    killed = build(first, tmp_path / "run")
    killed.start_run(first, [])
    for step in (1, 2, 3, 4):
        killed.log_metrics({"train/loss_nats": 9.0}, step)
    second = compose(*words, "training.max_steps=6", "tags=[long run]", "notes=why")
    run_part(build(second, tmp_path / "run", resumed_at=2), second, 3)
    client, (run,) = mlflow_runs(tmp_path)
    points = client.get_metric_history(run.info.run_id, "train/loss_nats")
    assert [(point.step, point.value) for point in points] == [(1, 9.0), (2, 9.0), (3, pytest.approx(1 / 3))]
    assert run.data.metrics["train/loss_nats"] == pytest.approx(1 / 3)
    assert run.data.metrics["best/val/loss_nats"] == 1.25
    assert "val/loss_nats" not in run.data.metrics
    assert run.data.params["training.max_steps"] == "5"
    assert run.data.params["optimizer.betas"] == "[0.9, 0.95]"
    shown = {"baseline": "true", "long run": "true", "training.max_steps": "6", "resumed_at": "2", "device": "CPU"}
    assert shown.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.note.content"] == "why"
    assert run.info.status == "FINISHED"
    artifacts = [path.relative_to(tmp_path / "mlflow_artifacts" / run.info.run_id).as_posix() for path in
                 (tmp_path / "mlflow_artifacts").rglob("*") if path.is_file()]  # fmt: skip
    assert sorted(artifacts) == ["artifacts/samples/step=3.md", "artifacts/visuals/attention/step=3.png"]


@pytest.mark.parametrize("stored", ['{"mlflow": "0123456789abcdef0123456789abcdef"}', '{"mlflow": "../x"}', "{", None])
def test_a_run_that_mlflow_does_not_know_is_a_new_one(
    stored: str | None, mlflow_database: Path, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose("logger=mlflow", f"paths.output_dir={mlflow_database.parent}")
    folder = mlflow_database.parent / "run"
    folder.mkdir()
    if stored is not None:
        (folder / FILE).write_text(stored)
    run_part(build(config, folder, resumed_at=2), config, 3)
    _, (run,) = mlflow_runs(mlflow_database.parent)
    assert json.loads((folder / FILE).read_text())["mlflow"] == run.info.run_id
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run; to create one takes a second or more."""
    folder = tmp_path_factory.mktemp("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow_runs(folder)
    return folder / "mlflow.db"


@pytest.fixture
def mlflow_database(_empty_database: Path, tmp_path: Path) -> Path:
    (tmp_path / "mlflow.db").write_bytes(_empty_database.read_bytes())
    return tmp_path / "mlflow.db"


def test_a_database_that_becomes_unusable_costs_one_warning(
    mlflow_database: Path, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose("logger=mlflow", f"paths.output_dir={mlflow_database.parent}")
    logger = build(config, mlflow_database.parent / "run")
    logger.start_run(config, [])
    with sqlite3.connect(mlflow_database) as connection:
        connection.execute("DROP TABLE metrics")
    caplog.clear()
    for step in (1, 2):
        logger.log_metrics({"train/loss_nats": 1.0}, step)
    logger.end_run("finished")
    (warned,) = [record.getMessage() for record in caplog.records if record.name == "folio"]
    assert warned.startswith("warning: logger.mlflow has failed and logs nothing more: ")


def test_a_server_of_mlflow_that_never_answers_costs_a_warning(
    unreachable: str,
    compose: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", unreachable)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    caplog.set_level("INFO", logger="folio")
    config = compose("logger=mlflow", f"paths.output_dir={tmp_path}")
    run_part(build(config, tmp_path / "run"), config, 1, 2)
    said = [record.getMessage() for record in caplog.records if record.name == "folio"]
    assert said[0] == "logger.mlflow sends this run to 127.0.0.1"
    assert said[1].startswith("warning: logger.mlflow has failed and logs nothing more: MlflowException: ")
    assert len(said) == 2


# W&B


def test_a_server_of_wandb_that_never_answers_costs_a_warning_and_no_data(
    unreachable: str,
    compose: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", unreachable)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    caplog.set_level("INFO", logger="folio")
    config = compose("logger=wandb", "logger.wandb.mode=online", "logger.wandb.timeout=1.0", "tags=[baseline]")
    run_part(build(config, tmp_path / "run"), config, 1, 2)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "folio"]
    assert said.startswith("warning: logger.wandb.mode=online: ")
    assert said.endswith(f"the run is logged offline, and sent later by wandb sync {tmp_path / 'run' / 'wandb'}")
    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    assert [row.step for row in RunFile(file, STEP).read_rows()] == [1, 2, 2, 2]


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    logger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"folio.training.loggers.{logger}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr(folio.training.loggers, logger, raising=False)
    monkeypatch.setitem(sys.modules, logger, None)
    target = {"wandb": "WandbLogger", "mlflow": "MLflowLogger"}[logger]
    with pytest.raises(ConfigError) as error:
        load_class(f"logger.{logger}", f"{module}.{target}", {}, RunLogger)
    assert str(error.value) == f"logger.{logger} needs the package {logger}; install it with: pip install '.[loggers]'"


def test_neither_package_is_imported_unless_it_is_chosen() -> None:
    code = "import folio.training.run, sys; print({'wandb', 'mlflow', 'sqlalchemy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# Ids


def test_ids_are_kept_beside_each_other(tmp_path: Path) -> None:
    for name, run_id in (("wandb", "abcd1234"), ("mine", "x"), ("wandb", "ffff0000")):
        write_run_id(tmp_path, name, run_id)
    assert json.loads((tmp_path / FILE).read_text()) == {"wandb": "ffff0000", "mine": "x"}
    assert read_run_id(tmp_path, "wandb", "[a-z0-9]{8}") == "ffff0000"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"wandb": 5}', '{"wandb": "../../x"}', '{"wandb": ["abcd1234"]}', "{}"]
)
def test_an_id_of_another_form_is_not_used(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_run_id(tmp_path, "wandb", "[a-z0-9]{8}") is None
    (warned,) = [record.getMessage() for record in caplog.records]
    assert "logger.wandb logs to a new run" in warned


def test_a_pipe_in_place_of_the_ids_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    assert read_run_id(tmp_path, "wandb", "[a-z0-9]{8}") is None
    write_run_id(tmp_path, "wandb", "abcd1234")
    assert read_run_id(tmp_path, "wandb", "[a-z0-9]{8}") == "abcd1234"
