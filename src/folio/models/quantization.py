"""Weights in 8 bits for generation on a CPU: each token then reads a quarter of the memory."""

import platform
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from folio.models.blocks import OutputLayer, cap_logits
from folio.models.families import Model

INPUT_MULTIPLE = 16
"""torch's kernel needs a layer's number of inputs to be a multiple of this; it does not check."""


class Int8Weight(NamedTuple):
    """A weight, up to rounding: values * scales[:, None].

    Example:

        >>> weight = quantize_rows(torch.tensor([[1.0, -0.5], [0.0, 2.0]]))
        >>> weight.values.tolist()
        [[127, -64], [0, 127]]
    """

    values: Tensor
    """(out, in) int8."""
    scales: Tensor
    """(out,) bfloat16, chosen so that the largest value of each row is 127."""


class Int8Linear(nn.Module):
    """A linear layer with an int8 weight, whose inputs and outputs are rounded to bfloat16.

    Only the weight is quantized, with one scale per row (Dettmers et al. 2022, LLM.int8(), section 2.1, without their
    vector-wise inputs). So no row of a batch affects the rounding of another, as it would if inputs shared a scale.

    Shapes: (..., in) -> (..., out).

        >>> layer = Int8Linear(quantize_rows(torch.ones(2, 16)), bias=None)
        >>> layer(torch.ones(1, 16)).tolist()
        [[16.0, 16.0]]
    """

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Int8Weight, bias: nn.Parameter | None, softcap: float | None = None) -> None:
        super().__init__()
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)
        self.bias = bias
        self.softcap = softcap

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) -> (..., out) in the dtype of hidden."""
        rows = hidden.flatten(end_dim=-2).bfloat16()
        # torchao and gpt-fast call this private function as well; torch has no public name for it.
        outputs = torch._weight_int8pack_mm(rows, self.values, self.scales).type_as(hidden)
        outputs = outputs if self.bias is None else outputs + self.bias
        return cap_logits(outputs.view(*hidden.shape[:-1], -1), self.softcap)


class Int8Embedding(nn.Module):
    """An embedding that shares its weight with an int8 output layer. Shapes: (...) of int64 -> (..., D).

    Example:

        >>> Int8Embedding(quantize_rows(torch.ones(65, 4)))(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 4])
    """

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Int8Weight) -> None:
        super().__init__()
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.values) * self.scales[tokens].float()[..., None]


def quantize_int8(model: Model) -> Model:
    """Quantize all linear layers, and an embedding that shares its weight with one, in place; return the model.

    Afterwards it cannot be trained, saved or moved to another device.

    Raises: ValueError if the kernel does not support the device, the CPU or the model's shape.
    """
    check_int8(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights = {layer.weight: quantize_rows(layer.weight) for layer in layers}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                softcap = child.softcap if isinstance(child, OutputLayer) else None
                setattr(parent, name, Int8Linear(weights[child.weight], child.bias, softcap))
            elif isinstance(child, nn.Embedding) and child.weight in weights:
                setattr(parent, name, Int8Embedding(weights[child.weight]))
    return model


@torch.no_grad()
def quantize_rows(weight: Tensor) -> Int8Weight:
    """Round each row of (out, in) to the nearest int8 values."""
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    values = (weight / scales[:, None].type_as(weight)).round()
    return Int8Weight(values.clamp(-127, 127).to(torch.int8).contiguous(), scales)


def check_int8(model: Model) -> None:
    """Raises: ValueError as `quantize_int8` does."""
    device = model.output.weight.device.type
    if device != "cpu":
        raise ValueError(f"int8 weights are for the CPU, and the model is on {device}; choose device cpu")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "DEFAULT" and platform.machine() not in ("aarch64", "arm64"):
        raise ValueError("int8 weights need a CPU with AVX2 or AVX-512; on this one they are slower: leave them out")
    widths = {layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear)}
    odd = sorted(width for width in widths if width % INPUT_MULTIPLE)
    if odd:
        raise ValueError(
            f"int8 weights need layers whose number of inputs is a multiple of {INPUT_MULTIPLE}, and the model has "
            f"layers of {odd[0]} inputs (d_model={model.config.d_model}); leave them out"
        )
