"""Lightning's profilers, which write what takes the time of a run into its folder."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from folio.config.run import RunConfig
from folio.distributed.context import DistributedContext
from folio.runtime.console import log
from folio.runtime.untrusted import shown

PROFILE_FOLDER = "profile"
"""Folder in the run folder. Each process of a run has its own files there, and a resumed run adds to them."""

SLOWEST = 30
"""Number of functions or operations in a table."""


class RunProfiler(Profiler):
    """One of Lightning's profilers, whose report is written once, however the run ends.

    If it fails, as on a full disk, it is told nothing more, and the run continues.
    """

    def __init__(self, profiler: Profiler, rank: int | None) -> None:
        """`rank` becomes part of the names of the files; None for a single process."""
        super().__init__()
        self._profiler: Profiler | None = profiler
        self._rank = rank

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        def set_up(profiler: Profiler) -> None:
            profiler._lightning_module = self._lightning_module  # type: ignore[attr-defined]  # Lightning sets it here
            profiler.setup(stage, self._rank, log_dir)

        self._try(set_up)

    def start(self, action_name: str) -> None:
        self._try(lambda profiler: profiler.start(action_name))

    def stop(self, action_name: str) -> None:
        self._try(lambda profiler: profiler.stop(action_name))

    def describe(self) -> None:
        """Write the report. Lightning calls it at the end of a run, unless an error or a signal ends it."""
        self._try(lambda profiler: profiler.describe())
        self._profiler = None

    def teardown(self, stage: str | None) -> None:
        """`describe` has done it."""

    def _try(self, action: Callable[[Profiler], None]) -> None:
        if self._profiler is None:
            return
        try:
            action(self._profiler)
        except Exception as error:
            self._profiler = None
            log.warning(f"warning: no more from the profiler: {type(error).__name__}: {shown(error)}")


class OperationsWriter:
    """Writes what torch recorded of a few steps: a trace for https://ui.perfetto.dev, and a table of the operations."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix

    def __call__(self, profiler: torch.profiler.profile) -> None:
        operations = profiler.key_averages()
        is_training = any("training_step" in operation.key for operation in operations)
        name = f"{'training' if is_training else 'validation'}{self.suffix}"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        table = operations.table(sort_by=f"self_{device}_time_total", row_limit=SLOWEST, max_name_column_width=80)
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{name}.txt").write_text(table, encoding="utf-8")
        profiler.export_chrome_trace(str(self.folder / f"{name}.trace.json"))


def build_profiler(
    config: RunConfig, run_folder: Path, distributed: DistributedContext, first_step: int
) -> RunProfiler | None:
    """Return the profiler that the config names; None if it names none."""
    name, folder = config.trainer.profiler, run_folder / PROFILE_FOLDER
    rank = distributed.rank if distributed.world_size > 1 else None
    profiler: Profiler
    if name is None:
        return None
    if name == "simple":
        profiler = SimpleProfiler(folder, name)
    elif name == "advanced":
        profiler = AdvancedProfiler(folder, name, line_count_restriction=SLOWEST)
    else:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would say when it begins and ends
        n_batches = (config.training.max_steps - first_step) * config.accumulate_grad_batches
        # Lightning's own schedule would write a trace of every three in five batches, to the end of the run.
        three_batches = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
        profiler = PyTorchProfiler(
            schedule=three_batches if n_batches >= 5 else None,  # None: everything
            on_trace_ready=OperationsWriter(folder, "" if rank is None else f"-{rank}"),
        )
    return RunProfiler(profiler, rank)
