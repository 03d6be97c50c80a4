"""Out of memory, told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from folio.config.run import RunConfig
from folio.config.training import largest_micro_batch_size
from folio.distributed.devices import Device, is_out_of_memory
from folio.runtime.errors import FolioError


@contextmanager
def explain_out_of_memory(config: RunConfig, device: Device) -> Iterator[None]:
    """Raises: FolioError with the sizes that decide, and smaller ones, instead of an error that means no memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        training, model = config.training, config.model
        fewer = largest_micro_batch_size(
            training.batch_size // config.trainer.n_processes, config.micro_batch_size // 2
        )
        remedy = f"try training.micro_batch_size={fewer}" if fewer else "try a shorter context or a smaller model"
        raise FolioError(
            f"out of memory on {device.name} with training.batch_size={training.batch_size}, training.micro_batch_size="
            f"{config.micro_batch_size} and model.context_length={model.context_length}; {remedy}"
        ) from error
