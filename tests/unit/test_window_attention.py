"""Attention to a causal window in blocks computes what torch's attention does with a mask."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build, random_tokens
from torch import Tensor

from folio.models import GPT, blocks, window_attention
from folio.models.masks import causal_mask, near_mask


@given(
    n_tokens=st.integers(1, 300),
    window=st.integers(1, 300),
    scale=st.none() | st.floats(0.01, 2.0),
    block=st.sampled_from([7, 64]),
)
def test_outputs_and_gradients_are_those_of_masked_attention(
    n_tokens: int, window: int, scale: float | None, block: int
) -> None:
    # In float64 two orders of a sum agree to many digits.
    shape, dtype = (2, n_tokens, 3, 4), torch.float64
    q, k, v = (torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3))
    gradient = torch.randn(shape, dtype=dtype).transpose(1, 2)
    mask = causal_mask(n_tokens, n_tokens)
    near = near_mask(torch.arange(n_tokens), torch.arange(n_tokens), window)
    mask = mask if near is None else mask & near
    expected = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_attention, "BLOCK", block)
        mixed = window_attention.window_attention(q, k, v, window, scale)
        gradients = torch.autograd.grad(mixed, (q, k, v), gradient)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (q, k, v), gradient), rtol=0, atol=1e-10)


def test_a_model_with_windows_has_the_same_gradients_with_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with a window and without, grouped heads, and several windows of keys to a row of tokens."""
    model = build(GPT, attention_window="SL:5", context_length=40, n_kv_heads=2, positional_encoding="rotary")
    model.float()
    tokens = random_tokens(2, 40)
    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return window_attention.window_attention(*arguments)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(tokens).square().mean().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    masked = gradients()
    monkeypatch.setattr(window_attention, "BLOCK", 8)
    monkeypatch.setattr(blocks, "window_attention", counted)
    torch.testing.assert_close(gradients(), masked, rtol=1e-4, atol=1e-6)
    assert len(calls) == 2


def test_other_masks_and_inference_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_attention, "BLOCK", 1)
    monkeypatch.setattr(blocks, "window_attention", None)  # a call would raise
    model, tokens = build(GPT, attention_window=2).float(), random_tokens(1, 16)
    first = torch.arange(16)[None] < 12
    model(tokens, padding_mask=first)
    model(tokens, documents=first.long())
    with torch.no_grad():
        model(tokens)
    with pytest.raises(TypeError):
        model(tokens)
