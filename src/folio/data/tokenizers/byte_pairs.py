"""Byte pairs in the order of their ranks, encoded by tiktoken."""

import base64
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from folio.data.tokenizers.base import LosslessTokenizer, check_ids, encode_utf8, last_match_end
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    import tiktoken

SAFE_CUT = re.compile(r"(?<=\S)(?:(?= )|\n(?=\S))")


class BytePairTokenizer(LosslessTokenizer):
    """A text is split by a pattern, and in each match the pair of neighbours with the lowest rank is joined first.

    Text that looks like a special token, such as `<|endoftext|>`, is ordinary text: neither a corpus nor a prompt can
    inject a special token.
    """

    spaces_of_words = "before"

    @property
    @abstractmethod
    def encoding(self) -> "tiktoken.Encoding":
        """tiktoken's encoding: ranks, pattern and special tokens."""

    @property
    @abstractmethod
    def ranks(self) -> Mapping[bytes, int]:
        """Id of each token, special tokens aside. Pairs are joined in this order."""

    def encode(self, text: str) -> np.ndarray:
        encode_utf8(text)  # for the error message that every tokenizer gives for half of a surrogate pair
        try:
            # The ids of encode_ordinary without a Python list, and an exception where that one panics.
            return self.encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError as error:
            raise FolioError(
                f"tokenizer {self.name} cannot split the text ({error}); look for a run of hundreds of "
                "thousands of spaces and shorten it, or use tokenizer=char"
            ) from error

    def last_cut(self, text: str) -> int:
        return last_safe_cut(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        checked: list[int] = check_ids(ids, self.vocab_size, self.name).tolist()
        try:
            return self.encoding.decode_bytes(checked)
        except KeyError:
            return b"".join(map(self._bytes_of, checked))

    def _bytes_of(self, token: int) -> bytes:
        """Return U+FFFD for an id in a gap of the vocabulary, as cl100k_base has; an untrained model samples them."""
        try:
            return self.encoding.decode_single_token_bytes(token)
        except KeyError:
            return "\N{REPLACEMENT CHARACTER}".encode()


def last_safe_cut(text: str) -> int:
    r"""Return the last place before a space that follows a visible character, or after a newline between two of them.

    A tokenizer first splits a text from left to right by a pattern, GPT-2's or one like it, and then encodes each match
    by itself. So a cut is safe if a match ends there, and if the matches before it are the same when the text ends
    there.

    Before the space: in no alternative of the patterns does a space stand anywhere but at the beginning or among
    white space alone, so a match ends there. The alternatives that look ahead, `\s++$` and `\s+(?!\S)`, look from
    white space alone, which does not reach the cut: the character before it is visible. All other alternatives
    are greedy, and stop at the space as they do at the end of the text.

    After the newline: it is either the last of a run of punctuation, as in cl100k_base, or a match of its own, by
    `\s` or `\s*[\r\n]` in the whole text and by `\s++$` in the first part. A longer run of white space is not
    safe: at the end of a text it is one match, and before a word it is two.

    Python's \s includes all white space of the patterns, and a few control characters besides.
    """
    return last_match_end(SAFE_CUT, text)


def write_ranks(tokens: Sequence[bytes]) -> bytes:
    """Return a rank file as tiktoken reads it: a line for each token, in base64, with its rank."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def read_ranks(rank_file: bytes) -> dict[bytes, int]:
    """Return the rank of each token of a rank file. Raises: ValueError if a line is damaged."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(rank_file.splitlines(), 1):
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"line {number} is not a token in base64 and its rank") from error
    return ranks
