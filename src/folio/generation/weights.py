"""Prepare the weights of a loaded model for generating text."""

from folio.models import Model
from folio.models.cpu_linear import store_column_major
from folio.models.quantization import quantize_int8
from folio.runtime.errors import FolioError


def prepare_weights(model: Model, quantize: str | None) -> None:
    """Round the weights to the type `quantize`, or only change their layout in memory.

    Raises: FolioError if they cannot be quantized.
    """
    if quantize is None:
        store_column_major(model)
        return
    try:
        quantize_int8(model)
    except ValueError as error:
        raise FolioError(f"--quantize={quantize}: {error}") from None
