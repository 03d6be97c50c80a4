"""Random words for all that is drawn about a batch: functions of their arguments, so there is no state to save."""

import math
from enum import IntEnum

import numpy as np


class RandomStream(IntEnum):
    """What words are drawn for. Those of two streams are independent, also where seed and index are the same."""

    WINDOW_ORDER = 0
    MASKS = 1
    VALIDATION_MASKS = 2
    PREFIX_LENGTHS = 3
    VALIDATION_PREFIX_LENGTHS = 4
    MIXTURE = 5


def random_uint64(seed: int, index: int, n_words: int, stream: RandomStream) -> np.ndarray:
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


class Permutation:
    """A pseudorandom bijection of [0, n), computed point by point: no table, whatever n is.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", the generalized Feistel cipher:
    the halves of a number live in Z_a and Z_b with a * b just above n, and a result beyond n is enciphered
    again until it falls below (cycle walking). The round function is the finaliser of splitmix64 (Steele et
    al. 2014).

    Shapes: int64 (N,) -> int64 (N,).
    """

    # Luby and Rackoff 1988 need four for pseudorandomness; two more cost little.
    N_ROUNDS = 6

    def __init__(self, n: int, seed: int, epoch: int = 0, stream: RandomStream = RandomStream.WINDOW_ORDER) -> None:
        assert n >= 1
        self.n = n
        self._a = np.uint64(math.isqrt(n - 1) + 1)
        self._b = np.uint64(-(-n // int(self._a)))
        self._keys = random_uint64(seed, epoch, self.N_ROUNDS, stream)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        assert places.size == 0 or (places.min() >= 0 and places.max() < self.n)
        values = self._encipher(places.astype(np.uint64))
        while (beyond := values >= self.n).any():
            values[beyond] = self._encipher(values[beyond])
        return values.astype(np.int64)

    def _encipher(self, values: np.ndarray) -> np.ndarray:
        right, left = np.divmod(values, self._a)
        for left_key, right_key in self._keys.reshape(-1, 2):
            left = (left + _scramble(right ^ left_key) % self._a) % self._a
            right = (right + _scramble(left ^ right_key) % self._b) % self._b
        enciphered: np.ndarray = self._a * right + left
        return enciphered


def _scramble(words: np.ndarray) -> np.ndarray:
    """(N,) uint64 -> (N,) uint64 in which each bit depends on every bit of the word."""
    mixed: np.ndarray = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
