"""Shards are read as one array, wherever they are cut."""

import os
import pickle
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folio.data import sharded_tokens as module
from folio.data.batches.lines import LineFiles, Lines
from folio.data.batches.order import MicroBatch, random_indices
from folio.data.batches.windows import TrainingWindows, gather_spans, gather_windows
from folio.data.prepared import has_token_outside
from folio.data.sharded_tokens import ShardedTokens, ShardFile, Tokens, join_tokens
from folio.data.token_file import TokenFileError, map_tokens
from folio.models import GPT, GPTConfig
from folio.objectives.losses import batch_loss

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def cut(sizes: list[int]) -> tuple[np.ndarray, ShardedTokens]:
    """Return an array of different numbers, and the same in shards of these sizes."""
    whole = np.arange(sum(sizes), dtype="<u2") * 3 + 1
    return whole, ShardedTokens(np.split(whole, np.cumsum(sizes)[:-1]))


def files(folder: Path, sizes: list[int]) -> tuple[np.ndarray, ShardedTokens]:
    """Return the same in files."""
    whole, shards = cut(sizes)
    found = []
    for number, shard in enumerate(shards.shards):
        path = folder / f"{number}.bin"
        np.asarray(shard).tofile(path)
        found.append(ShardFile(path, len(shard), "<u2"))
    return whole, ShardedTokens(found)


@given(SIZES, st.data())
def test_slices_windows_spans_and_positions_are_those_of_the_concatenation(
    sizes: list[int], data: st.DataObject
) -> None:
    whole, shards = cut(sizes)
    n = len(whole)
    assert len(shards) == n
    first, end = data.draw(st.integers(0, n)), data.draw(st.integers(0, n + 3))
    assert shards[first:end].tolist() == whole[first:end].tolist()
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9))
    assert shards.take(np.array(positions)).tolist() == whole[positions].tolist()
    context = data.draw(st.integers(0, n - 1))
    starts = np.array(data.draw(st.lists(st.integers(0, n - context - 1), min_size=1, max_size=9)))
    assert gather_windows(shards, starts, context).tolist() == gather_windows(whole, starts, context).tolist()
    lengths = np.array([data.draw(st.integers(1, n - start)) for start in starts.tolist()])
    assert gather_spans(shards, starts, lengths).tolist() == gather_spans(whole, starts, lengths).tolist()


@given(SIZES, SIZES)
def test_corpora_are_joined_in_order(first: list[int], second: list[int]) -> None:
    (whole, shards), (other_whole, other) = cut(first), cut(second)
    assert join_tokens([shards, other_whole, other])[:].tolist() == [*whole, *other_whole, *other_whole]


@given(SIZES, st.integers(1, 5), st.lists(st.integers(0, 30), max_size=3))
def test_lines_of_shards_end_at_newlines_and_at_boundaries(
    sizes: list[int], max_length: int, borders: list[int]
) -> None:
    whole, shards = cut(sizes)
    newlines = whole[whole % 4 == 0]
    borders = sorted({border for border in borders if 0 < border < len(whole)})
    expected = []
    for part in np.split(whole, borders):
        runs: list[list[int]] = [[]]
        for token in part.tolist():
            runs[-1].append(token) if token not in newlines else runs.append([])
        expected += [run[at : at + max_length] for run in runs for at in range(0, len(run), max_length)]
    if not expected:
        return
    lines = Lines(shards, newlines, max_length, borders)
    tokens, lengths = lines.gather(np.arange(len(lines)))
    assert [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)] == expected
    ends = np.array([*borders, len(whole)])
    assert lines.n_before(ends)[-1] == len(lines)


def test_lines_of_a_large_split_are_written_to_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, shards = cut([5, 9, 2])
    monkeypatch.setattr("folio.data.batches.lines.MAX_TOKENS_IN_MEMORY", 3)
    newlines = np.array([whole[4], whole[10]])
    kept = LineFiles(tmp_path / "lines")
    first = Lines(shards, newlines, 3, (), kept)
    assert isinstance(first.starts, np.memmap)
    plain = Lines(shards, newlines, 3)
    assert (first.starts.tolist(), first.lengths.tolist()) == (plain.starts.tolist(), plain.lengths.tolist())
    monkeypatch.setattr("folio.data.batches.lines._find_lines", None)  # no line is searched again
    assert Lines(shards, newlines, 3, (), kept).starts.tolist() == plain.starts.tolist()
    assert {path.suffix for path in tmp_path.iterdir()} == {".starts", ".lengths", ".json"}


def test_lines_that_were_cut_short_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, shards = cut([5, 9, 2])
    monkeypatch.setattr("folio.data.batches.lines.MAX_TOKENS_IN_MEMORY", 3)
    kept = LineFiles(tmp_path / "lines")
    before = Lines(shards, whole[4:5], 3, (), kept).starts.tolist()
    kept.starts.write_bytes(kept.starts.read_bytes()[:-1])
    assert Lines(shards, whole[4:5], 3, (), kept).starts.tolist() == before


def test_no_more_files_are_mapped_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MAPPED", 2)
    whole, shards = files(tmp_path, [3, 4, 5, 6])
    assert not shards._mapped, "nothing is mapped before it is asked for"
    for _ in range(3):
        assert shards[:].tolist() == whole.tolist()
        assert list(shards._mapped) == [2, 3]


def test_shards_are_pickled_as_their_paths(tmp_path: Path) -> None:
    whole, shards = files(tmp_path, [1000, 2000])
    assert shards[:].tolist() == whole.tolist()
    packed = pickle.dumps(shards)
    assert len(packed) < 1500
    assert pickle.loads(packed)[:].tolist() == whole.tolist()


@pytest.mark.parametrize("was_mapped", [False, True])
def test_a_shard_that_was_cut_short_is_an_error_and_no_sigbus(was_mapped: bool, tmp_path: Path) -> None:
    _, shards = files(tmp_path, [3, 4])
    if was_mapped:
        shards[:]
    (tmp_path / "1.bin").write_bytes(b"12")
    assert shards[:3].size == 3
    with pytest.raises(TokenFileError, match=r"1\.bin (has 2 bytes|was cut short)"):
        shards[:]


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    _, shards = files(tmp_path, [3, 4])
    (tmp_path / "0.bin").unlink()
    with pytest.raises(TokenFileError, match=r"0\.bin is missing"):
        shards[:1]


def test_other_tokens_than_newlines_are_found_in_any_shard() -> None:
    shards = ShardedTokens([np.array([7, 7], "<u2"), np.array([7, 1], "<u2")])
    assert has_token_outside(shards, [7])
    assert not has_token_outside(shards, [7, 1])


def sparse(path: Path, n_bytes: int) -> Path:
    """Write zeros that take no space on disk."""
    path.touch()
    os.truncate(path, n_bytes)
    return path


class Steps:
    """Training steps of a small model on windows anywhere in the tokens."""

    def __init__(self, tokens: Tokens) -> None:
        torch.manual_seed(0)
        self.windows = TrainingWindows(tokens, 64)
        self.model = GPT(GPTConfig(vocab_size=61, context_length=64, n_layers=2, n_heads=2, d_model=64))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.n_done = 0

    def seconds(self, n: int) -> float:
        """Return the processor time that n more steps take."""
        began = time.process_time()
        for step in range(self.n_done, self.n_done + n):
            batch = self.windows.batch(MicroBatch(step, random_indices(len(self.windows), 0, step, 16), slice(None)))
            self.optimizer.zero_grad()
            batch_loss(self.model, batch)[0].backward()
            self.optimizer.step()
        self.n_done += n
        return time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "a file"])
def test_a_step_on_20_gb_takes_the_time_of_one_on_a_megabyte(kind: str, tmp_path: Path) -> None:
    """Within 5 %, in alternation, by processor time: a clock would count what else the machine does."""
    few: Tokens = map_tokens(sparse(tmp_path / "few.bin", 10**6), "<u2")
    many: Tokens = map_tokens(sparse(tmp_path / "many.bin", 20 * 10**9), "<u2")
    if kind == "shards":
        few = ShardedTokens([ShardFile(sparse(tmp_path / f"few-{n}.bin", 10**5), 50_000, "<u2") for n in range(10)])
        paths = [sparse(tmp_path / f"many-{n}.bin", 2 * 10**8) for n in range(100)]
        many = ShardedTokens([ShardFile(path, 10**8, "<u2", random_access=True) for path in paths])
    on_few, on_many = Steps(few), Steps(many)
    turns = [(on_few.seconds(3), on_many.seconds(3)) for _ in range(22)][2:]
    ratio = statistics.median(many_s / few_s for few_s, many_s in turns)
    print(f"a step on 20 GB takes {ratio:.3f} of the time of one on 1 MB")
    assert ratio < 1.05
