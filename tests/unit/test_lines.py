"""Lines are the text between newlines, cut where they are too long."""

import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from folio.data.batches import lines
from folio.data.batches.lines import Lines, find_newlines
from folio.runtime.errors import FolioError

NEWLINES = np.array([0, 7])


def naive_lines(tokens: list[int], max_length: int) -> list[list[int]]:
    """Return the lines by a plain loop: split at newlines, drop empty lines, cut long ones."""
    spans: list[list[int]] = [[]]
    for token in tokens:
        if token in NEWLINES:
            spans.append([])
        else:
            spans[-1].append(token)
    return [span[first : first + max_length] for span in spans for first in range(0, len(span), max_length)]


def read(split: Lines) -> list[list[int]]:
    tokens, lengths = split.gather(np.arange(len(split)))
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 12), st.sampled_from(["<u2", "<u4"]))
@example([0, 7, 0, 3], 5, "<u2")
@example([1, 2, 3, 4, 0], 2, "<u2")
def test_lines_are_those_of_a_plain_split(tokens: list[int], max_length: int, dtype: str) -> None:
    corpus, expected = np.array(tokens, dtype=dtype), naive_lines(tokens, max_length)
    if expected:
        assert read(Lines(corpus, NEWLINES, max_length)) == expected
    else:
        with pytest.raises(FolioError, match=f"split of {len(tokens)} tokens holds only newlines"):
            Lines(corpus, NEWLINES, max_length)


@given(st.lists(st.integers(0, 9), max_size=60))
def test_newlines_are_found_in_chunks_as_in_one(tokens: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_TOKENS", 7)
        found = list(find_newlines(np.array(tokens, dtype="<u2"), NEWLINES, 0, len(tokens)))
    assert [position for chunk in found for position in chunk.tolist()] == [
        position for position, token in enumerate(tokens) if token in NEWLINES
    ]


def test_a_text_without_newlines_is_one_line() -> None:
    assert read(Lines(np.array([3, 4, 5]), np.array([], dtype=np.int64), 8)) == [[3, 4, 5]]


def test_a_batch_is_padded_to_its_own_longest_line() -> None:
    split = Lines(np.array([1, 2, 3, 0, 4, 7, 5, 6], dtype="<u2"), NEWLINES, max_length=100)
    tokens, lengths = split.gather(np.array([2, 1, 2]))
    assert tokens.tolist() == [[5, 6], [4, 0], [5, 6]]
    assert lengths.tolist() == [2, 1, 2]
    assert tokens.dtype == lengths.dtype == split.starts.dtype == split.lengths.dtype == np.int64


def test_lines_can_be_pickled_for_spawned_workers() -> None:
    split = Lines(np.array([1, 2, 3, 0, 4]), NEWLINES, max_length=2)
    assert read(pickle.loads(pickle.dumps(split))) == [[1, 2], [3], [4]]
