"""The loss is the mean over the targets for every objective, and the chunked loss equals F.cross_entropy."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.models import GPT, Model, TransformerConfig, build_model
from folio.objectives import losses as objectives
from folio.objectives.losses import ChunkedCrossEntropy, batch_loss

VOCAB_SIZE, WIDTH = 13, 6
TINY = TransformerConfig(vocab_size=VOCAB_SIZE, context_length=8, n_layers=1, n_heads=2, d_model=WIDTH)
KINDS: dict[str, dict[str, Any]] = {
    "causal_lm": {},
    "masked_lm": {"family": "encoder"},
    "prefix_lm by hidden_cache": {"family": "encoder_decoder", "conditioning": "hidden_cache"},
    "prefix_lm by cross_attention": {"family": "encoder_decoder", "conditioning": "cross_attention"},
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "CHUNK_ROWS", 4)


def problem(n_rows: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden (N, D), weight (V, D) and targets (N,)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n_rows, WIDTH, generator=generator, dtype=torch.float64).mul_(scale).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    return hidden, weight, torch.randint(VOCAB_SIZE, (n_rows,), generator=generator)


@given(n_rows=st.integers(1, 13), seed=st.integers(0, 2**32), scale=st.floats(0.1, 100), factor=st.floats(-3, 3))
@example(n_rows=6, seed=0, scale=1.0, factor=1.0)
def test_the_chunked_loss_and_its_gradients_equal_those_of_cross_entropy(
    n_rows: int, seed: int, scale: float, factor: float
) -> None:
    hidden, weight, targets = problem(n_rows, seed, scale)
    loss = factor * ChunkedCrossEntropy.apply(hidden, weight, None, targets)[0]
    expected = factor * F.cross_entropy(hidden @ weight.T, targets)
    torch.testing.assert_close(loss, expected)
    for ours, reference in zip(
        torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, reference)


def test_the_chunked_loss_cannot_be_differentiated_twice() -> None:
    hidden, weight, targets = problem(n_rows=6)
    loss, _ = ChunkedCrossEntropy.apply(hidden, weight, None, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_the_chunked_loss_of_huge_logits_is_finite() -> None:
    hidden, weight = torch.tensor([[1e4], [-1e4]]), torch.tensor([[1.0], [-1.0], [0.5]])
    hidden.requires_grad_()
    loss, _ = ChunkedCrossEntropy.apply(hidden, weight, None, torch.tensor([0, 0]))
    assert loss.item() == 1e4  # 0 if the target has the largest logit, else the difference
    assert torch.autograd.grad(loss, hidden)[0].isfinite().all()


def test_the_chunked_accuracy_is_the_share_of_rows_whose_target_is_largest() -> None:
    hidden, weight, targets = problem(n_rows=11)
    best = (hidden @ weight.T).argmax(dim=1)
    targets[:3], targets[3:] = best[:3], (best[3:] + 1) % VOCAB_SIZE
    _, accuracy = ChunkedCrossEntropy.apply(hidden, weight, None, targets)
    assert accuracy.item() == pytest.approx(3 / 11)
    assert not accuracy.requires_grad


def problem_of(kind: str, **changes: Any) -> tuple[Model, Batch]:
    """Return a float64 model with large weights, and a batch like those of its objective."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(replace(TINY, **KINDS[kind], **changes)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    tokens, targets, prefix = torch.randint(VOCAB_SIZE, (3, 3, 7), generator=generator)
    batch = Batch(tokens, targets, n_tokens=21)
    if kind == "masked_lm":
        is_target = torch.tensor([[1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1, 1]]).bool()
        return model, batch._replace(
            targets=targets.masked_fill(~is_target, IGNORE_INDEX), lengths=torch.tensor([5, 2, 7]), weight=3.0
        )
    if kind.startswith("prefix_lm"):
        return model, batch._replace(prefix=prefix, prefix_lengths=torch.tensor([7, 1, 4]))
    return model, batch


def logits_of(model: Model, batch: Batch) -> Tensor:
    """Return the logits (B, T, V), by the call that a user would write."""
    if batch.prefix is not None:
        return model(batch.tokens, batch.prefix, batch.prefix_lengths)
    return model(batch.tokens) if batch.lengths is None else model(batch.tokens, batch.lengths)


def losses_of(model: Model, batch: Batch) -> tuple[str, float, float, list[Tensor]]:
    """Return the name of the loss function, the loss, the accuracy and the gradients."""
    model.zero_grad()
    loss, accuracy = batch_loss(model, batch)
    assert loss.grad_fn is not None
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.grad_fn.name(), loss.item(), accuracy.item(), gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "choices", [{"tie_weights": True}, {"tie_weights": False}, {"output_bias": True}, {"logit_softcap": 0.5}], ids=str
)
def test_loss_accuracy_and_gradients_are_the_same_with_and_without_chunks(
    choices: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = problem_of(kind, **choices)
    if model.output.bias is not None:
        torch.nn.init.normal_(model.output.bias)
    results = []
    for threshold in (VOCAB_SIZE, VOCAB_SIZE + 1):
        monkeypatch.setattr(objectives, "MIN_CHUNKED_VOCABULARY", threshold)
        results.append(losses_of(model, batch))
    (chunked_name, *chunked), (plain_name, *plain) = results
    assert "ChunkedCrossEntropy" in chunked_name
    assert "ChunkedCrossEntropy" not in plain_name
    # The tolerances of float32, which the logits have without chunks.
    torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [1, 10_000])
def test_loss_and_accuracy_are_means_over_the_targets(
    threshold: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with a plain loop over the targets."""
    monkeypatch.setattr(objectives, "MIN_CHUNKED_VOCABULARY", threshold)
    model, batch = problem_of(kind)
    logits = logits_of(model, batch)
    counted = batch.targets != IGNORE_INDEX
    batch.targets[0, 0] = logits[0, 0].argmax()  # one correct prediction
    nats, correct = [], []
    for row, column in counted.nonzero().tolist():
        target = int(batch.targets[row, column])
        nats.append(-math.log(logits[row, column].softmax(dim=0)[target].item()))
        correct.append(int(logits[row, column].argmax()) == target)
    loss, accuracy = batch_loss(model, batch)
    assert len(nats) == (9 if kind == "masked_lm" else 21)
    assert loss.item() == pytest.approx(sum(nats) / len(nats), rel=1e-6)
    assert accuracy.item() == pytest.approx(sum(correct) / len(correct))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_cross_entropy_of_the_models_own_logits(kind: str) -> None:
    model, batch = problem_of(kind)
    expected = F.cross_entropy(logits_of(model, batch).flatten(end_dim=1), batch.targets.flatten())
    torch.testing.assert_close(batch_loss(model, batch)[0].double(), expected, rtol=1e-6, atol=1e-6)


def test_a_masked_lm_learns_only_from_its_targets() -> None:
    model, batch = problem_of("masked_lm")
    hidden = model.token_embedding.weight.new_zeros(3, 7, WIDTH).requires_grad_()
    model.hidden = lambda tokens, lengths: hidden  # type: ignore[method-assign]
    batch_loss(model, batch)[0].backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad.abs().sum(dim=-1) > 0, batch.targets != IGNORE_INDEX)


def test_under_autocast_the_loss_is_not_chunked_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "MIN_CHUNKED_VOCABULARY", 1)
    model = GPT(TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = batch_loss(model, Batch(*torch.zeros(2, 1, 4, dtype=torch.int64), n_tokens=4))
    assert loss.grad_fn is not None
    assert "ChunkedCrossEntropy" not in loss.grad_fn.name()
    assert loss.dtype == torch.float32
