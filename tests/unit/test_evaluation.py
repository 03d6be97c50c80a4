"""The loss of a split is the mean over its targets, each counted once, whatever the batches."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from folio.data.loaders import validation_loader
from folio.data.windows import IGNORE_INDEX
from folio.models import GPT, GPTConfig
from folio.training import evaluation
from folio.training.evaluation import evaluate, metrics_from, perplexity, token_sums

VOCAB_SIZE, CONTEXT = 17, 8
CPU = torch.device("cpu")


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=VOCAB_SIZE, context_length=CONTEXT, n_layers=2, n_heads=2, d_model=8, dropout=0.5)
    model = GPT(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def split() -> np.ndarray:
    """47 tokens: five full windows and a sixth that overlaps."""
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, 47).astype(np.uint16)


def sums_one_by_one(model: GPT, tokens: Tensor, targets: Tensor) -> list[float]:
    """As anyone would write it: for each target its probability and whether it was the likeliest."""
    nats, correct, n_tokens = 0.0, 0, 0
    probabilities = model(tokens).softmax(dim=-1)
    for row, column in np.ndindex(*targets.shape):
        target = int(targets[row, column])
        if target != IGNORE_INDEX:
            nats -= math.log(probabilities[row, column, target].item())
            correct += int(probabilities[row, column].argmax()) == target
            n_tokens += 1
    return [nats, correct, n_tokens]


@pytest.mark.parametrize("chunk_rows", [5, 256])
def test_sums_are_those_of_a_plain_loop(chunk_rows: int, model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK_ROWS", chunk_rows)
    tokens, targets = torch.randint(VOCAB_SIZE, (2, 3, CONTEXT))
    targets[0] = model(tokens)[0].argmax(dim=-1)  # some that are right
    assert token_sums(model, tokens, targets).tolist() == pytest.approx(sums_one_by_one(model, tokens, targets))


def test_ignored_targets_do_not_count(model: GPT) -> None:
    tokens, targets = torch.randint(VOCAB_SIZE, (2, 3, CONTEXT))
    targets[1, 2:] = IGNORE_INDEX
    targets[2, :5] = IGNORE_INDEX
    sums = token_sums(model, tokens, targets)
    assert sums[2] == 3 * CONTEXT - (CONTEXT - 2) - 5
    assert sums.tolist() == pytest.approx(sums_one_by_one(model, tokens, targets))


def test_the_loss_of_a_split_does_not_depend_on_the_batch_size(model: GPT, split: np.ndarray) -> None:
    one_by_one, *others = [
        evaluate(model, validation_loader(split, CONTEXT, batch_size), CPU).tolist() for batch_size in (1, 2, 5, 100)
    ]
    assert one_by_one[2] == len(split) - 1
    for sums in others:
        assert sums == pytest.approx(one_by_one, rel=1e-9)


def test_evaluation_turns_dropout_off(model: GPT, split: np.ndarray) -> None:
    expected = evaluate(model, validation_loader(split, CONTEXT, 2), CPU)
    assert torch.equal(evaluate(model.train(), validation_loader(split, CONTEXT, 2), CPU), expected)


def test_evaluation_draws_from_no_generator_of_training(model: GPT, split: np.ndarray) -> None:
    def next_draws() -> list[float]:
        return [torch.rand(()).item(), random.random(), float(np.random.rand())]

    def seed_all() -> None:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)

    seed_all()
    expected = next_draws()
    seed_all()
    evaluate(model, validation_loader(split, CONTEXT, 2), CPU)
    assert next_draws() == expected


def test_evaluation_leaves_no_gradients(model: GPT, split: np.ndarray) -> None:
    sums = evaluate(model, validation_loader(split, CONTEXT, 2), CPU)
    assert not sums.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_metrics_by_hand() -> None:
    # 10 tokens of 3 bits each, 4 of them right, 40 bytes of text: 30 bits over 40 bytes.
    sums = torch.tensor([10 * 3 * math.log(2), 4, 10], dtype=torch.float64)
    assert metrics_from(sums, tokens_per_byte=10 / 40) == pytest.approx(
        {"loss_nats": 3 * math.log(2), "perplexity": 8.0, "bits_per_byte": 0.75, "accuracy": 0.4}
    )


def test_a_guess_among_all_symbols_has_the_perplexity_of_their_number() -> None:
    assert perplexity(math.log(VOCAB_SIZE)) == pytest.approx(VOCAB_SIZE)


def test_a_perplexity_past_the_largest_float_is_infinite() -> None:
    assert perplexity(1e4) == math.inf
