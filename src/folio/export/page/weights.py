"""The weights of a model as bytes for a page: in fp32, or rounded to fp16 or int8."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from folio.export.page.architecture import Precision
from folio.models import Model, build_model
from folio.models.formats.equivalents import FOLDED
from folio.models.quantization import quantize_rows
from folio.runtime.errors import FolioError

ALIGNMENT = 4
"""A script reads numbers of 4 bytes only at multiples of 4."""


@dataclass(frozen=True)
class PackedWeights:
    """All tensors of a model, one after another.

    Example:

        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> pack_weights(model, "int8").tensors[0]
        {'name': 'token_embedding.weight', 'shape': [65, 4], 'dtype': 'int8', 'start': 0, 'scales': 260}
    """

    tensors: list[dict[str, Any]]
    """Name, shape, dtype, and where the numbers start; for int8 also where the scale of each row does, in fp32."""
    data: bytes


def in_page_form(model: Model) -> Model:
    """Return the model without the factors of model.parametrization=mup, which a page does not know."""
    if not FOLDED.applies(model.config):
        return model
    folded = build_model(FOLDED.config(model.config))
    folded.load_state_dict(FOLDED.weights(model.config, dict(model.state_dict())))
    return folded.eval()


@torch.no_grad()
def pack_weights(model: Model, precision: Precision) -> PackedWeights:
    """Pack the parameters under their names in the state dict, tied ones once, and round the model's own to the same.

    fp16 rounds all of them, int8 the matrices: each row to 255 levels, as `folio.models.quantization` does.

    Raises: FolioError if a number is too large for fp16.
    """
    tensors: list[dict[str, Any]] = []
    data = bytearray()
    for name, parameter in model.named_parameters():
        entry: dict[str, Any] = {"name": name, "shape": list(parameter.shape)}
        if precision == "int8" and parameter.ndim == 2:
            values, scales = quantize_rows(parameter)
            entry |= {"dtype": "int8", "start": _append(data, values), "scales": _append(data, scales.float())}
            parameter.copy_(values.float() * scales.float()[:, None])
        elif precision == "fp16":
            rounded = parameter.half()
            if not rounded.isfinite().all():
                raise FolioError(
                    f"--weights fp16: {name} holds {float(parameter.abs().max()):.3g}, and fp16 ends at 65504; "
                    "use fp32 or int8"
                )
            entry |= {"dtype": "fp16", "start": _append(data, rounded)}
            parameter.copy_(rounded.float())
        else:
            entry |= {"dtype": "fp32", "start": _append(data, parameter.float())}
        tensors.append(entry)
    return PackedWeights(tensors, bytes(data))


def _append(data: bytearray, tensor: Tensor) -> int:
    """Append the numbers in little-endian order; return where they start."""
    start = len(data)
    array = tensor.detach().cpu().contiguous().numpy()
    data += array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    data += bytes(-len(data) % ALIGNMENT)
    return start
