"""The loss of a split is the mean over its targets, each counted once, for every batch size and objective."""

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.lines import Lines
from folio.data.batches.loaders import validation_loader
from folio.data.batches.masking import MaskedValidationLines, Masking
from folio.data.batches.prefixes import PrefixValidationWindows
from folio.data.batches.windows import ValidationWindows
from folio.data.token_file import TokenFileInfo
from folio.models import GPT, Encoder, EncoderDecoder, Model, TransformerConfig, build_model
from folio.objectives import metrics as metrics_module
from folio.objectives.evaluation import Validation, ValidationPart, evaluate, sum_over
from folio.objectives.losses import batch_loss
from folio.objectives.metrics import (
    compute_metrics,
    format_line,
    format_rows,
    metrics_from_sums,
    perplexity,
    token_sums,
)

VOCAB_SIZE, CONTEXT = 17, 8
CPU = torch.device("cpu")


def random_model(**changes: Any) -> Model:
    """Return a float64 model with large weights, and with dropout that would reveal a missing eval()."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "context_length": CONTEXT, "n_layers": 2, "n_heads": 2, "d_model": 8}
    model = build_model(TransformerConfig(**sizes, dropout=0.5, **changes)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def model() -> GPT:
    model = random_model()
    assert isinstance(model, GPT)
    return model


@pytest.fixture
def split() -> np.ndarray:
    """47 tokens: five full windows and a sixth that overlaps the fifth."""
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, 47).astype(np.uint16)


def windows_of(split: np.ndarray, batch_size: int) -> Iterable[Batch]:
    return validation_loader(ValidationWindows(split, CONTEXT), batch_size)


def lines_of(split: np.ndarray, batch_size: int) -> Iterable[Batch]:
    masking = Masking(mask_id=VOCAB_SIZE - 1, n_symbols=VOCAB_SIZE - 1, mask_fraction=0.3)
    return validation_loader(MaskedValidationLines(Lines(split, np.array([3]), CONTEXT), masking), batch_size)


def prefixed_of(split: np.ndarray, batch_size: int, shuffled: bool = False) -> Iterable[Batch]:
    windows = PrefixValidationWindows(split, CONTEXT, min_prefix_length=1, max_prefix_length=CONTEXT, shuffled=shuffled)
    return validation_loader(windows, batch_size)


KINDS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, int], Iterable[Batch]]]] = {
    # objective: (changes to the model, batches of a split)
    "causal_lm": ({}, windows_of),
    "masked_lm": ({"family": "encoder"}, lines_of),
    "prefix_lm by hidden_cache": ({"family": "encoder_decoder", "conditioning": "hidden_cache"}, prefixed_of),
    "prefix_lm by cross_attention": ({"family": "encoder_decoder", "conditioning": "cross_attention"}, prefixed_of),
}


def logits_of(model: Model, batch: Batch) -> Tensor:
    """Return the logits (B, T, V), by the call that a user would write."""
    if isinstance(model, EncoderDecoder):
        return model(batch.tokens, batch.prefix, batch.prefix_lengths)
    return model(batch.tokens, batch.lengths) if isinstance(model, Encoder) else model(batch.tokens)


def sums_one_by_one(model: Model, batch: Batch) -> list[float]:
    """Return the sums from the probability of each target, in a plain loop."""
    nats, correct, n_tokens = 0.0, 0, 0
    probabilities = logits_of(model, batch).softmax(dim=-1)
    for row, column in np.ndindex(*batch.targets.shape):
        target = int(batch.targets[row, column])
        if target != IGNORE_INDEX:
            nats -= math.log(probabilities[row, column, target].item())
            correct += int(probabilities[row, column].argmax()) == target
            n_tokens += 1
    return [nats, correct, n_tokens]


def random_batch() -> Batch:
    tokens, targets = torch.randint(VOCAB_SIZE, (2, 3, CONTEXT))
    return Batch(tokens, targets, n_tokens=tokens.numel())


@pytest.mark.parametrize("chunk_rows", [5, 256])
def test_sums_equal_those_of_a_plain_loop(chunk_rows: int, model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "CHUNK_ROWS", chunk_rows)
    batch = random_batch()
    batch.targets[0] = model(batch.tokens)[0].argmax(dim=-1)  # some correct predictions
    assert token_sums(model, batch).tolist() == pytest.approx(sums_one_by_one(model, batch))


def test_ignored_targets_do_not_count(model: GPT) -> None:
    batch = random_batch()
    batch.targets[1, 2:] = IGNORE_INDEX
    batch.targets[2, :5] = IGNORE_INDEX
    sums = token_sums(model, batch)
    assert sums[2] == 3 * CONTEXT - (CONTEXT - 2) - 5
    assert sums.tolist() == pytest.approx(sums_one_by_one(model, batch))


@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_is_evaluated_with_all_inputs_of_its_model(kind: str, split: np.ndarray) -> None:
    changes, batches_of = KINDS[kind]
    model = random_model(**changes)
    for batch in batches_of(split, 4):
        assert token_sums(model, batch).tolist() == pytest.approx(sums_one_by_one(model, batch))


def test_validation_measures_the_loss_of_training(split: np.ndarray) -> None:
    """A masked LM ignores most targets, in both."""
    model = random_model(family="encoder")
    (batch,) = lines_of(split, 100)
    nats, correct, n_tokens = token_sums(model, batch).tolist()
    assert [part.item() for part in batch_loss(model, batch)] == pytest.approx([nats / n_tokens, correct / n_tokens])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_split_does_not_depend_on_the_batch_size(kind: str, split: np.ndarray) -> None:
    changes, batches_of = KINDS[kind]
    model = random_model(**changes)
    one_by_one, *others = [
        sum_over(model, batches_of(split, batch_size), CPU).tolist() for batch_size in (1, 2, 5, 100)
    ]
    if kind != "masked_lm":
        assert one_by_one[2] == len(split) - (1 if kind == "causal_lm" else CONTEXT)
    for sums in others:
        assert sums == pytest.approx(one_by_one, rel=1e-9)


def test_evaluation_turns_dropout_off(model: GPT, split: np.ndarray) -> None:
    expected = sum_over(model, windows_of(split, 2), CPU)
    assert torch.equal(sum_over(model.train(), windows_of(split, 2), CPU), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_uses_no_random_generator_of_training(kind: str, split: np.ndarray) -> None:
    def next_draws() -> list[float]:
        return [torch.rand(()).item(), random.random(), float(np.random.rand())]

    def seed_all() -> None:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)

    changes, batches_of = KINDS[kind]
    model = random_model(**changes)
    seed_all()
    expected = next_draws()
    seed_all()
    sum_over(model, batches_of(split, 2), CPU)
    assert next_draws() == expected


def test_evaluation_leaves_no_gradients(model: GPT, split: np.ndarray) -> None:
    sums = sum_over(model, windows_of(split, 2), CPU)
    assert not sums.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_masked_lm_has_a_baseline_and_no_bits_per_byte(split: np.ndarray) -> None:
    model, baseline = random_model(family="encoder"), {"unigram_loss_nats": 2.5, "unigram_accuracy": 0.1}
    metrics = evaluate(model, Validation(None, (ValidationPart("", None, lines_of(split, 4), None),), baseline), CPU)
    assert metrics.keys() == {"loss_nats", "perplexity", "accuracy", *baseline}
    assert metrics.items() >= baseline.items()
    (batch,) = lines_of(split, 100)
    nats, correct, n_tokens = sums_one_by_one(model, batch)
    assert (metrics["loss_nats"], metrics["accuracy"]) == pytest.approx((nats / n_tokens, correct / n_tokens))


@pytest.mark.parametrize("conditioning", ["hidden_cache", "cross_attention"])
def test_a_prefix_lm_is_evaluated_with_its_own_and_with_shuffled_prefixes(
    conditioning: str, split: np.ndarray, info_of: Callable[..., TokenFileInfo]
) -> None:
    model, info = random_model(family="encoder_decoder", conditioning=conditioning), info_of(n_tokens=47, n_bytes=94)
    right, shuffled = (prefixed_of(split, 2, shuffled) for shuffled in (False, True))
    metrics = evaluate(model, Validation(info, (ValidationPart("", info, right, shuffled),), {}), CPU)
    assert metrics.keys() == {"loss_nats", "perplexity", "bits_per_byte", "accuracy", "shuffled_prefix_loss_nats"}
    for name, is_shuffled in (("loss_nats", False), ("shuffled_prefix_loss_nats", True)):
        (batch,) = prefixed_of(split, 100, is_shuffled)
        nats, _, n_tokens = sums_one_by_one(model, batch)
        assert metrics[name] == pytest.approx(nats / n_tokens)
    assert metrics["shuffled_prefix_loss_nats"] != metrics["loss_nats"]


def test_metrics_by_hand(info_of: Callable[..., TokenFileInfo]) -> None:
    # 10 tokens of 3 bits each, 4 of them right, 40 bytes of text: 30 bits over 40 bytes.
    sums = torch.tensor([10 * 3 * math.log(2), 4, 10], dtype=torch.float64)
    expected = {"loss_nats": 3 * math.log(2), "perplexity": 8.0, "bits_per_byte": 0.75, "accuracy": 0.4}
    assert metrics_from_sums(sums, info_of(n_tokens=10, n_bytes=40)) == pytest.approx(expected)


def test_the_spelling_of_unknown_words_counts_in_bits_per_byte(info_of: Callable[..., TokenFileInfo]) -> None:
    info = info_of(n_tokens=10, n_bytes=40, n_unknown=2, spelling_bits=50.0)
    assert compute_metrics(3 * math.log(2), 0.4, info)["bits_per_byte"] == pytest.approx((30 + 50) / 40)


def test_without_a_token_file_there_are_no_bits_per_byte() -> None:
    assert compute_metrics(0.0, 1.0, None) == {"loss_nats": 0.0, "perplexity": 1.0, "accuracy": 1.0}


def test_the_perplexity_of_a_uniform_guess_is_the_vocabulary_size() -> None:
    assert perplexity(math.log(VOCAB_SIZE)) == pytest.approx(VOCAB_SIZE)


def test_a_perplexity_beyond_the_largest_float_is_infinite() -> None:
    assert perplexity(1e4) == math.inf


CAUSAL = {"loss_nats": 1.5, "perplexity": 4.4817, "bits_per_byte": 2.25, "accuracy": 0.4}


def test_a_log_line_has_the_metrics_and_their_baselines() -> None:
    assert format_line(CAUSAL) == "val loss 1.5000 nats, perplexity 4.5, bits per byte 2.2500, accuracy 0.400"
    masked = {"loss_nats": 1.5, "perplexity": 4.4817, "accuracy": 0.4}
    baseline = {"unigram_loss_nats": 3.25, "unigram_accuracy": 0.125}
    assert format_line(masked | baseline) == (
        "val loss 1.5000 nats, perplexity 4.5, accuracy 0.400, unigram accuracy 0.125, unigram loss nats 3.250"
    )
    assert format_line(CAUSAL | {"shuffled_prefix_loss_nats": 2.0}).endswith(
        "accuracy 0.400, shuffled prefix loss nats 2.000"
    )


def test_rows_have_titles_for_the_metrics_that_are_there() -> None:
    assert format_rows(CAUSAL) == [
        ("loss", "1.500000 nats"),
        ("perplexity", "4.48"),
        ("bits per byte", "2.2500"),
        ("accuracy", "0.4000"),
    ]
    logged = {"val/loss_nats": 1.5, "val/shuffled_prefix_loss_nats": 2.0, "loss_nats": 7.0, "train/accuracy": 0.3}
    assert format_rows(logged, "val/") == [
        ("validation loss", "1.500000 nats"),
        ("shuffled prefix", "2.000000 nats, with the prefixes of other windows"),
    ]
