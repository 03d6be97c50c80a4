"""tiktoken's byte-pair encodings, built from their rank files without network or cache."""

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from folio.data.assets import fetch
from folio.data.tokenizers.byte_pairs import BytePairTokenizer, read_ranks
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.data.tokenizers.state import check_state
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    import tiktoken


class TiktokenTokenizer(BytePairTokenizer):
    """One of tiktoken's encodings, built from the bytes of its rank file.

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

    @property
    def source_sha256(self) -> str:
        return ENCODINGS[self.name].rank_file.sha256

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        # Built at first use: a run on prepared data sizes its model and saves this state without encoding anything.
        return _load_encoding(self.name, self._rank_file)

    @property
    def ranks(self) -> dict[bytes, int]:
        return read_ranks(self._rank_file)

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
