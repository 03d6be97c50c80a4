"""A prefix is the text before its continuation, and validation counts each token that has one once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.order import MicroBatch, TrainingBatches
from folio.data.batches.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.runtime.errors import FolioError

seeds = st.integers(0, 2**64 - 1)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Number of tokens, context length, shortest and longest prefix."""
    context_length, longest = draw(st.integers(1, 12)), draw(st.integers(1, 20))
    shortest = draw(st.integers(1, longest))
    return context_length + longest + draw(st.integers(0, 100)), context_length, shortest, longest


def prefixes_of(batch: Batch) -> list[list[int]]:
    """Return each prefix without its padding, after checking that the padding is zeros and no wider than needed."""
    assert batch.prefix is not None
    assert batch.prefix_lengths is not None
    lengths = batch.prefix_lengths.tolist()
    assert batch.prefix.shape == (len(batch.tokens), max(lengths))
    assert not any(row[length:].any() for row, length in zip(batch.prefix, lengths, strict=True))
    return [row[:length].tolist() for row, length in zip(batch.prefix, lengths, strict=True)]


def test_a_window_by_hand() -> None:
    corpus = np.arange(100, 120, dtype="<u2")
    windows = PrefixTrainingWindows(corpus, 4, seed=0, min_prefix_length=3, max_prefix_length=3)
    batch = windows.batch(MicroBatch(0, np.array([0, 13]), slice(None)))
    assert prefixes_of(batch) == [[100, 101, 102], [113, 114, 115]]
    assert batch.tokens.tolist() == [[102, 103, 104, 105], [115, 116, 117, 118]]
    assert batch.targets.tolist() == [[103, 104, 105, 106], [116, 117, 118, 119]]
    assert batch.n_tokens == 2 * (3 + 4)
    assert batch.weight == 1.0
    assert batch.lengths is None
    assert len(windows) == 20 - 7 + 1


def test_the_validation_of_a_split_by_hand() -> None:
    windows = PrefixValidationWindows(np.arange(100, 112), 4, min_prefix_length=2, max_prefix_length=2)
    batch = windows.batch(range(len(windows)))
    assert prefixes_of(batch) == [[100, 101], [104, 105], [106, 107]]
    assert batch.tokens.tolist() == [[101, 102, 103, 104], [105, 106, 107, 108], [107, 108, 109, 110]]
    ignored = [IGNORE_INDEX, IGNORE_INDEX]
    assert batch.targets.tolist() == [[102, 103, 104, 105], [106, 107, 108, 109], [*ignored, 110, 111]]


@given(sizes(), seeds, st.integers(0, 2**40))
def test_a_prefix_precedes_its_continuation_and_has_a_length_in_range(
    sizes: tuple[int, int, int, int], seed: int, step: int
) -> None:
    n_tokens, context_length, shortest, longest = sizes
    windows = PrefixTrainingWindows(
        np.arange(1, n_tokens + 1), context_length, seed=seed, min_prefix_length=shortest, max_prefix_length=longest
    )
    assert len(windows) == n_tokens - context_length - longest + 1
    starts = np.arange(len(windows))
    batch = windows.batch(MicroBatch(step, starts, slice(None)))
    prefixes = prefixes_of(batch)
    assert all(shortest <= len(prefix) <= longest for prefix in prefixes)
    assert batch.n_tokens == sum(map(len, prefixes)) + batch.tokens.numel()
    # The text counts from 1, so what comes after a token is one more.
    for start, prefix, tokens, targets in zip(starts, prefixes, batch.tokens, batch.targets, strict=True):
        continuation = list(range(start + longest + 1, start + longest + context_length + 1))
        assert targets.tolist() == continuation
        assert prefix == list(range(continuation[0] - len(prefix), continuation[0]))
        assert tokens.tolist() == [prefix[-1], *continuation[:-1]]


def test_prefix_lengths_are_uniform() -> None:
    windows = PrefixTrainingWindows(np.zeros(10), 2, seed=0, min_prefix_length=2, max_prefix_length=6)
    lengths = windows.batch(MicroBatch(0, np.zeros(50_000, dtype=np.int64), slice(None))).prefix_lengths
    assert lengths is not None
    counts = np.bincount(lengths)[2:]
    # Binomial counts: mean 10,000, standard deviation 89.
    assert len(counts) == 5
    assert abs(counts - 10_000).max() < 4 * 89


@given(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)), seeds)
def test_a_step_is_the_same_however_its_batch_is_divided(cut: tuple[int, int, int], seed: int) -> None:
    world_size, micro_batch_size, n_micro = cut
    batch_size = world_size * micro_batch_size * n_micro
    corpus = np.arange(1, 200)
    windows = PrefixTrainingWindows(corpus, 8, seed=seed, min_prefix_length=1, max_prefix_length=16)
    micro_batches = [
        windows.batch(micro_batch)
        for rank in range(world_size)
        for micro_batch in TrainingBatches(
            "random", len(windows), seed, batch_size, micro_batch_size, 3, 4, rank, world_size
        )
    ]
    (micro_batch,) = TrainingBatches("random", len(windows), seed, batch_size, batch_size, 3, 4)
    whole = windows.batch(micro_batch)
    assert [prefix for batch in micro_batches for prefix in prefixes_of(batch)] == prefixes_of(whole)
    assert torch.equal(torch.cat([batch.tokens for batch in micro_batches]), whole.tokens)
    assert torch.equal(torch.cat([batch.targets for batch in micro_batches]), whole.targets)


def test_prefix_lengths_depend_on_seed_and_step() -> None:
    def lengths(seed: int, step: int) -> list[int]:
        windows = PrefixTrainingWindows(np.arange(99), 8, seed=seed, min_prefix_length=1, max_prefix_length=50)
        return [len(row) for row in prefixes_of(windows.batch(MicroBatch(step, np.zeros(20, dtype=int), slice(None))))]

    assert lengths(1, 2) == lengths(1, 2)
    assert lengths(1, 2) != lengths(1, 3)
    assert lengths(1, 2) != lengths(2, 2)


@given(sizes())
def test_every_token_after_the_longest_prefix_is_a_validation_target_once(sizes: tuple[int, int, int, int]) -> None:
    n_tokens, context_length, shortest, longest = sizes
    corpus = np.arange(1, n_tokens + 1)
    windows = PrefixValidationWindows(corpus, context_length, min_prefix_length=shortest, max_prefix_length=longest)
    batch = windows.batch(range(len(windows)))
    counted = batch.targets != IGNORE_INDEX
    assert batch.targets[counted].tolist() == corpus[longest:].tolist()
    assert torch.equal(batch.tokens[counted] + 1, batch.targets[counted])
    assert len(windows) == math.ceil((n_tokens - longest) / context_length)
    for prefix, first_read in zip(prefixes_of(batch), batch.tokens[:, 0].tolist(), strict=True):
        assert shortest <= len(prefix) <= longest
        assert prefix == list(range(first_read + 1 - len(prefix), first_read + 1))


@given(sizes(), st.integers(1, 9), st.booleans())
def test_validation_does_not_depend_on_the_batch_size(
    sizes: tuple[int, int, int, int], batch_size: int, shuffled: bool
) -> None:
    n_tokens, context_length, shortest, longest = sizes
    windows = PrefixValidationWindows(
        np.arange(n_tokens), context_length, min_prefix_length=shortest, max_prefix_length=longest, shuffled=shuffled
    )
    numbers = range(len(windows))
    whole = prefixes_of(windows.batch(numbers))
    batches = [windows.batch(numbers[first : first + batch_size]) for first in numbers[::batch_size]]
    assert [prefix for batch in batches for prefix in prefixes_of(batch)] == whole


@given(sizes())
def test_shuffled_prefixes_are_those_of_other_windows_each_once(sizes: tuple[int, int, int, int]) -> None:
    n_tokens, context_length, shortest, longest = sizes
    right, shuffled = (
        PrefixValidationWindows(
            np.arange(n_tokens),
            context_length,
            min_prefix_length=shortest,
            max_prefix_length=longest,
            shuffled=shuffled,
        )
        for shuffled in (False, True)
    )
    numbers = range(len(right))
    own, other = right.batch(numbers), shuffled.batch(numbers)
    assert torch.equal(own.tokens, other.tokens)
    assert torch.equal(own.targets, other.targets)
    own_prefixes, other_prefixes = prefixes_of(own), prefixes_of(other)
    assert sorted(own_prefixes) == sorted(other_prefixes)
    if len(numbers) >= 2:
        assert all(mine != got for mine, got in zip(own_prefixes, other_prefixes, strict=True))


def test_a_shuffled_prefix_comes_from_half_a_split_away() -> None:
    windows = PrefixValidationWindows(np.arange(100, 202), 10, min_prefix_length=2, max_prefix_length=2, shuffled=True)
    batch = windows.batch(range(len(windows)))
    assert [prefix[0] for prefix in prefixes_of(batch)] == [150, 160, 170, 180, 190, 100, 110, 120, 130, 140]


@pytest.mark.parametrize("n_tokens", [0, 1, 12])
def test_a_split_shorter_than_a_window_is_refused(n_tokens: int) -> None:
    tokens = np.zeros(n_tokens, dtype="<u2")
    message = f"split of {n_tokens} tokens.*objective.max_prefix_length=5.*model.context_length=8"
    with pytest.raises(FolioError, match=message):
        PrefixTrainingWindows(tokens, 8, seed=0, min_prefix_length=1, max_prefix_length=5)
    with pytest.raises(FolioError, match=message):
        PrefixValidationWindows(tokens, 8, min_prefix_length=1, max_prefix_length=5)


def test_the_shortest_split_has_one_window() -> None:
    tokens = np.zeros(13, dtype="<u2")
    assert len(PrefixTrainingWindows(tokens, 8, seed=0, min_prefix_length=1, max_prefix_length=5)) == 1
    assert len(PrefixValidationWindows(tokens, 8, min_prefix_length=1, max_prefix_length=5)) == 1
