"""Matrix products on a CPU: the same functions as torch's, by faster kernels and with less kept for the backward pass.

On an AMD Zen 5, torch's own float32 products take MKL's kernels, which leave half of the CPU unused: 180 GFLOP/s on two
cores, where oneDNN's, which torch has as well, reach 350 to 400. Of attention's many small products the opposite is
true, so each call chooses. As text is written, by products of few rows, what limits is how fast the weights can be
read: 15 GB/s for one row and 8 for eight in torch's own way, 23 and 15 by both parts of this file.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch's own types have it not


class Linear(nn.Linear):
    """nn.Linear, with the same parameters and names, and the same results up to rounding; faster on a CPU.

    Shapes: (..., in_features) -> (..., out_features).
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not _is_for_onednn(hidden, self.weight):
            return super().forward(hidden)
        if torch.is_grad_enabled():
            return _ActivatedLinear.apply(hidden, None, self.weight, self.bias)
        with onednn_products():
            return super().forward(hidden)


def activated_linear(hidden: Tensor, activation: Callable[[Tensor], Tensor], layer: nn.Module) -> Tensor:
    """layer(activation(hidden)). For the backward pass a CPU keeps `hidden` alone and activates it again.

    That is cheap beside the product, where an activation keeps up to three times what it reads.

    Shapes: hidden (..., I) -> (..., O); the activation may halve I (swiglu).
    """
    if isinstance(layer, Linear) and torch.is_grad_enabled() and _is_for_onednn(hidden, layer.weight):
        return _ActivatedLinear.apply(hidden, activation, layer.weight, layer.bias)
    return layer(activation(hidden))


class _ActivatedLinear(torch.autograd.Function):
    """hidden (..., I), weight (O, I), bias (O,) -> (..., O). It can be differentiated once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, activation: Callable[[Tensor], Tensor] | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(hidden, weight)
        with onednn_products():
            return F.linear(activation(hidden) if activation else hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        if ctx.activation:
            with torch.enable_grad():
                hidden = hidden.detach().requires_grad_()
                inputs = ctx.activation(hidden)
        else:
            inputs = hidden
        needs_input, _, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.flatten(end_dim=-2)  # (N, O)
        input_gradient = weight_gradient = None
        with onednn_products():
            if needs_weight:
                weight_gradient = rows.T @ inputs.detach().flatten(end_dim=-2)
            if needs_input:
                input_gradient = (rows @ weight).view(inputs.shape)
        bias_gradient = rows.sum(dim=0) if needs_bias else None
        if ctx.activation and needs_input:
            (input_gradient,) = torch.autograd.grad(inputs, hidden, input_gradient)
        return input_gradient, None, weight_gradient, bias_gradient


def _is_for_onednn(hidden: Tensor, weight: Tensor) -> bool:
    """Whether a product is of float32 on a CPU, and nobody else has a say in how it is done."""
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def lay_out_by_input(model: nn.Module) -> None:
    """Let the weights of linear layers lie input by input in memory: names, shapes and values stay as they are.

    A row times a weight is then a sum of vectors as long as the output, not many short inner products. For a model
    that is only read: an optimizer would find its state laid out otherwise.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            module.weight.data = module.weight.data.t().contiguous().t()


class onednn_products:  # noqa: N801  # a context manager, named as a function is
    """Inside, float32 products on a CPU are oneDNN's and not MKL's, if that costs no digits.

    oneDNN may then use bfloat16. It does so on CPUs with matrix units for bfloat16 (AMX), where this changes nothing;
    on others it takes float32, with every instruction that the CPU has, of which MKL leaves out the widest on those
    that are not Intel's.
    """

    def __enter__(self) -> None:
        self._before = _matmul.fp32_precision
        if _onednn_keeps_float32():
            _matmul.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        _matmul.fp32_precision = self._before


@cache
def _onednn_keeps_float32() -> bool:
    """Whether a product that is allowed bfloat16 comes out as in float32, to the last bit."""
    if not torch.backends.mkldnn.is_available():
        return False
    # In bfloat16 1 + 2^-12 is 1; in float32 every sum of 256 of them is exact, in whatever order.
    rows, weight = torch.full((16, 256), 1 + 2**-12), torch.ones(256, 256)
    before, _matmul.fp32_precision = _matmul.fp32_precision, "bf16"
    try:
        products = F.linear(rows, weight)
    finally:
        _matmul.fp32_precision = before
    return bool((products == 256 + 2**-4).all())
