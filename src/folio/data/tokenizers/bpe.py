"""Byte pairs that are learned from the training text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from folio.data.tokenizers.base import LearnedTokenizer
from folio.data.tokenizers.byte_characters import BYTE_CHARACTERS, bytes_of, characters_of
from folio.data.tokenizers.byte_pairs import BytePairTokenizer, last_safe_cut, read_ranks, write_ranks
from folio.data.tokenizers.state import check_state
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    import tiktoken

N_BYTES = 256
MIN_VOCAB_SIZE = N_BYTES + 1
"""The bytes and the end of text."""
MAX_VOCAB_SIZE = 1 << 20

MAX_TOKEN_BYTES = 128
"""Limit for a token, that of GPT-2's longest. Without one, a line of a thousand dashes would become a token."""

MIN_FREQUENCY = 2
"""Number of times that a pair must occur to become a token."""

MAX_WORDS = 100_000_000
"""Number of words, about 500 MB of English, from which byte pairs are learned. Larger counts are scaled down."""

END_OF_TEXT = "<|endoftext|>"

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's: a word with the space before it, a number, punctuation, or white space. Every character is in a match."""


class BPETokenizer(BytePairTokenizer, LearnedTokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016, section 3.2; Radford et al. 2019, section 2.2).

    Ids are the 256 bytes, the learned pairs in the order in which they were learned, and the end of text.

    Raises: FolioError unless `tokens` are the bytes in their order and then longer ones, each once.

        >>> tokenizer = BPETokenizer.from_text("to be or not to be", 259)
        >>> [tokenizer.decode([token]) for token in tokenizer.encode("not to be")]
        ['n', 'o', 't', ' ', 'to', ' ', 'be']
    """

    name = "bpe"
    learns_from_validation = False
    has_end_of_text = True

    def __init__(self, tokens: Sequence[bytes]) -> None:
        has_bytes = list(tokens[:N_BYTES]) == [bytes([byte]) for byte in range(N_BYTES)]
        has_pairs = all(2 <= len(token) <= MAX_TOKEN_BYTES for token in tokens[N_BYTES:])
        if not (has_bytes and has_pairs) or len(set(tokens)) < len(tokens):
            raise FolioError(
                f"the tokens of a bpe tokenizer must be the {N_BYTES} bytes and then longer ones, each once and of at "
                f"most {MAX_TOKEN_BYTES} bytes; prepare the data or train again"
            )
        self._tokens = tuple(tokens)

    @staticmethod
    def find_units(text: str) -> list[str]:
        import regex  # knows \p{L}, unlike re

        return regex.findall(PATTERN, text)

    @staticmethod
    def last_cut_for_units(text: str) -> int:
        return last_safe_cut(text)

    @classmethod
    def from_counts(cls, counts: Counter[str], vocab_size: int | None) -> Self:
        """Learn byte pairs. The size includes the 256 bytes and the end of text; None: as many as the text gives.

        Raises: FolioError if the text gives fewer.
        """
        _check_not_uniform(counts)
        pairs = learn_byte_pairs(counts, (vocab_size or MAX_VOCAB_SIZE) - MIN_VOCAB_SIZE)
        found = MIN_VOCAB_SIZE + len(pairs)
        if vocab_size is not None and found < vocab_size:
            raise FolioError(
                f"tokenizer.vocab_size={vocab_size}: the training text gives only {found} symbols: {N_BYTES} bytes, "
                f"{len(pairs)} pairs that occur at least {MIN_FREQUENCY} times, and the end of text; "
                f"set tokenizer.vocab_size={found} or less, or use a longer text"
            )
        return cls([bytes([byte]) for byte in range(N_BYTES)] + pairs)

    @property
    def vocab_size(self) -> int:
        return len(self._tokens) + 1

    @property
    def end_of_text(self) -> int:
        return len(self._tokens)

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        special = {END_OF_TEXT: self.end_of_text}
        return tiktoken.Encoding(self.name, pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens=special)

    @property
    def ranks(self) -> dict[bytes, int]:
        return {token: rank for rank, token in enumerate(self._tokens)}

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "rank_file": write_ranks(self._tokens)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_state(state, rank_file=bytes)
        try:
            tokens = list(read_ranks(state["rank_file"]))
        except ValueError as error:
            raise FolioError(f"the rank file of tokenizer bpe: {error}; prepare the data or train again") from error
        tokenizer = cls(tokens)
        if write_ranks(tokens) != state["rank_file"]:
            raise FolioError("the rank file of tokenizer bpe is not in order; prepare the data or train again")
        return tokenizer


def learn_byte_pairs(counts: Counter[str], n_pairs: int) -> list[bytes]:
    """Return at most `n_pairs` tokens of two and more bytes, the most frequent first.

    Hugging Face's trainer joins the most frequent pair of neighbours, again and again; of equally frequent pairs, that
    of the earlier tokens. So the result follows from the counts, whatever the number of threads.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    trainer = BpeTrainer(
        vocab_size=N_BYTES + n_pairs,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=list(BYTE_CHARACTERS),
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=False,
    )
    learned = Tokenizer(BPE())
    learned.train_from_iterator(_repeat_words(counts), trainer)
    vocabulary = learned.get_vocab()
    tokens = map(bytes_of, sorted(vocabulary, key=vocabulary.__getitem__)[N_BYTES:])
    return [token for token in tokens if token is not None]


def _repeat_words(counts: Counter[str], chunk: int = 10_000) -> Iterator[list[str]]:
    """Yield each word as often as it occurs, in lists, because the trainer takes texts and no counts."""
    divisor = max(1, -(-counts.total() // MAX_WORDS))
    for word, count in counts.items():
        characters, n = characters_of(word.encode("utf-8")), round(count / divisor)
        for first in range(0, n, chunk):
            yield [characters] * min(chunk, n - first)


def _check_not_uniform(counts: Counter[str]) -> None:
    """Raises: FolioError unless there are two different characters, so that there is something to predict."""
    characters = set().union(*counts)
    if len(characters) < 2:
        raise FolioError(
            f"the training text holds no character but {''.join(characters)!r}, so there is nothing to learn; use "
            "another text"
        )
