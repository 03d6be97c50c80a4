"""TensorBoard that shows a run by the name of its folder, without the `/tensorboard` in which its event files are."""

from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from tensorboard import default, main_lib, program
from tensorboard.data.provider import DataProvider, Run, RunTagFilter
from tensorboard.plugins import base_plugin

from folio.runtime.errors import FolioError

EVENT_FOLDER = "tensorboard"
"""Folder of the event files in a run folder."""


class RenamedRuns(DataProvider):  # type: ignore[misc]  # TensorBoard has no types
    """Gives TensorBoard the data of a provider, in which `2026-01-31/12-00-00-nano/tensorboard` lacks the last part.

    TensorBoard names a run after the folder of its event files, below --logdir.
    """

    def __init__(self, provider: DataProvider, logdir: str) -> None:
        self._provider = provider
        self._only_run = Path(logdir or ".").resolve().name
        """Name of the run if --logdir is a run folder."""
        self._originals: dict[str, str] = {}

    def _shown(self, original: str) -> str:
        """Return the name to show for a run, and remember it."""
        shown = self._only_run if original == EVENT_FOLDER else original.removesuffix(f"/{EVENT_FOLDER}")
        if self._originals.setdefault(shown, original) != original:  # its parent has event files as well
            return original
        return shown

    def _original(self, shown: str) -> str:
        return self._originals.get(shown, shown)

    def _call(self, method: Callable[..., Any], ctx: Any, run_tag_filter: RunTagFilter | None, **options: Any) -> Any:
        """Call a method that takes names of runs in its filter and returns them as keys."""
        if run_tag_filter is not None and run_tag_filter.runs is not None:
            runs = map(self._original, run_tag_filter.runs)
            run_tag_filter = RunTagFilter(runs=runs, tags=run_tag_filter.tags)
        found: Mapping[str, Any] = method(ctx, run_tag_filter=run_tag_filter, **options)
        return {self._shown(run): tags for run, tags in found.items()}

    def list_runs(self, ctx: Any = None, *, experiment_id: str) -> list[Run]:
        runs = self._provider.list_runs(ctx, experiment_id=experiment_id)
        names = [self._shown(run.run_name) for run in runs]
        return [Run(name, name, run.start_time) for name, run in zip(names, runs, strict=True)]

    def list_scalars(self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any) -> Any:
        return self._call(self._provider.list_scalars, ctx, run_tag_filter, **options)

    def read_scalars(self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any) -> Any:
        return self._call(self._provider.read_scalars, ctx, run_tag_filter, **options)

    def read_last_scalars(self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any) -> Any:
        return self._call(self._provider.read_last_scalars, ctx, run_tag_filter, **options)

    def list_tensors(self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any) -> Any:
        return self._call(self._provider.list_tensors, ctx, run_tag_filter, **options)

    def read_tensors(self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any) -> Any:
        return self._call(self._provider.read_tensors, ctx, run_tag_filter, **options)

    def list_blob_sequences(
        self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any
    ) -> Any:
        return self._call(self._provider.list_blob_sequences, ctx, run_tag_filter, **options)

    def read_blob_sequences(
        self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **options: Any
    ) -> Any:
        return self._call(self._provider.read_blob_sequences, ctx, run_tag_filter, **options)

    def read_blob(self, ctx: Any = None, *, blob_key: str) -> Any:
        return self._provider.read_blob(ctx, blob_key=blob_key)

    def experiment_metadata(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return self._provider.experiment_metadata(ctx, experiment_id=experiment_id)

    def list_plugins(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return self._provider.list_plugins(ctx, experiment_id=experiment_id)

    def list_hyperparameters(self, ctx: Any = None, **options: Any) -> Any:
        return self._provider.list_hyperparameters(ctx, **options)

    def read_hyperparameters(self, ctx: Any = None, **options: Any) -> Any:
        return self._provider.read_hyperparameters(ctx, **options)


class Board(program.TensorBoard):  # type: ignore[misc]
    """TensorBoard's program, with `RenamedRuns`."""

    def _make_data_provider(self) -> tuple[DataProvider, Any]:
        provider, multiplexer = super()._make_data_provider()
        return RenamedRuns(provider, self.flags.logdir), multiplexer


def run_board(arguments: list[str]) -> None:
    """Serve until Ctrl-C. `arguments` are TensorBoard's own, with --logdir outputs by default. Raises: FolioError."""
    if not any(argument.startswith(("--logdir", "--help", "-h", "--version")) for argument in arguments):
        arguments = ["--logdir", "outputs", *arguments]
    board = Board(plugins=default.get_plugins())
    said = StringIO()
    try:
        with redirect_stderr(said):  # the whole usage, and that there is no TensorFlow
            main_lib.global_init()
            board.configure(["board.py", *arguments])
    except base_plugin.FlagsError as error:
        raise FolioError(f"{str(error).strip()}; scripts/board.py --helpfull lists the options") from None
    except SystemExit as stop:
        if not stop.code:
            raise
        problem = said.getvalue().strip().rpartition("error: ")[2]
        raise FolioError(f"{problem}; scripts/board.py --helpfull lists the options") from None
    raise SystemExit(board.main())
