"""A pseudorandom order of any number of things, without a table."""

import math

import numpy as np

from folio.data.random_words import Stream, random_words


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

    def __init__(self, n: int, seed: int, epoch: int = 0, stream: Stream = Stream.WINDOW_ORDER) -> None:
        assert n >= 1
        self.n = n
        self._a = np.uint64(math.isqrt(n - 1) + 1)
        self._b = np.uint64(-(-n // int(self._a)))
        self._keys = random_words(seed, epoch, self.N_ROUNDS, stream)

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
