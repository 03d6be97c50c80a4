"""Batches are a pure function of (seed, step), and validation counts each target once."""

import math
import pickle
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader, Subset, random_split

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.lines import Lines
from folio.data.batches.loaders import token_loader, validation_loader
from folio.data.batches.masking import MaskedTrainingLines, MaskedValidationLines, Masking
from folio.data.batches.order import (
    WINDOW_ORDERS,
    MicroBatch,
    TrainingBatches,
    even_indices,
    random_indices,
    shuffled_indices,
)
from folio.data.batches.prefixes import PrefixTrainingWindows, PrefixValidationWindows
from folio.data.batches.random_numbers import Permutation, RandomStream, evenly_spread, random_uint64
from folio.data.batches.windows import (
    TrainingWindows,
    ValidationWindows,
    gather_spans,
    gather_windows,
    get_batch,
    n_window_starts,
    sequential_windows,
)
from folio.data.sharded_tokens import join_tokens
from folio.runtime.errors import FolioError

seeds = st.integers(0, 2**64 - 1)
MASKING = Masking(mask_id=9, n_symbols=9, mask_fraction=0.5)


@given(seeds, st.integers(0, 2**64 - 1), st.integers(0, 30), st.integers(0, 30))
def test_fewer_random_numbers_are_the_first_of_more(seed: int, index: int, n: int, n_more: int) -> None:
    numbers = random_uint64(seed, index, n + n_more, RandomStream.MASKS)
    assert random_uint64(seed, index, n, RandomStream.MASKS).tolist() == numbers[:n].tolist()


def test_streams_share_no_numbers() -> None:
    numbers = np.stack([random_uint64(seed=1, index=2, n=10_000, stream=stream) for stream in RandomStream])
    assert len(np.unique(numbers)) == numbers.size
    # Correlations of independent values have a standard error of 1 / sqrt(10_000).
    assert abs(np.corrcoef(numbers.astype(np.float64)) - np.eye(len(RandomStream))).max() < 0.05


@given(st.integers(1, 3000), seeds, st.integers(0, 2**40))
def test_the_permutation_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    assert np.sort(Permutation(n, seed, epoch)(np.arange(n))).tolist() == list(range(n))


@given(st.integers(1, 2**62), seeds)
def test_the_permutation_stays_in_range_whatever_its_size(n: int, seed: int) -> None:
    values = Permutation(n, seed)(np.unique(np.linspace(0, n - 1, 50).astype(np.int64).clip(0, n - 1)))
    assert values.min() >= 0
    assert values.max() < n
    assert len(np.unique(values)) == len(values)


def test_a_permutation_of_a_huge_range_needs_memory_only_for_the_batch() -> None:
    n = 10**11
    values = Permutation(n, seed=1)(np.arange(n - 100_000, n))
    assert len(np.unique(values)) == 100_000
    # Uniform values have mean n/2 with a standard error of n / sqrt(12 * 100_000).
    assert abs(values.mean() / n - 0.5) < 5 / math.sqrt(12 * 100_000)


def test_epochs_and_seeds_have_their_own_permutations() -> None:
    places = np.arange(1000)
    orders = {tuple(Permutation(1000, seed, epoch)(places)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_permutation_leaves_no_trace_of_the_order() -> None:
    values = Permutation(10_000, seed=0)(np.arange(10_000))
    # Correlations of independent values have a standard error of 1 / sqrt(10_000).
    assert abs(np.corrcoef(values, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("choose_indices", WINDOW_ORDERS.values())
def test_indices_depend_only_on_seed_and_step(choose_indices: object) -> None:
    assert callable(choose_indices)
    first = choose_indices(1000, 7, 3, 16)
    np.random.seed(0)
    torch.manual_seed(0)
    assert first.tolist() == choose_indices(1000, 7, 3, 16).tolist()
    assert first.dtype == np.int64
    assert first.tolist() != choose_indices(1000, 8, 3, 16).tolist()
    assert first.tolist() != choose_indices(1000, 7, 4, 16).tolist()


def test_indices_draw_nothing_from_the_global_generators() -> None:
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    random_indices(1000, 1, 1, 16)
    shuffled_indices(1000, 1, 1, 16)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_indices_are_the_same_with_every_numpy() -> None:
    assert random_indices(1000, 1337, 0, 4).tolist() == [985, 347, 78, 213]
    assert even_indices(1000, 1337, 0, 4).tolist() == [919, 537, 155, 773]


def test_random_indices_are_uniform() -> None:
    counts = np.bincount(random_indices(10, seed=0, step=0, batch_size=100_000), minlength=10)
    # Binomial counts: mean 10,000, standard deviation 95.
    assert abs(counts - 10_000).max() < 5 * 95


@given(st.integers(1, 60), st.integers(1, 25), seeds, st.integers(1, 3))
def test_shuffled_indices_occur_once_an_epoch(n_indices: int, batch_size: int, seed: int, n_epochs: int) -> None:
    n_steps = math.ceil(n_epochs * n_indices / batch_size)
    stream = np.concatenate([shuffled_indices(n_indices, seed, step, batch_size) for step in range(n_steps)])
    for epoch in range(n_epochs):
        assert sorted(stream[epoch * n_indices : (epoch + 1) * n_indices].tolist()) == list(range(n_indices))


@given(st.integers(1, 500), st.integers(0, 10**6), seeds, st.integers(1, 2**40))
def test_even_indices_leave_no_gap_and_do_not_crowd(n_draws: int, first: int, seed: int, n_indices: int) -> None:
    draws = np.arange(first, first + n_draws)
    starts = np.sort(evenly_spread(draws, n_indices, seed))
    assert starts[0] >= 0
    assert starts[-1] < n_indices
    gaps = np.diff(np.append(starts, starts[0] + n_indices))
    # The limits for real numbers, and 1 because indices are rounded down.
    assert gaps.max() <= (1 + 2 / 5**0.5) * n_indices / n_draws + 1
    assert gaps.min() >= 0.44 * n_indices / n_draws - 1


def test_even_windows_read_each_token_about_once_an_epoch() -> None:
    n_tokens, context_length, batch_size = 100_000, 64, 5
    n_steps = n_tokens // (context_length * batch_size)
    reads = {}
    for order in ("even", "random"):
        batches = TrainingBatches(order, n_tokens - context_length, 7, batch_size, batch_size, 0, n_steps)
        starts = np.concatenate([batch.indices for batch in batches])
        reads[order] = np.bincount((starts[:, None] + np.arange(context_length)).ravel(), minlength=n_tokens)
    unread = {order: float((counts == 0).mean()) for order, counts in reads.items()}
    assert unread["even"] < 0.25
    assert reads["even"].max() <= 3
    assert unread["random"] > 0.35  # 1/e


@given(
    window_order=st.sampled_from(sorted(WINDOW_ORDERS)),
    seed=seeds,
    cut=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    first_step=st.integers(0, 5),
)
def test_the_batch_of_a_step_depends_on_neither_ranks_nor_micro_batches(
    window_order: str, seed: int, cut: tuple[int, int, int], first_step: int
) -> None:
    world_size, micro_batch_size, n_micro = cut
    batch_size = world_size * micro_batch_size * n_micro
    for step in (first_step, first_step + 1):
        rows = []
        for rank in range(world_size):
            batches = TrainingBatches(
                window_order, 500, seed, batch_size, micro_batch_size, step, step + 2, rank, world_size
            )
            rows += list(islice(batches, n_micro))
        whole = WINDOW_ORDERS[window_order](500, seed, step, batch_size).tolist()
        assert {len(micro_batch.indices) for micro_batch in rows} == {micro_batch_size}
        assert np.concatenate([micro_batch.indices for micro_batch in rows]).tolist() == whole
        assert all(micro_batch.step == step and micro_batch.batch_indices.tolist() == whole for micro_batch in rows)


def test_a_resumed_run_sees_the_rest_of_the_batches_and_the_same_length() -> None:
    whole = TrainingBatches("shuffled", 100, 0, 12, 4, first_step=0, n_steps=5)
    rest = TrainingBatches("shuffled", 100, 0, 12, 4, first_step=3, n_steps=5)
    assert len(whole) == len(rest) == len(list(whole)) == 15
    assert [micro_batch.indices.tolist() for micro_batch in rest] == [
        micro_batch.indices.tolist() for micro_batch in whole
    ][9:]


@given(st.integers(1, 40), st.integers(1, 300))
def test_sequential_windows_count_each_target_once(context_length: int, n_more: int) -> None:
    n_tokens = context_length + n_more
    tokens = np.arange(n_tokens)
    windows = ValidationWindows(tokens, context_length)
    batch = windows.batch(range(len(windows)))
    inputs, targets = batch.tokens, batch.targets
    counted = targets != IGNORE_INDEX
    assert targets[counted].tolist() == tokens[1:].tolist()
    assert torch.equal(inputs[counted] + 1, targets[counted])
    assert len(windows) == math.ceil((n_tokens - 1) / context_length)
    assert batch.n_tokens == inputs.numel()


def test_the_last_sequential_window_starts_earlier_to_stay_full() -> None:
    windows = sequential_windows(n_tokens=11, context_length=4)
    assert windows.starts.tolist() == [0, 4, 6]
    assert windows.first_counted.tolist() == [0, 0, 2]


@pytest.mark.parametrize("n_tokens", [0, 1, 8])
def test_a_split_shorter_than_a_window_is_refused(n_tokens: int) -> None:
    tokens = np.zeros(n_tokens, dtype="<u2")
    for use in (TrainingWindows, ValidationWindows):
        with pytest.raises(FolioError, match=f"split of {n_tokens} tokens.*context_length=8"):
            use(tokens, 8)


def test_the_shortest_split_has_one_window() -> None:
    assert n_window_starts(9, 8) == 1
    assert len(TrainingWindows(np.zeros(9, dtype="<u2"), 8)) == len(ValidationWindows(np.zeros(9), 8)) == 1


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_windows_are_the_tokens_and_the_tokens_after_them(dtype: str) -> None:
    corpus = np.arange(100, 200).astype(dtype)
    assert gather_windows(corpus, np.array([0, 95]), 4).tolist() == [
        [100, 101, 102, 103, 104],
        [195, 196, 197, 198, 199],
    ]
    batch = TrainingWindows(corpus, 4).batch(MicroBatch(0, np.array([3, 7, 95, 1]), slice(1, 3)))
    tokens, targets = batch.tokens, batch.targets
    assert tokens[:, 0].tolist() == [107, 195]
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.shape == (2, 4)
    assert tokens.is_contiguous()
    assert targets.is_contiguous()
    assert torch.equal(targets, tokens + 1)
    assert batch[2:] == (8, None, None, None, None, 1.0)


def test_runs_are_padded_with_zeros_to_the_longest() -> None:
    corpus = np.arange(100, 110, dtype="<u2")
    runs = gather_spans(corpus, np.array([0, 9, 4]), np.array([2, 1, 3]))
    assert runs.tolist() == [[100, 101, 0], [109, 0, 0], [104, 105, 106]]
    assert runs.dtype == np.int64


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_loader_gives_the_same_batches_with_any_number_of_workers(n_workers: int) -> None:
    corpus = np.arange(1000, dtype="<u2")
    windows = TrainingWindows(corpus, 8)
    batches = TrainingBatches("random", len(windows), 5, 4, 2, first_step=1, n_steps=3)
    dataset = token_loader(windows, batches).dataset
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=pass_through, num_workers=n_workers)
    seen = [batch.tokens[:, 0].tolist() for batch in loader]
    assert seen == [micro_batch.indices.tolist() for micro_batch in batches]
    assert len(loader) == 6


def test_the_loaders_hand_over_what_the_dataset_makes() -> None:
    corpus = np.arange(1000, dtype="<u2")
    batches = TrainingBatches("shuffled", 992, 5, 4, 2, first_step=1, n_steps=3)
    loader = token_loader(TrainingWindows(corpus, 8), batches)
    assert [batch.tokens[:, 0].tolist() for batch in loader] == [
        micro_batch.indices.tolist() for micro_batch in batches
    ]
    loader = validation_loader(ValidationWindows(corpus, 8), batch_size=60)
    assert [len(batch.tokens) for batch in loader] == [60, 60, 5]
    assert torch.cat([batch.tokens[:, 0] for batch in loader])[:-1].tolist() == list(range(0, 992, 8))


def test_a_batch_survives_the_move_to_a_device() -> None:
    batch = Batch(torch.zeros(2, 3), torch.ones(2, 3), n_tokens=5, lengths=torch.tensor([3, 2]), weight=0.5)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.tokens.is_meta
    assert moved.targets.is_meta
    assert moved.lengths is not None
    assert moved.lengths.is_meta
    assert (moved.n_tokens, moved.prefix, moved.prefix_lengths, moved.weight) == (5, None, None, 0.5)


def pass_through(batch: object) -> object:
    return batch


def test_datasets_and_batches_can_be_pickled_for_spawned_workers() -> None:
    batches = TrainingBatches("random", 92, 5, 4, 2, first_step=0, n_steps=3)
    assert pickle.loads(pickle.dumps(batches)) == batches
    windows = pickle.loads(pickle.dumps(ValidationWindows(np.arange(100), 8)))
    assert len(windows) == 13


# The calls of other projects: single windows, any DataLoader, get_batch


def seen_by(loader: DataLoader[Any]) -> list[tuple[list[int], list[int]]]:
    return [
        (row.tolist(), target.tolist())
        for tokens, targets in loader
        for row, target in zip(tokens, targets, strict=True)
    ]


def kinds_of(tokens: list[int]) -> list[Any]:
    """Return the same tokens as each kind of object that a user may have."""
    array = np.array(tokens, dtype="<u2")
    return [
        tokens,
        tuple(tokens),
        array,
        array.astype(np.int64),
        torch.tensor(tokens),
        join_tokens([array[:7], array[7:]]),
    ]


def test_windows_in_a_shuffling_dataloader_are_each_window_once() -> None:
    for tokens in kinds_of(list(range(20))):
        seen = seen_by(DataLoader(TrainingWindows(tokens, context_length=8), batch_size=2, shuffle=True))
        assert sorted(seen) == [(list(range(i, i + 8)), list(range(i + 1, i + 9))) for i in range(12)]


def test_validation_windows_in_a_dataloader_count_each_target_once() -> None:
    for tokens in kinds_of(list(range(20))):
        seen = seen_by(DataLoader(ValidationWindows(tokens, 8), batch_size=2))
        assert seen == [
            (list(range(8)), list(range(1, 9))),
            (list(range(8, 16)), list(range(9, 17))),
            (list(range(11, 19)), [IGNORE_INDEX] * 5 + [17, 18, 19]),
        ]


@pytest.mark.parametrize("kind", [TrainingWindows, ValidationWindows])
def test_a_window_has_a_number_as_in_a_list(kind: Any) -> None:
    windows = kind(np.arange(20), 8)
    n = len(windows)
    starts = [int(tokens[0]) for tokens, _ in windows]  # iteration ends with the IndexError
    assert len(starts) == n
    for index in (-1, -n, np.int64(-1), np.uint8(1), torch.tensor(n - 1), np.array(0)):
        tokens, targets = windows[index]
        assert tokens.tolist() == list(range(starts[int(index)], starts[int(index)] + 8))
        assert tokens.dtype == targets.dtype == torch.int64
    for index in (n, -n - 1, 10**30):
        with pytest.raises(IndexError, match=f"window {index} does not exist; there are {n}, from 0 to {n - 1}"):
            windows[index]
    for index in (slice(0, 2), [0, 1], 1.0, "1", None, np.arange(2)):
        with pytest.raises(TypeError, match=f"a window has one whole number, not a {type(index).__name__}; .*Subset"):
            windows[index]


def test_windows_work_with_torchs_subsets_and_workers() -> None:
    windows = TrainingWindows(np.arange(20, dtype="<u2"), 8)
    assert [row[0] for row, _ in seen_by(DataLoader(Subset(windows, [3, 1]), batch_size=2, num_workers=1))] == [3, 1]
    parts = random_split(windows, [10, 2], generator=torch.Generator().manual_seed(0))
    assert sorted(row[0] for part in parts for row, _ in seen_by(DataLoader(part))) == list(range(12))


@pytest.mark.parametrize(
    "dataset",
    [
        PrefixTrainingWindows(np.arange(30), 4, seed=0, min_prefix_length=1, max_prefix_length=2),
        PrefixValidationWindows(np.arange(30), 4, min_prefix_length=1, max_prefix_length=2),
        MaskedTrainingLines(Lines(np.arange(9), np.array([4]), 8), MASKING, seed=0),
        MaskedValidationLines(Lines(np.arange(9), np.array([4]), 8), MASKING),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_a_dataset_without_single_items_says_how_to_load_it(dataset: Any) -> None:
    for read in (lambda: dataset[0], lambda: list(DataLoader(dataset, batch_size=2)), lambda: next(iter(dataset))):
        with pytest.raises(TypeError, match=r"makes whole batches and has no single items; .*token_loader"):
            read()


def test_get_batch_draws_as_nanogpt_does() -> None:
    tokens = torch.randint(50, (100,), generator=torch.Generator().manual_seed(3))
    starts = torch.randint(len(tokens) - 8, (4,), generator=torch.Generator().manual_seed(1))  # as nanoGPT's get_batch
    for kind in kinds_of(tokens.tolist()):
        inputs, targets = get_batch(kind, 4, 8, torch.Generator().manual_seed(1))
        assert torch.equal(inputs, torch.stack([tokens[start : start + 8] for start in starts]))
        assert torch.equal(targets, torch.stack([tokens[start + 1 : start + 9] for start in starts]))
        assert inputs.dtype == targets.dtype == torch.int64
    torch.manual_seed(1)
    assert torch.equal(get_batch(tokens, batch_size=4, context_length=8)[0], inputs)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((3, 9), dtype=np.int64), r"the shape \(3, 9\)"),
        (torch.tensor(5), r"the shape \(\)"),
        ("To be, or not", "encode the text with a tokenizer first"),
        ([0.5] * 9, "the type float64"),
        (range(8), "a split of 8 tokens is shorter than one window"),
        ([], "a split of 0 tokens"),
    ],
)
def test_tokens_that_are_no_row_of_ids_are_refused_in_one_line(tokens: Any, message: str) -> None:
    for use in (TrainingWindows, ValidationWindows, lambda tokens, length: get_batch(tokens, 2, length)):
        with pytest.raises(FolioError, match=message) as refused:
            use(tokens, 8)
        assert "\n" not in str(refused.value)


def test_sizes_below_one_are_refused() -> None:
    for use in (TrainingWindows, ValidationWindows):
        with pytest.raises(FolioError, match="context_length=0 must be 1 or more"):
            use(range(9), 0)
    with pytest.raises(FolioError, match="batch_size=0 must be 1 or more"):
        get_batch(range(9), 0, 8)
