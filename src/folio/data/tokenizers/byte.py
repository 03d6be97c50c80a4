"""The bytes of UTF-8 as ids: a vocabulary that needs neither training nor a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from folio.data.tokenizers.base import LosslessTokenizer, check_ids, encode_utf8
from folio.data.tokenizers.state import check_state


class ByteTokenizer(LosslessTokenizer):
    """One id for each value of a byte.

    Example:

        >>> ByteTokenizer().encode("é").tolist()
        [195, 169]
    """

    name = "byte"
    vocab_size = 256

    @classmethod
    def create(cls, name: str, assets_dir: Path) -> Self:
        return cls()

    @classmethod
    def known_vocab_size(cls, name: str) -> int:
        return cls.vocab_size

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(encode_utf8(text), dtype=np.uint8)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return check_ids(ids, self.vocab_size, self.name).astype(np.uint8).tobytes()

    def state(self) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_state(state)
        return cls()
