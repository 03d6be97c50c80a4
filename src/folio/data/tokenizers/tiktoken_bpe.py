"""tiktoken's byte-pair encodings, built from their rank files without network or cache."""

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from folio.data.assets import fetch
from folio.data.tokenizers.base import LosslessTokenizer, check_ids, encode_utf8, last_match_end
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.data.tokenizers.state import check_state
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    import tiktoken

SAFE_CUT = re.compile(r"(?<=\S)(?:(?= )|\n(?=\S))")


class TiktokenTokenizer(LosslessTokenizer):
    """One of tiktoken's encodings, built from the bytes of its rank file.

    Text that looks like a special token, such as `<|endoftext|>`, is ordinary text: neither a corpus nor a prompt can
    inject a special token.

    Raises: FolioError if `rank_file` is not the file whose sha256 tiktoken names.

        >>> TiktokenTokenizer.known_vocab_size("cl100k_base")  # `create` downloads its file
        100277
    """

    def __init__(self, name: str, rank_file: bytes) -> None:
        asset = ENCODINGS[name].rank_file
        got = hashlib.sha256(rank_file).hexdigest()
        if got != asset.sha256:
            raise FolioError(
                f"the rank file of tokenizer {name} has sha256 {got}, expected {asset.sha256}; "
                "it is damaged: prepare the data again, or use another checkpoint"
            )
        self.name = name
        self._rank_file = rank_file

    @classmethod
    def create(cls, name: str, assets_dir: Path) -> Self:
        return cls(name, fetch(ENCODINGS[name].rank_file, assets_dir).read_bytes())

    @classmethod
    def known_vocab_size(cls, name: str) -> int:
        return ENCODINGS[name].vocab_size

    @property
    def vocab_size(self) -> int:
        return ENCODINGS[self.name].vocab_size

    @property
    def end_of_text(self) -> int:
        return ENCODINGS[self.name].end_of_text

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        # Built at first use: a run on prepared data sizes its model and saves this state without encoding anything.
        return _load_encoding(self.name, self._rank_file)

    def encode(self, text: str) -> np.ndarray:
        encode_utf8(text)  # for the error message that every tokenizer gives for half of a surrogate pair
        try:
            # The ids of encode_ordinary without a Python list, and an exception where that one panics.
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError as error:
            raise FolioError(
                f"tokenizer {self.name} cannot split the text ({error}); look for a run of hundreds of "
                "thousands of spaces and shorten it, or use tokenizer=char"
            ) from error

    def last_cut(self, text: str) -> int:
        r"""Cut before a space that follows a visible character, or after a newline between two visible characters.

        tiktoken first splits a text from left to right by a pattern, and then encodes each match by itself. So a cut
        is safe if a match ends there, and if the matches before it are the same when the text ends there.

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

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        checked: list[int] = check_ids(ids, self.vocab_size, self.name).tolist()
        try:
            return self._encoding.decode_bytes(checked)
        except KeyError:
            return b"".join(map(self._bytes_of, checked))

    def _bytes_of(self, token: int) -> bytes:
        """Return U+FFFD for an id in a gap of the vocabulary, as cl100k_base has; an untrained model samples them."""
        try:
            return self._encoding.decode_single_token_bytes(token)
        except KeyError:
            return "\N{REPLACEMENT CHARACTER}".encode()

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "rank_file": self._rank_file}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_state(state, rank_file=bytes)
        return cls(state["name"], state["rank_file"])


_environment_lock = threading.Lock()


def _load_encoding(name: str, rank_file: bytes) -> "tiktoken.Encoding":
    """Let tiktoken build the encoding from a cache folder that holds only this file.

    tiktoken's cache names a file by the sha1 of its URL, and checks the content. The folder is temporary because
    tiktoken deletes a cached file that fails the check.
    """
    import tiktoken

    encoding = ENCODINGS[name]
    with tempfile.TemporaryDirectory() as folder, _tiktoken_cache(folder):
        assert encoding.rank_file.url is not None
        cache_name = hashlib.sha1(encoding.rank_file.url.encode()).hexdigest()
        Path(folder, cache_name).write_bytes(rank_file)
        return tiktoken.get_encoding(encoding.tiktoken_name)


@contextmanager
def _tiktoken_cache(folder: str) -> Iterator[None]:
    """Point tiktoken to a cache folder, and restore the environment afterwards."""
    key = "TIKTOKEN_CACHE_DIR"
    with _environment_lock:
        before = os.environ.get(key)
        os.environ[key] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[key]
            else:
                os.environ[key] = before
