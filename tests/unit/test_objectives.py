"""The chunked loss is the plain one, and is taken where it is the faster."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from folio.models import GPT, GPTConfig
from folio.training import objectives
from folio.training.objectives import ChunkedCrossEntropy, causal_lm_loss

VOCAB_SIZE, WIDTH = 13, 6
TINY = GPTConfig(vocab_size=VOCAB_SIZE, context_length=8, n_layers=1, n_heads=2, d_model=WIDTH)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "CHUNK_ROWS", 4)


def problem(n_rows: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden (N, D), weight (V, D) and targets (N,)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n_rows, WIDTH, generator=generator, dtype=torch.float64).mul_(scale).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    return hidden, weight, torch.randint(VOCAB_SIZE, (n_rows,), generator=generator)


@given(n_rows=st.integers(1, 13), seed=st.integers(0, 2**32), scale=st.floats(0.1, 100))
def test_the_chunked_loss_and_gradients_are_those_of_cross_entropy(n_rows: int, seed: int, scale: float) -> None:
    hidden, weight, targets = problem(n_rows, seed, scale)
    loss, _ = ChunkedCrossEntropy.apply(hidden, weight, targets)
    expected = F.cross_entropy(hidden @ weight.T, targets)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_chunked_gradient_is_the_slope_of_the_chunked_loss() -> None:
    hidden, weight, targets = problem(n_rows=6)
    # Times 3, so that the gradient that comes from above is not 1.
    assert torch.autograd.gradcheck(lambda h, w: 3.0 * ChunkedCrossEntropy.apply(h, w, targets)[0], (hidden, weight))


def test_the_chunked_loss_of_huge_logits_is_finite() -> None:
    hidden, weight = torch.tensor([[1e4], [-1e4]]), torch.tensor([[1.0], [-1.0], [0.5]])
    hidden.requires_grad_()
    loss, _ = ChunkedCrossEntropy.apply(hidden, weight, torch.tensor([0, 0]))
    assert loss.item() == 1e4  # nothing where the target is the largest, else the distance from it
    assert torch.autograd.grad(loss, hidden)[0].isfinite().all()


def test_the_chunked_accuracy_is_the_share_of_rows_whose_target_is_largest() -> None:
    hidden, weight, targets = problem(n_rows=11)
    best = (hidden @ weight.T).argmax(dim=1)
    targets[:3], targets[3:] = best[:3], (best[3:] + 1) % VOCAB_SIZE
    _, accuracy = ChunkedCrossEntropy.apply(hidden, weight, targets)
    assert accuracy.item() == pytest.approx(3 / 11)
    assert not accuracy.requires_grad


def losses_of(model: GPT, tokens: Tensor, targets: Tensor) -> tuple[str, float, float, list[Tensor]]:
    """Which way was taken, loss, accuracy and gradients."""
    model.zero_grad()
    loss, accuracy = causal_lm_loss(model, tokens, targets)
    assert loss.grad_fn is not None
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.grad_fn.name(), loss.item(), accuracy.item(), gradients


@pytest.mark.parametrize("tie_weights", [True, False])
def test_both_ways_give_the_same_loss_accuracy_and_gradients(
    tie_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**vars(TINY), "tie_weights": tie_weights}))
    tokens, targets = torch.randint(VOCAB_SIZE, (2, 3, 7))
    results = []
    for threshold in (VOCAB_SIZE, VOCAB_SIZE + 1):
        monkeypatch.setattr(objectives, "MIN_CHUNKED_VOCABULARY", threshold)
        results.append(losses_of(model, tokens, targets))
    (chunked_name, *chunked), (plain_name, *plain) = results
    assert "ChunkedCrossEntropy" in chunked_name
    assert "ChunkedCrossEntropy" not in plain_name
    torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_mean_over_all_tokens_of_the_batch() -> None:
    torch.manual_seed(0)
    model = GPT(TINY)
    tokens, targets = torch.randint(VOCAB_SIZE, (2, 3, 7))
    expected = -model(tokens).log_softmax(dim=-1).gather(2, targets[..., None]).mean()
    torch.testing.assert_close(causal_lm_loss(model, tokens, targets)[0], expected)


def test_under_autocast_the_loss_is_taken_plainly_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "MIN_CHUNKED_VOCABULARY", 1)
    model = GPT(TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = causal_lm_loss(model, *torch.zeros(2, 1, 4, dtype=torch.int64))
    assert loss.grad_fn is not None
    assert "ChunkedCrossEntropy" not in loss.grad_fn.name()
    assert loss.dtype == torch.float32
