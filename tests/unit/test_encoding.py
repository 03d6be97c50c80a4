"""Pieces are encoded concurrently and returned in order."""

import threading
from operator import length_hint

import numpy as np
import pytest

from folio.data.corpora import workers as module
from folio.data.corpora.workers import encode_pieces
from folio.data.tokenizers.base import UnknownTokens
from folio.data.tokenizers.byte import ByteTokenizer
from folio.runtime.cpus import available_cpus


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cpus", lambda: 2)


class ConcurrentTokenizer(ByteTokenizer):
    """Encodes a piece only while another is being encoded, and finishes the first of two last."""

    def __init__(self) -> None:
        self.both, self.second_done = threading.Barrier(2, timeout=60), threading.Event()

    def encode(self, text: str) -> np.ndarray:
        if text:
            self.both.wait()
        if text == "first":
            assert self.second_done.wait(timeout=60)
        elif text == "second":
            self.second_done.set()
        return super().encode(text)


def test_pieces_are_encoded_at_the_same_time_and_keep_their_order() -> None:
    texts = [ids.tobytes().decode() for ids, _ in encode_pieces(ConcurrentTokenizer(), ["first", "second"])]
    assert texts == ["first", "second"]


def test_each_piece_comes_with_what_is_unknown_in_it() -> None:
    ((ids, unknown),) = encode_pieces(ByteTokenizer(), ["ab"])
    assert (ids.tolist(), unknown) == ([97, 98], UnknownTokens())
    assert list(encode_pieces(ByteTokenizer(), [])) == []


def test_no_more_pieces_are_read_than_are_in_flight() -> None:
    left = iter(["a"] * 100)
    for n_given, _ in enumerate(encode_pieces(ByteTokenizer(), left), 1):
        n_read = 100 - length_hint(left)
        assert n_given <= n_read < n_given + 2 + module.N_AHEAD


def test_an_error_in_a_piece_is_raised_and_ends_the_threads() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="surrogate"):
        list(encode_pieces(ByteTokenizer(), ["a", "\udc80", "b"]))
    assert threading.active_count() == before


def test_there_is_a_processor() -> None:
    assert available_cpus() >= 1
