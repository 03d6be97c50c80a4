"""Metrics, texts, figures and hyperparameters for MLflow."""

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from matplotlib.figure import Figure

from folio.config.run import RunConfig
from folio.runs.description import flatten
from folio.runtime.console import log
from folio.runtime.files import exclusive_lock
from folio.training.loggers.base import Outcome, RunLogger, final_numbers
from folio.training.loggers.run_ids import read_run_id, write_run_id

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by the package when it is imported
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

SQLITE = "sqlite:///"
STATUSES: dict[Outcome, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
MAX_VALUE_LENGTH = 5000
"""Limit of MLflow for the value of a tag; that of a parameter is 6000."""


class MLflowLogger(RunLogger):
    """Logs to a database beside the run folders, which all runs share, or to the server of MLFLOW_TRACKING_URI.

    The server is no argument, because a run folder, which stores the arguments, must not say where data is sent.

    Lightning's MLFlowLogger needs the whole of MLflow, writes files that MLflow 3 refuses, and starts another run for
    each part of a resumed one.

    Args:
        timeout: seconds to wait for an answer of a server; it is asked three times.
    """

    shows_figures = True

    def __init__(self, experiment_name: str = "folio", timeout: int = 30) -> None:
        super().__init__()
        self.experiment_name = experiment_name
        self.timeout = timeout

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(self.timeout))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        database = Path(config.paths.output_dir).resolve() / "mlflow.db"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{database}"
        if not uri.startswith(SQLITE):
            log.info(f"logger.{self.name} sends this run to {urlsplit(uri).hostname}")  # not the password in an address
        if uri == f"{SQLITE}{database}" and not database.exists():
            log.info(f"creating {database}: this takes some seconds, once")
        with exclusive_lock(database):  # of jobs that run in parallel, the first one creates the tables
            self.experiment = MlflowClient(uri)
            self._open_run(uri, database.with_name("mlflow_artifacts"))
        self._log_config(config)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = time.time_ns() // 1_000_000
        names = {re.sub(r"[^\w/. :-]", "_", name): float(value) for name, value in metrics.items()}
        points = [Metric(name, value, now, step or 0) for name, value in names.items()]
        self.experiment.log_batch(self.run_id, metrics=points)

    def log_text(self, name: str, text: str, step: int) -> None:
        self.experiment.log_text(self.run_id, text, f"{name}/step={step}.md")

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        self.experiment.log_figure(self.run_id, figure, f"visuals/{name}/step={step}.png")

    def log_results(self, results: Mapping[str, Any]) -> None:
        self.log_metrics(final_numbers(results), results["step"])
        self._set_tags({key: value for key, value in flatten(results).items() if isinstance(value, str)})

    def end_run(self, outcome: Outcome) -> None:
        self.experiment.set_terminated(self.run_id, STATUSES[outcome])

    def _open_run(self, uri: str, artifacts: Path) -> None:
        """Continue the run of an earlier part, or create a new one."""
        run = self._earlier_run()
        if run is None:
            run = self.experiment.create_run(self._experiment_id(uri, artifacts), run_name=self.folder.name)
            write_run_id(self.folder, self.name, run.info.run_id)
        else:
            self.experiment.update_run(run.info.run_id, status="RUNNING")
        self.run_id: str = run.info.run_id
        self._params: dict[str, str] = run.data.params
        if self._params and uri.startswith(SQLITE):
            assert self.resumed_at is not None
            remove_points(Path(uri.removeprefix(SQLITE)), self.run_id, self.resumed_at)

    def _earlier_run(self) -> Run | None:
        if self.resumed_at is None or (run_id := read_run_id(self.folder, self.name, "[0-9a-f]{32}")) is None:
            return None
        try:
            run = self.experiment.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            log.warning(f"warning: logger.{self.name}: its run {run_id} is no longer there; this part is a new one")
            return None
        return run

    def _experiment_id(self, uri: str, artifacts: Path) -> str:
        experiment = self.experiment.get_experiment_by_name(self.experiment_name)
        if experiment is not None:
            return experiment.experiment_id
        location = artifacts.as_uri() if uri.startswith(SQLITE) else None
        return self.experiment.create_experiment(self.experiment_name, artifact_location=location)

    def _log_config(self, config: RunConfig) -> None:
        """Log the config as parameters. MLflow never changes one: what a resumed run changes becomes a tag."""
        values = flatten(config.model_dump(exclude={"tags", "notes"}))
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        new = [Param(key, text[:MAX_VALUE_LENGTH]) for key, text in texts.items() if key not in self._params]
        for start in range(0, len(new), 100):  # MLflow's limit
            self.experiment.log_batch(self.run_id, params=new[start : start + 100])
        tags = dict.fromkeys(config.tags, "true")
        if config.notes is not None:
            tags["mlflow.note.content"] = config.notes
        if self._params:
            tags |= {key: text for key, text in texts.items() if text != self._params.get(key, text)}
            tags["resumed_at"] = str(self.resumed_at)
        if (self.folder.parent / "sweep.json").is_file():
            tags["sweep"] = self.folder.parent.name
        self._set_tags(tags)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        self.experiment.log_batch(
            self.run_id, tags=[RunTag(key, value[:MAX_VALUE_LENGTH]) for key, value in tags.items()]
        )


def remove_points(database: Path, run_id: str, step: int) -> None:
    """Remove the points of a run after a step, which MLflow's own interface cannot do: a killed run went back to it."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table in ("metrics", "latest_metrics"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ? AND step > ?", (run_id, step))
