"""tiktoken's byte-pair encodings, made from their rank files without network or cache."""

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from folio.data.tokenizers.base import LosslessTokenizer, checked_ids, last_end, utf8_of
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    import tiktoken


CUT = re.compile(r"(?<=\S)(?:(?= )|\n(?=\S))")


class TiktokenTokenizer(LosslessTokenizer):
    """One of tiktoken's encodings, made from the bytes of its rank file.

    Text that looks like a special token, such as `<|endoftext|>`, is ordinary text: a corpus or a prompt must
    not be able to say more than its characters.

    Raises: FolioError if `rank_file` is not the file whose sha256 tiktoken names.
    """

    def __init__(self, name: str, rank_file: bytes) -> None:
        asset = ENCODINGS[name].rank_file
        got = hashlib.sha256(rank_file).hexdigest()
        if got != asset.sha256:
            raise FolioError(
                f"the rank file of tokenizer {name} has sha256 {got}, expected {asset.sha256}; "
                "it was damaged: prepare the data again, or use another checkpoint"
            )
        self.name = name
        self._rank_file = rank_file

    @property
    def vocab_size(self) -> int:
        return ENCODINGS[self.name].vocab_size

    @property
    def end_of_text(self) -> int:
        return ENCODINGS[self.name].end_of_text

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        # Made at first use: a run on prepared data sizes its model and saves this state without encoding.
        return _load_encoding(self.name, self._rank_file)

    def encode(self, text: str) -> np.ndarray:
        utf8_of(text)  # refuses half of a surrogate pair in the words of every tokenizer
        try:
            # Same ids as encode_ordinary, without a Python list, and an exception where that one panics.
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError as error:
            raise FolioError(
                f"tokenizer {self.name} cannot split the text ({error}); look for a run of hundreds of "
                "thousands of spaces and shorten it, or use tokenizer=char"
            ) from error

    def last_cut(self, text: str) -> int:
        r"""In front of a space that follows something visible, or behind a newline between two visible characters.

        tiktoken first splits a text by a pattern from left to right, and then each match by itself; so it is enough
        that a match ends at the cut, and that those before it are the same when the text ends there.

        In front of the space: no alternative of the patterns has a space anywhere but at its beginning or within
        white space alone, so one ends there. What looks ahead, `\s++$` and `\s+(?!\S)`, looks from white space
        alone, and that does not reach the cut: before it stands something visible. All else takes as much as it
        can, and stops at the space as it does at the end.

        Behind the newline: it is either the last of a run of signs, as cl100k_base has it, or a match of its own,
        by `\s` or `\s*[\r\n]` in the whole and by `\s++$` in the part. A longer run of white space would not
        do: as the end of a text it is one match, and in front of a word it is two.

        Python calls everything white space that the patterns do, and a few control characters besides.
        """
        return last_end(CUT, text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        checked: list[int] = checked_ids(ids, self.vocab_size, self.name).tolist()
        try:
            return self._encoding.decode_bytes(checked)
        except KeyError:
            return b"".join(map(self._bytes_of, checked))

    def _bytes_of(self, token: int) -> bytes:
        """U+FFFD for an id in a gap of the vocabulary, as cl100k_base has; an untrained model draws them."""
        try:
            return self._encoding.decode_single_token_bytes(token)
        except KeyError:
            return "\N{REPLACEMENT CHARACTER}".encode()

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "rank_file": self._rank_file}


_environment_lock = threading.Lock()


def _load_encoding(name: str, rank_file: bytes) -> "tiktoken.Encoding":
    """Let tiktoken build the encoding from a cache folder that holds just this file.

    tiktoken looks for the sha1 of the URL as a file name, and verifies what it finds. The folder is ours and
    temporary, because tiktoken deletes a cached file that it does not like.
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
    """Point tiktoken at a cache folder, and leave the environment as it was."""
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
