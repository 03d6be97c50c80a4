"""Hydra's way to Folio's sweeps. Hydra looks for its plugins in this package alone, and imports them at every start."""

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class FolioSweeper(Sweeper):
    """Runs every combination of what is swept, or the trials of a search. `folio.sweeps.runner` decides what runs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.asked = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Raises: FolioError before anything is written; SystemExit where not every job has a result."""
        from folio.sweeps.command_line import run_sweep

        run_sweep(*self.asked, arguments)


ConfigStore.instance().store(
    group="hydra/sweeper", name="folio", node={"_target_": f"{__name__}.FolioSweeper"}, provider="folio"
)
