"""Explain an out-of-memory error in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from folio.config.run import RunConfig
from folio.config.training import largest_micro_batch_size
from folio.distributed.devices import Device, is_out_of_memory
from folio.runtime.errors import FolioError


@contextmanager
def explain_out_of_memory(config: RunConfig, device: Device) -> Iterator[None]:
    """Raises: FolioError with the sizes that matter and a smaller one, instead of an error about memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        training, size = config.training, config.micro_batch_size
        smaller = largest_micro_batch_size(training.batch_size // config.trainer.n_processes, size // 2)
        remedy = f"try training.micro_batch_size={smaller}" if smaller else "try a shorter context or a smaller model"
        raise FolioError(
            f"out of memory on {device.name} with training.batch_size={training.batch_size}, training.micro_batch_size="
            f"{size} and model.context_length={config.model.context_length}; {remedy}"
        ) from error
