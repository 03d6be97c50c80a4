"""The values that all parts of a run share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from folio.config.run import RunConfig
from folio.config.updates import with_machine
from folio.data.prepared import PreparedData
from folio.distributed.devices import Device, split_threads
from folio.distributed.precision_probe import with_probed_precision
from folio.models import TransformerConfig
from folio.objectives.metrics import Metrics
from folio.training.summary import RunSummary, summarize_run

Pruner = Callable[[int, Metrics], str | None]
"""Called after each validation with its step and metrics. If it returns a reason, the run ends there."""


@dataclass(frozen=True)
class RunOrigin:
    """The origin of a run: its command line, its sweep, its search."""

    overrides: Sequence[str] = ()
    """Overrides on the command line."""
    compared: Sequence[str] = ()
    """Config keys in which the run differs from the runs it will be compared with."""
    pruner: Pruner | None = None
    """Decides after each validation whether the run ends early."""
    more_jobs_follow: bool = False
    """Whether this process runs more jobs of a sweep afterwards, which a signal must stop as well."""


@dataclass(frozen=True)
class RunContext:
    """A checked run, before its first step. Picklable, so that it can be sent to the processes of a run."""

    config: RunConfig
    model_config: TransformerConfig
    device: Device
    folder: Path
    resumed: bool
    """Whether the run continues from its last checkpoint."""
    origin: RunOrigin
    summary: RunSummary
    plugin_targets: Mapping[str, str]
    """Class of each optional callback and logger, by the dotted key of its option."""

    @property
    def n_threads(self) -> int:
        """Number of CPU threads of the run on this machine; 0 if it uses a GPU."""
        return self.device.n_threads * self.config.trainer.devices


def build_context(
    config: RunConfig,
    data: PreparedData,
    device: Device,
    folder: Path,
    *,
    resumed: bool,
    origin: RunOrigin,
    plugin_targets: Mapping[str, str],
    n_ranks: int,
) -> RunContext:
    """Return the context of a run. `n_ranks` is the number of processes that have already been started.

    Raises: ConfigError if the model cannot be built.
    """
    if config.trainer.n_processes > n_ranks:
        device = split_threads(device, config.trainer)
    assert config.model.vocab_size is not None
    model_config = config.transformer_config(config.model.vocab_size)
    # A resumed run keeps its precision, and the runs of a sweep, which are compared, share theirs.
    if not resumed and not origin.more_jobs_follow:
        device = with_probed_precision(device, config, model_config)
    if device.n_threads:
        config = with_machine(config, device.n_threads, device.precision)
    summary = summarize_run(config, model_config, data, device, folder)
    return RunContext(config, model_config, device, folder, resumed, origin, summary, plugin_targets)
