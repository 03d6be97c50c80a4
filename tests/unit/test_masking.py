"""Masks hide the same shares as BERT's, are a function of (seed, step), and weigh the same in any micro-batch."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.lines import Lines
from folio.data.batches.masking import (
    RANDOMS_PER_TOKEN,
    MaskedTrainingLines,
    MaskedValidationLines,
    Masking,
    mask_tokens,
    unigram_baseline,
)
from folio.data.batches.order import WINDOW_ORDERS, MicroBatch, TrainingBatches
from folio.data.batches.random_numbers import RandomStream, random_uint64

NEWLINE, N_SYMBOLS, MASK_ID = 0, 30, 30
NEWLINES = np.array([NEWLINE])
MASKING = Masking(mask_id=MASK_ID, n_symbols=N_SYMBOLS, mask_fraction=0.15)
seeds = st.integers(0, 2**64 - 1)
line_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def lines_of(lengths: list[int], max_length: int = 40) -> Lines:
    rng = np.random.default_rng(sum(lengths))
    runs = [np.append(rng.integers(1, N_SYMBOLS, length), NEWLINE) for length in lengths]
    return Lines(np.concatenate(runs).astype("<u2"), NEWLINES, max_length)


def randoms_for(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    shape = n_rows, n_columns, RANDOMS_PER_TOKEN
    return random_uint64(seed, 0, math.prod(shape), RandomStream.MASKS).reshape(shape)


def whole_step(dataset: MaskedTrainingLines, indices: np.ndarray, step: int = 0) -> Batch:
    return dataset.batch(MicroBatch(step, indices, slice(None)))


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Return inputs and targets of each row, without its padding."""
    assert batch.lengths is not None
    columns = zip(batch.tokens, batch.targets, batch.lengths, strict=True)
    return [(tokens[:length].tolist(), targets[:length].tolist()) for tokens, targets, length in columns]


@given(line_lengths, st.sampled_from([0.01, 0.15, 0.5, 1.0]), seeds)
def test_each_line_has_its_share_of_targets_and_nothing_else_changes(
    line_lengths: list[int], mask_fraction: float, seed: int
) -> None:
    tokens, lengths = lines_of(line_lengths).gather(np.arange(len(line_lengths)))
    masking = Masking(mask_id=MASK_ID, n_symbols=N_SYMBOLS, mask_fraction=mask_fraction)
    inputs, targets = mask_tokens(tokens, lengths, randoms_for(*tokens.shape, seed), masking)
    is_target = targets != IGNORE_INDEX
    assert is_target.sum(axis=1).tolist() == [max(1, round(mask_fraction * length)) for length in line_lengths]
    assert not is_target[np.arange(tokens.shape[1]) >= lengths[:, None]].any()
    assert (targets[is_target] == tokens[is_target]).all()
    assert (inputs[~is_target] == tokens[~is_target]).all()
    assert inputs.dtype == targets.dtype == np.int64


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, inputs and targets of 20,000 lines of 20 tokens, three of which are targets. Tokens are below 10."""
    tokens = np.random.default_rng(0).integers(0, 10, (20_000, 20))
    return tokens, *mask_tokens(tokens, np.full(20_000, 20), randoms_for(20_000, 20), MASKING)


def test_of_the_targets_80_percent_are_masked_10_changed_and_10_kept(
    many: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    tokens, inputs, targets = many
    is_target = targets != IGNORE_INDEX
    n = is_target.sum()
    shares = {"mask": 0.8, "kept": 0.1 + 0.1 / N_SYMBOLS, "changed": 0.1 - 0.1 / N_SYMBOLS}
    masked, kept = is_target & (inputs == MASK_ID), is_target & (inputs == tokens)
    counts = {"mask": masked.sum(), "kept": kept.sum(), "changed": n - masked.sum() - kept.sum()}
    assert n == 60_000
    for name, share in shares.items():
        assert abs(counts[name] / n - share) < 4 * math.sqrt(share * (1 - share) / n), name


def test_another_symbol_is_any_of_the_vocabulary(many: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    tokens, inputs, targets = many
    changed = inputs[(targets != IGNORE_INDEX) & (inputs != MASK_ID) & (inputs != tokens)]
    counts = np.bincount(changed, minlength=N_SYMBOLS)[10:]  # symbols that no token is, so none was taken for kept
    assert len(counts) == N_SYMBOLS - 10
    expected = 60_000 * 0.1 / N_SYMBOLS
    assert abs(counts - expected).max() < 4.5 * math.sqrt(expected)


def test_all_positions_and_pairs_of_positions_are_targets_equally_often(
    many: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    is_target = (many[2] != IGNORE_INDEX).astype(np.int64)
    together = is_target.T @ is_target  # (20, 20): how often both positions are targets
    for counts, share in ((np.diag(together), 3 / 20), (together[np.triu_indices(20, 1)], 3 / 20 * 2 / 19)):
        assert abs(counts / 20_000 - share).max() < 4.5 * math.sqrt(share * (1 - share) / 20_000)


def test_equal_ranks_make_no_padding_a_target() -> None:
    largest = np.full((1, 400, RANDOMS_PER_TOKEN), np.iinfo(np.uint64).max)
    _, targets = mask_tokens(np.ones((1, 400), dtype=np.int64), np.array([20]), largest, MASKING)
    assert np.flatnonzero(targets != IGNORE_INDEX).tolist() == [0, 1, 2]


@given(line_lengths, seeds, st.integers(0, 2**40))
def test_training_masks_depend_on_seed_and_step_alone(line_lengths: list[int], seed: int, step: int) -> None:
    lines, indices = lines_of([*line_lengths, 40, 40]), np.arange(len(line_lengths) + 2)
    first = whole_step(MaskedTrainingLines(lines, MASKING, seed=seed), indices, step)
    np.random.seed(0)
    torch.manual_seed(0)
    again = whole_step(MaskedTrainingLines(lines, MASKING, seed=seed), indices, step)
    other_step = whole_step(MaskedTrainingLines(lines, MASKING, seed=seed), indices, step + 1)
    other_seed = whole_step(MaskedTrainingLines(lines, MASKING, seed=seed ^ 1), indices, step)
    assert rows_of(first) == rows_of(again)
    assert rows_of(first) != rows_of(other_step)
    assert rows_of(first) != rows_of(other_seed)


def test_training_masks_draw_nothing_from_the_global_generators() -> None:
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    whole_step(MaskedTrainingLines(lines_of([5, 6]), MASKING, seed=0), np.arange(2))
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


@given(line_lengths, seeds)
def test_the_masks_of_a_row_do_not_depend_on_the_other_rows(line_lengths: list[int], seed: int) -> None:
    """Nor on the padding of the row: the line of 40 tokens is only in one of the batches."""
    lines = lines_of([*line_lengths, 40])
    dataset = MaskedTrainingLines(lines, MASKING, seed=seed)
    alone = np.zeros(len(line_lengths), dtype=np.int64)
    with_others = np.append(0, np.full(len(line_lengths) - 1, len(line_lengths)))
    assert rows_of(whole_step(dataset, alone))[0] == rows_of(whole_step(dataset, with_others))[0]


@given(
    line_lengths=line_lengths,
    window_order=st.sampled_from(sorted(WINDOW_ORDERS)),
    cut=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    seed=seeds,
)
def test_a_step_is_the_same_however_its_batch_is_divided(
    line_lengths: list[int], window_order: str, cut: tuple[int, int, int], seed: int
) -> None:
    """The masks are the same, and the weighted mean over micro-batches and ranks is the mean over all targets."""
    world_size, micro_batch_size, n_micro = cut
    batch_size = world_size * micro_batch_size * n_micro
    dataset = MaskedTrainingLines(lines_of(line_lengths), MASKING, seed=seed)
    micro_batches = [
        dataset.batch(micro_batch)
        for rank in range(world_size)
        for micro_batch in TrainingBatches(
            window_order, len(dataset), seed, batch_size, micro_batch_size, 3, 4, rank, world_size
        )
    ]
    indices = WINDOW_ORDERS[window_order](len(dataset), seed, 3, batch_size)
    whole = whole_step(dataset, indices, step=3)
    assert [row for batch in micro_batches for row in rows_of(batch)] == rows_of(whole)
    assert sum(batch.n_tokens for batch in micro_batches) == whole.n_tokens
    assert whole.weight == 1.0
    means = [batch.weight * fake_losses(batch).mean() for batch in micro_batches]
    assert float(torch.stack(means).mean()) == pytest.approx(float(fake_losses(whole).mean()))


def fake_losses(batch: Batch) -> Tensor:
    """Return a number for each target, (n_targets,), which depends on the inputs and the position."""
    is_target = batch.targets != IGNORE_INDEX
    columns = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
    return (7 * batch.tokens[is_target] + 3 * batch.targets[is_target] + columns[is_target]).double()


def test_a_batch_says_how_much_of_it_is_text() -> None:
    batch = whole_step(MaskedTrainingLines(lines_of([3, 1, 6]), MASKING, seed=0), np.array([0, 1]))
    assert batch.tokens.shape == batch.targets.shape == (2, 3)
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [3, 1]
    assert batch.n_tokens == 4
    assert batch.tokens[1, 1:].tolist() == [0, 0]
    assert batch.prefix is None


@given(line_lengths, st.integers(1, 9))
def test_validation_masks_are_the_same_for_any_batch_size(line_lengths: list[int], batch_size: int) -> None:
    dataset = MaskedValidationLines(lines_of(line_lengths), MASKING)
    numbers = range(len(dataset))
    one_by_one = [rows_of(dataset.batch([number]))[0] for number in numbers]
    batches = [dataset.batch(numbers[first : first + batch_size]) for first in numbers[::batch_size]]
    assert [row for batch in batches for row in rows_of(batch)] == one_by_one
    backwards = rows_of(dataset.batch(numbers[::-1]))
    assert backwards[::-1] == one_by_one


def test_lines_have_masks_of_their_own_in_validation() -> None:
    dataset = MaskedValidationLines(lines_of([40] * 50), MASKING)
    is_target = dataset.batch(range(50)).targets != IGNORE_INDEX
    assert len(torch.unique(is_target, dim=0)) == 50


def test_the_unigram_baseline_by_hand() -> None:
    # Every token of the validation lines is is_target for: 5, 5, 6, 8.
    everything = Masking(mask_id=9, n_symbols=9, mask_fraction=1.0)
    validation = MaskedValidationLines(Lines(np.array([5, 5, 6, 0, 8]), NEWLINES, 10), everything)
    train = np.array([5, 5, 5, 6, 0, 0, 0, 0, 0], dtype="<u2")
    # Counts with one added: 4 of 5, 2 of 6, 1 of each of the other 6 that are no newline.
    nats = -(2 * math.log(4 / 12) + math.log(2 / 12) + math.log(1 / 12)) / 4
    assert unigram_baseline(train, NEWLINES, [validation]) == pytest.approx(
        {"unigram_loss_nats": nats, "unigram_accuracy": 0.5}
    )


def test_the_unigram_baseline_looks_at_exactly_the_targets_of_validation() -> None:
    validation = MaskedValidationLines(lines_of([30] * 400), MASKING)
    train = np.random.default_rng(1).integers(0, 12, 5000).astype("<u2")
    targets = validation.batch(range(400)).targets
    is_target = targets[targets != IGNORE_INDEX].tolist()
    counts = Counter(token for token in train.tolist() if token != NEWLINE)
    n_smoothed = counts.total() + N_SYMBOLS - 1
    nats = [-math.log((counts[token] + 1) / n_smoothed) for token in is_target]
    commonest = counts.most_common(1)[0][0]
    assert unigram_baseline(train, NEWLINES, [validation]) == pytest.approx(
        {"unigram_loss_nats": sum(nats) / len(nats), "unigram_accuracy": is_target.count(commonest) / len(is_target)}
    )
