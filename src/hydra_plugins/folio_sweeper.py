"""The Hydra plugin for Folio's sweeps. Hydra looks for plugins in this package, and imports them at every start."""

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class FolioSweeper(Sweeper):
    """Runs every combination of the swept values, or the trials of a search, by `folio.sweeps.command_line`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setup_arguments = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Raises: FolioError before anything is written; SystemExit if a job has no result at the end."""
        from folio.sweeps.command_line import run_sweep  # slow to import, and rarely needed

        run_sweep(*self.setup_arguments, arguments)


ConfigStore.instance().store(
    group="hydra/sweeper", name="folio", node={"_target_": f"{__name__}.FolioSweeper"}, provider="folio"
)
