"""The faster dropout and RMS norm compute what torch's do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from folio.models.cpu_elementwise import Dropout, RMSNorm


@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.01, 0.99))
def test_dropout_keeps_or_drops_each_element_and_its_gradient(n_rows: int, n_columns: int, p: float) -> None:
    hidden = torch.full((n_rows, n_columns), 2.0, requires_grad=True)
    dropped = Dropout(p)(hidden)
    (gradient,) = torch.autograd.grad(dropped.sum(), hidden)
    assert torch.equal(dropped, 2 * gradient)
    kept = gradient[gradient != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_a_share_of_p_wherever_an_element_stands(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = Dropout(p)(torch.ones(40_000, 8, dtype=dtype))
    assert hidden.dtype == dtype
    dropped = hidden == 0
    # 0.01 is four standard deviations of a column's share
    torch.testing.assert_close(dropped.double().mean(dim=0), torch.full((8,), p, dtype=torch.double), rtol=0, atol=0.01)
    neighbors = (dropped[:, 1:] & dropped[:, :-1]).double().mean(dim=0)
    torch.testing.assert_close(neighbors, torch.full((7,), p * p, dtype=torch.double), rtol=0, atol=0.01)


def test_dropout_follows_torchs_generator() -> None:
    hidden, dropout = torch.ones(3, 5), Dropout(0.5)
    torch.manual_seed(1)
    first, second = dropout(hidden), dropout(hidden)
    torch.manual_seed(1)
    assert torch.equal(dropout(hidden), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-9])
def test_dropout_of_all_or_nothing(p: float) -> None:
    hidden = torch.randn(3, 5)
    assert torch.equal(Dropout(p)(hidden), nn.Dropout(p)(hidden))


def test_dropout_does_nothing_outside_of_training() -> None:
    hidden = torch.randn(3, 5)
    assert Dropout(0.5).eval()(hidden) is hidden


@pytest.mark.parametrize("is_transposed", [False, True])
def test_an_rms_norm_and_its_gradients_are_torchs(is_transposed: bool) -> None:
    ours, plain = RMSNorm(16, eps=1e-3), nn.RMSNorm(16, eps=1e-3)
    assert list(ours.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(-1, 2, 16))
        plain.load_state_dict(ours.state_dict())
    hidden = torch.randn(2, 5, 3, 16).mul_(torch.tensor([1e-3, 1.0, 1e3])[:, None])
    hidden = hidden.transpose(1, 2) if is_transposed else hidden
    hidden.requires_grad_()
    gradient = torch.randn_like(hidden)
    results = []
    for norm in (ours, plain):
        normed = norm(hidden)
        results.append((normed, *torch.autograd.grad(normed, (hidden, norm.weight), gradient)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_an_rms_norm_of_zeros_is_zero() -> None:
    hidden = torch.zeros(2, 4, requires_grad=True)
    norm = RMSNorm(4, eps=1e-6)
    normed = norm(hidden)
    assert torch.equal(normed, torch.zeros(2, 4))
    assert torch.isfinite(torch.autograd.grad(normed.sum(), hidden)[0]).all()


@pytest.mark.parametrize("context", [torch.no_grad(), torch.autocast("cpu", torch.bfloat16)])
def test_an_rms_norm_is_the_same_without_gradients_and_in_mixed_precision(context: torch.no_grad) -> None:
    hidden, norm = torch.randn(2, 4), RMSNorm(4, eps=1e-6)
    with context:
        torch.testing.assert_close(norm(hidden), nn.RMSNorm(4, eps=1e-6)(hidden))
