"""Matrix products of few rows on a CPU, as text is written: the same functions, by faster kernels.

What limits them is how fast the weights can be read. Both parts are public switches of torch, measured on an AMD Zen 5
core that reads 30 GB/s; with neither, products read 15 GB/s for one row and 8 for eight, with both 23 and 15.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def lay_out_by_input(model: nn.Module) -> None:
    """Let the weights of linear layers lie input by input in memory: names, shapes and values stay as they are.

    A row times a weight is then a sum of vectors as long as the output, not many short inner products. For a model
    that is only read: an optimizer would find its state laid out otherwise.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            module.weight.data = module.weight.data.t().contiguous().t()


@contextmanager
def onednn_products() -> Iterator[None]:
    """Inside, float32 products on a CPU are oneDNN's and not MKL's, if that costs no digits."""
    with _bfloat16_allowed() if _onednn_keeps_float32() else nullcontext():
        yield


@cache
def _onednn_keeps_float32() -> bool:
    """Whether a product that is allowed bfloat16 comes out as in float32, to the last bit."""
    if not torch.backends.mkldnn.is_available():
        return False
    # In bfloat16 1 + 2^-12 is 1; in float32 every sum of 256 of them is exact, in whatever order.
    rows, weight = torch.full((16, 256), 1 + 2**-12), torch.ones(256, 256)
    with _bfloat16_allowed():
        products = F.linear(rows, weight)
    return bool((products == 256 + 2**-4).all())


@contextmanager
def _bfloat16_allowed() -> Iterator[None]:
    """Inside, torch hands float32 products to oneDNN, which may use bfloat16 for them.

    It does so on CPUs with matrix units for bfloat16 (AMX). On others it takes float32, with every instruction that
    the CPU has; MKL leaves out the widest ones on those that are not Intel's.
    """
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch's own types have it not
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
