"""Metrics, texts, figures and hyperparameters for Weights & Biases."""

import html
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure

from folio.config.run import RunConfig
from folio.figures.plots import pixels
from folio.runs.description import flatten
from folio.runtime.commands import quote_for_shell
from folio.runtime.console import log
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import shown
from folio.training.loggers.base import Outcome, RunLogger
from folio.training.loggers.run_ids import read_run_id, write_run_id

# Read by the package when it is imported: no lines between ours on the terminal, and no reports of its own errors.
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
import wandb

from folio.training.loggers.wandb_file import RunFile, cut_after

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

STEP = "trainer/global_step"
"""Key of the optimizer step in each row, as Lightning's logger calls it; W&B's own step counts the rows."""

FLUSH_INTERVAL_S, FLUSH_TIMEOUT_S = 0.1, 5.0


class WandbLogger(RunLogger):
    """Logs to wandb/ in the run folder, and from there to a server only if `mode` says so.

    Lightning's WandbLogger would log to a server by default, start another run for each part of a resumed one, and
    take over a run that the user has open.

    Args:
        mode: offline sends nothing; `wandb sync` sends it later.
        timeout: seconds to wait for the server when the run starts, and again when it ends.
    """

    shows_figures = True

    def __init__(
        self,
        project: str = "folio",
        entity: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        group: str | None = None,
        job_type: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.timeout = timeout
        self._place = {"project": project, "entity": entity, "group": group, "job_type": job_type}
        self._first_row: int | None = None
        self._n_logged = 0

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        run_id = None
        if self.resumed_at is not None:
            run_id = read_run_id(self.folder, self.name, "[a-z0-9]{8,64}")
        if run_id is None:
            run_id = secrets.token_hex(4)
            write_run_id(self.folder, self.name, run_id)
        if self.mode == "offline":
            self._rewind(run_id)
        values = config.model_dump(exclude={"tags", "notes"})
        if self.resumed_at is not None:
            values["resumed_at"] = self.resumed_at
        self._arguments: dict[str, Any] = {
            **self._place,
            "group": self._place["group"] or self._sweep(),
            "id": run_id,
            "name": self.folder.name,
            "dir": str(self.folder),
            "config": values,
            "tags": config.tags,
            "notes": config.notes,
        }
        if self.experiment.url is not None:
            log.info(f"logger.{self.name} sends this run to {self.experiment.url}")

    @cached_property
    def experiment(self) -> "Run":
        """The run as W&B's package knows it."""
        try:
            run = self._init(self.mode)
        except wandb.Error as error:
            if self.mode == "offline":
                raise
            log.warning(
                f"warning: logger.{self.name}.mode=online: {shown(error).rstrip('.')}; the run is logged offline, "
                f"and sent later by {self._sync_command()}"
            )
            if wandb.run is None:  # the user has no run open in this process
                wandb.teardown()  # the package's service would still hold the id
            self._rewind(self._arguments["id"])
            run = self._init("offline")
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        for file in Path(run.settings.log_dir).iterdir():
            if file.is_symlink():  # to W&B's log in the home folder: a run folder with such a link is not resumed
                file.unlink()
        self._file = RunFile(Path(run.settings.sync_file), STEP)
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._log(dict(metrics), step)

    def log_text(self, name: str, text: str, step: int) -> None:
        plain = "\n".join(line.removeprefix("    ") for line in text.splitlines())  # it was a block of code in Markdown
        self._log({name: wandb.Html(f"<pre>{html.escape(plain)}</pre>", inject=False)}, step)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        self._log({f"visuals/{name}": wandb.Image(pixels(figure))}, step)

    def log_results(self, results: Mapping[str, Any]) -> None:
        self.experiment.summary.update({key: value for key, value in flatten(results).items() if value is not None})

    def flush(self) -> None:
        """Wait until the file in the run folder has all rows: if this process is killed, W&B drops the others."""
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while self._file.n_rows < self._n_logged and time.monotonic() < deadline:
            time.sleep(FLUSH_INTERVAL_S / 10)
            self._file.read_rows()
        self._n_logged = self._file.n_rows

    def end_run(self, outcome: Outcome) -> None:
        if outcome == "stopped":
            self.experiment.mark_preempting()
        try:
            self.experiment.finish(exit_code=0 if outcome == "finished" else 1)
        except TimeoutError:
            log.warning(f"warning: logger.{self.name}: not all was sent; {self._sync_command()} sends the rest")
        self.flush()  # `finish` does not wait for the file

    def _init(self, mode: Literal["offline", "online"]) -> "Run":
        settings = wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            init_timeout=self.timeout,
            login_timeout=self.timeout,
            finish_timeout=self.timeout,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH_INTERVAL_S,
        )
        return wandb.init(mode=mode, resume="allow", reinit="create_new", settings=settings, **self._arguments)

    def _log(self, row: dict[str, Any], step: int | None) -> None:
        if step is not None:
            row[STEP] = step
        self.experiment.log(row, step=self._first_row, commit=True)
        self._first_row = None
        self._n_logged += 1

    def _rewind(self, run_id: str) -> None:
        """Remove from the files of the earlier parts what this part logs again, and continue their count of rows."""
        if self.resumed_at is None:
            return
        numbers = []
        for file in sorted(self.folder.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb")):
            try:
                numbers.append(cut_after(file, self.resumed_at, STEP))
            except (OSError, FolioError) as error:
                log.warning(f"warning: logger.{self.name}: {file} cannot be rewound: {shown(error)}")
        self._first_row = max(numbers, default=0)

    def _sweep(self) -> str | None:
        """Return the name of the sweep of this run, whose jobs W&B then shows as a group; None outside of one."""
        folder = self.folder.parent
        return f"{folder.parent.name}/{folder.name}" if (folder / "sweep.json").is_file() else None

    def _sync_command(self) -> str:
        return f"wandb sync {quote_for_shell(str(self.folder / 'wandb'))}"
