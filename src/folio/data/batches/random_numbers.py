"""Random numbers for batches, as functions of their arguments: there is no generator whose state must be saved."""

import math
from enum import IntEnum

import numpy as np

GOLDEN_SECTION = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio."""


class RandomStream(IntEnum):
    """The use of random numbers. Streams are independent of each other, also for the same seed and index.

    Example:

        >>> random_uint64(seed=1, index=0, n=2, stream=RandomStream.MASKS).dtype
        dtype('uint64')
    """

    WINDOW_ORDER = 0
    MASKS = 1
    VALIDATION_MASKS = 2
    PREFIX_LENGTHS = 3
    VALIDATION_PREFIX_LENGTHS = 4
    MIXTURE = 5
    TOKEN_NOISE = 6


def random_uint64(seed: int, index: int, n: int, stream: RandomStream) -> np.ndarray:
    """Return n random 64-bit integers, (n,) uint64, which depend only on the arguments.

    The first ones are the same for any n. They are the raw output of Philox, because numpy keeps the streams of bit
    generators the same between versions, but not those of `Generator.integers` (NEP 19). The stream is the highest word
    of Philox's counter, which no other stream can reach.
    """
    key = np.array([seed, index], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n)


def uniform_integers(random: np.ndarray, n: int) -> np.ndarray:
    """Map random uint64 to int64 in [0, n). The remainder favours low numbers by a negligible n / 2**64."""
    return (random % np.uint64(n)).astype(np.int64)


def uniform_fractions(random: np.ndarray) -> np.ndarray:
    """Map random uint64 to float64 in [0, 1), using the 53 highest bits."""
    return (random >> np.uint64(11)) * 2.0**-53


def evenly_spread(draws: np.ndarray, n: int, seed: int, index: int = 0) -> np.ndarray:
    """Return a number in [0, n) for each draw 0, 1, 2, ...: (B,) int64. Any successive draws lie evenly in the range.

    Each is a golden section of the range, cyclically, behind the one before, and the first is random: m successive
    draws leave no gap above 1.9 n / m.
    Source: Knuth 1998, The Art of Computer Programming 3, section 6.4, theorem S and exercise 9.
    """
    first = random_uint64(seed, index, 1, RandomStream.WINDOW_ORDER)
    fractions = uniform_fractions(first + draws.astype(np.uint64) * GOLDEN_SECTION)  # modulo 2**64
    return (fractions * n).astype(np.int64)


class Permutation:
    """A pseudorandom bijection of [0, n), computed point by point without a table.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", the generalized Feistel cipher: the halves
    of a number are in Z_a and Z_b with a * b slightly above n, and a result beyond n is enciphered again until it is
    below (cycle walking). The round function is the finalizer of splitmix64 (Steele et al. 2014).

    Shapes: int64 (N,) -> int64 (N,).

        >>> sorted(Permutation(5, seed=1)(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    # Luby and Rackoff 1988 need four for pseudorandomness; two more cost little.
    N_ROUNDS = 6

    def __init__(self, n: int, seed: int, epoch: int = 0, stream: RandomStream = RandomStream.WINDOW_ORDER) -> None:
        assert n >= 1
        self.n = n
        self._a = np.uint64(math.isqrt(n - 1) + 1)
        self._b = np.uint64(-(-n // int(self._a)))
        self._keys = random_uint64(seed, epoch, self.N_ROUNDS, stream)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        assert positions.size == 0 or (positions.min() >= 0 and positions.max() < self.n)
        values = self._encipher(positions.astype(np.uint64))
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


def _scramble(values: np.ndarray) -> np.ndarray:
    """Mix (N,) uint64 so that each bit of the result depends on every bit of the value."""
    mixed: np.ndarray = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def permuted(draws: np.ndarray, n: int, seed: int, index: int = 0) -> np.ndarray:
    """Return a number in [0, n) for each draw 0, 1, 2, ...: (B,) int64. Each number occurs once in n draws, an epoch.

    Every epoch has another permutation, and so has every index.
    """
    epochs, places = np.divmod(draws, n)
    numbers = np.empty_like(draws)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        numbers[here] = Permutation(n, seed, epoch + (index << 40))(places[here])
    return numbers
