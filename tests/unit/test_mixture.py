"""Mixtures draw each corpus by its share, and every batch is a function of the seed and the step."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.config.tokenizer import choose_tokenizer
from folio.data.batches.mixture import MIXTURE_BLOCK, Mixture, draws_per_block
from folio.data.batches.order import WINDOW_ORDERS, TrainingBatches
from folio.data.corpora.mixture import CorpusMixture, WeightedSource, join_corpora
from folio.data.corpora.single_text import TextFile
from folio.runtime.errors import FolioError

SHARES = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5).map(tuple)


def mixture_of(shares: tuple[float, ...], sizes: tuple[int, ...]) -> Mixture:
    return Mixture(shares, sizes, tuple(np.cumsum([0, *sizes])[:-1].tolist()))


@given(SHARES)
def test_every_corpus_has_its_share_of_a_block(shares: tuple[float, ...]) -> None:
    places = draws_per_block(shares)
    assert places.sum() == MIXTURE_BLOCK
    assert places.min() >= 1
    exact = np.array(shares) / sum(shares) * MIXTURE_BLOCK
    assert np.abs(places - exact).max() <= len(shares)


@settings(max_examples=20)
@given(SHARES, st.integers(0, 2**32 - 1), st.sampled_from(sorted(WINDOW_ORDERS)), st.integers(0, 40_000))
def test_a_batch_is_a_function_of_seed_and_step_however_it_is_cut(
    shares: tuple[float, ...], seed: int, order: str, step: int
) -> None:
    mixture = mixture_of(shares, tuple(range(50, 50 + len(shares))))
    batch = mixture.indices(order, seed, step, 12)
    assert batch.tolist() == mixture_of(shares, mixture.sizes).indices(order, seed, step, 12).tolist()
    assert batch.min() >= 0
    assert batch.max() < sum(mixture.sizes)
    corpora, numbers = mixture.locate(seed, np.arange(step * 12, step * 12 + 12))
    one_by_one = [mixture.locate(seed, np.array([draw])) for draw in range(step * 12, step * 12 + 12)]
    assert corpora.tolist() == [int(corpus[0]) for corpus, _ in one_by_one]
    assert numbers.tolist() == [int(number[0]) for _, number in one_by_one]
    assert np.searchsorted(np.cumsum(mixture.sizes), batch, side="right").tolist() == corpora.tolist()


def test_in_a_block_the_shares_are_exact_and_each_number_comes_once() -> None:
    mixture = mixture_of((0.7, 0.2, 0.1), (1000, 1000, 1000))
    for block in (0, 3):
        corpora, numbers = mixture.locate(5, np.arange(block * MIXTURE_BLOCK, (block + 1) * MIXTURE_BLOCK))
        counts = Counter(corpora.tolist())
        assert [round(counts[corpus] / MIXTURE_BLOCK, 4) for corpus in range(3)] == [0.7, 0.2, 0.1]
        for corpus, count in counts.items():
            expected = range(block * count, (block + 1) * count)
            assert sorted(numbers[corpora == corpus].tolist()) == list(expected)


def test_shuffled_goes_through_each_corpus_by_itself_once_an_epoch() -> None:
    sizes = MIXTURE_BLOCK // 4, MIXTURE_BLOCK // 4
    mixture = mixture_of((0.5, 0.5), sizes)
    indices = np.concatenate([mixture.indices("shuffled", 3, step, 4096) for step in range(MIXTURE_BLOCK // 4096)])
    assert np.bincount(indices).tolist() == [2] * sum(sizes), "each start twice in two epochs"


def test_random_draws_begin_at_once_in_the_right_shares() -> None:
    mixture = mixture_of((0.75, 0.25), (100, 100))
    first = np.concatenate([mixture.indices("random", 1, step, 8) for step in range(300)])
    assert 0.72 < (first < 100).mean() < 0.78


def test_other_seeds_and_steps_are_other_batches() -> None:
    mixture = mixture_of((1.0, 2.0), (10_000, 10_000))
    batches = {tuple(mixture.indices("random", seed, step, 8).tolist()) for seed in range(3) for step in range(3)}
    assert len(batches) == 9


def test_training_batches_take_the_mixture_whatever_the_micro_batch_and_the_rank() -> None:
    mixture = mixture_of((1.0, 2.0), (40, 60))
    common = {"window_order": "shuffled", "n_indices": 100, "seed": 3, "batch_size": 8, "first_step": 2, "n_steps": 5}
    whole = [
        micro_batch.indices.tolist() for micro_batch in TrainingBatches(**common, micro_batch_size=8, mixture=mixture)
    ]
    assert whole == [mixture.indices("shuffled", 3, step, 8).tolist() for step in range(2, 5)]
    halves = [
        [
            micro_batch.indices.tolist()
            for micro_batch in TrainingBatches(**common, micro_batch_size=2, rank=rank, world_size=2, mixture=mixture)
        ]
        for rank in range(2)
    ]
    for step in range(3):
        together = [rows for half in halves for rows in half[2 * step : 2 * step + 2]]
        assert [index for rows in together for index in rows] == whole[step]


def text(folder: Path, name: str, words: str) -> Path:
    path = folder / name
    path.write_text(words * 40)
    return path


def test_prepared_corpora_are_joined_with_their_shares(tmp_path: Path) -> None:
    choice = choose_tokenizer("byte")
    a, b = (
        TextFile(text(tmp_path, name, words)).prepare(choice, tmp_path / "data", print)
        for name, words in (("a.txt", "one two "), ("b.txt", "three "))
    )
    both = join_corpora([("a", 3.0, a), ("b", 1.0, b)])
    assert [(part.name, part.share) for part in both.parts] == [("a", 0.75), ("b", 0.25)]
    assert both.tokenizer.decode(both.train.tokens[:]) == a.tokenizer.decode([*a.train.tokens, *b.train.tokens])
    assert both.val.info.n_bytes == a.val.info.n_bytes + b.val.info.n_bytes
    assert both.train.info.n_tokens == len(both.train.tokens)
    assert len({both.train.info.source_sha256, a.train.info.source_sha256, b.train.info.source_sha256}) == 3
    assert both.files == [a.train, a.val, b.train, b.val]
    with pytest.raises(FolioError, match="b has 1e-06 of 1"):
        join_corpora([("a", 1.0, a), ("b", 1e-6, b)])


def test_the_block_is_no_smaller_than_promised() -> None:
    assert MIXTURE_BLOCK == 65_536


def test_a_vocabulary_of_several_corpora_is_learned_once(tmp_path: Path) -> None:
    sources = [TextFile(text(tmp_path, name, words)) for name, words in (("a.txt", "one two "), ("b.txt", "three "))]
    mixture = CorpusMixture(tuple(WeightedSource(source.path.name, 1.0, source) for source in sources))
    logged: list[str] = []
    data = mixture.prepare(choose_tokenizer("word"), tmp_path / "data", logged.append)
    assert data.tokenizer.state()["units"] == ["one", "three", "two", "\n"]
    assert logged[0] == "Learning the vocabulary of 2 corpora together"
    # A folder as an earlier version named it is found by what the vocabulary was learned from.
    (folder,) = (tmp_path / "data" / "mixture").iterdir()
    folder.rename(folder.with_name("older"))
    logged.clear()
    again = mixture.prepare(choose_tokenizer("word"), tmp_path / "data", logged.append)
    assert (again.folder, logged) == (data.folder, [])
    sources[0].path.write_text("other words " * 40)
    assert (
        "other"
        in mixture.prepare(choose_tokenizer("word"), tmp_path / "data", logged.append).tokenizer.state()["units"]
    )
