"""Random words for all that is drawn about a batch: functions of their arguments, so there is no state to save."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What words are drawn for. Those of two streams are independent, also where seed and index are the same."""

    WINDOW_ORDER = 0
    MASKS = 1
    VALIDATION_MASKS = 2
    PREFIX_LENGTHS = 3
    VALIDATION_PREFIX_LENGTHS = 4
    MIXTURE = 5


def random_words(seed: int, index: int, n_words: int, stream: Stream) -> np.ndarray:
    """(n_words,) uint64 that depend on nothing but the arguments; fewer words are the first of more.

    Raw Philox words, because numpy keeps the streams of bit generators the same between versions, but not
    those of `Generator.integers` (NEP 19). A stream is the highest word of Philox's counter, which no number of
    draws from another stream reaches.
    """
    key = np.array([seed, index], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n_words)


def uniform_integers(words: np.ndarray, n: int) -> np.ndarray:
    """int64 in [0, n), one for each word. The remainder favours low numbers by less than n / 2**64: never seen."""
    return (words % np.uint64(n)).astype(np.int64)


def uniform_fractions(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), one for each word, of its 53 highest bits."""
    return (words >> np.uint64(11)) * 2.0**-53
