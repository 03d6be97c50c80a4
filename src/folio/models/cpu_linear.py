"""Linear layers for the CPU: torch's functions with faster kernels, and less memory kept for the backward pass.

On an AMD Zen 5, torch's own float32 products use MKL's kernels, which leave half of the CPU idle: 180 GFLOP/s on two
cores, where oneDNN's kernels, which torch also contains, reach 350 to 400. For the many small products of attention
the opposite is true, so each call chooses. When text is generated, products have few rows, and the speed at which the
weights can be read is the limit: torch's own way reads 15 GB/s for one row and 8 for eight, this file's 23 and 15.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # missing in torch's own types


class Linear(nn.Linear):
    """nn.Linear with the same parameters and names, and the same results up to rounding; faster on a CPU.

    Shapes: (..., in_features) -> (..., out_features).

        >>> Linear(4, 2)(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """

    def forward(self, hidden: Tensor) -> Tensor:
        if not _should_use_onednn(hidden, self.weight):
            return super().forward(hidden)
        if torch.is_grad_enabled():
            return _ActivatedLinear.apply(hidden, None, self.weight, self.bias)
        with onednn_matmul():
            return super().forward(hidden)


def activated_linear(hidden: Tensor, activation: Callable[[Tensor], Tensor], layer: nn.Module) -> Tensor:
    """Return layer(activation(hidden)). On a CPU, only `hidden` is kept for the backward pass, and activated again.

    That is cheap compared with the product, and an activation keeps up to three times the memory of its input.

    Shapes: hidden (..., I) -> (..., O); the activation may halve I (swiglu).
    """
    if isinstance(layer, Linear) and torch.is_grad_enabled() and _should_use_onednn(hidden, layer.weight):
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
        with onednn_matmul():
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
        with onednn_matmul():
            if needs_weight:
                weight_gradient = rows.T @ inputs.detach().flatten(end_dim=-2)
            if needs_input:
                input_gradient = (rows @ weight).view(inputs.shape)
        bias_gradient = rows.sum(dim=0) if needs_bias else None
        if ctx.activation and needs_input:
            (input_gradient,) = torch.autograd.grad(inputs, hidden, input_gradient)
        return input_gradient, None, weight_gradient, bias_gradient


def _should_use_onednn(hidden: Tensor, weight: Tensor) -> bool:
    """Return whether a product is in float32 on a CPU, and neither autocast nor a compiler decides how it is done."""
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def store_column_major(model: nn.Module) -> None:
    """Store the weights of linear layers column by column in memory; names, shapes and values stay the same.

    A row times a weight is then a sum of vectors as long as the output, instead of many short inner products. Use this
    only for inference: an optimizer would find its state in the other layout.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            module.weight.data = module.weight.data.t().contiguous().t()


class onednn_matmul:  # noqa: N801  # a context manager, named like a function
    """Inside this context, float32 products on a CPU use oneDNN instead of MKL, if that loses no digits.

    The switch allows oneDNN to use bfloat16. It does so on CPUs with matrix units for bfloat16 (AMX), and there this
    context changes nothing. On other CPUs oneDNN uses float32 with all of the CPU's instructions, while MKL avoids the
    widest ones on CPUs that are not Intel's.

        >>> with onednn_matmul():
        ...     (torch.ones(2, 3) @ torch.ones(3, 2)).tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """

    def __enter__(self) -> None:
        self._before = _matmul.fp32_precision
        if _onednn_keeps_float32():
            _matmul.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        _matmul.fp32_precision = self._before


@cache
def _onednn_keeps_float32() -> bool:
    """Return whether a product that may use bfloat16 equals the float32 one to the last bit."""
    if not torch.backends.mkldnn.is_available():
        return False
    # In bfloat16 1 + 2^-12 is 1. In float32 every sum of 256 of them is exact, in any order.
    rows, weight = torch.full((16, 256), 1 + 2**-12), torch.ones(256, 256)
    before, _matmul.fp32_precision = _matmul.fp32_precision, "bf16"
    try:
        products = F.linear(rows, weight)
    finally:
        _matmul.fp32_precision = before
    return bool((products == 256 + 2**-4).all())
