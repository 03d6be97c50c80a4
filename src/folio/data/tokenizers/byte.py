"""The bytes of UTF-8 as ids: the vocabulary that needs neither training nor a file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from folio.data.tokenizers.base import LosslessTokenizer, checked_ids, utf8_of

BYTE = "byte"


class ByteTokenizer(LosslessTokenizer):
    """One id for each value of a byte."""

    name = BYTE
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8_of(text), dtype=np.uint8)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return checked_ids(ids, self.vocab_size, self.name).astype(np.uint8).tobytes()

    def state(self) -> dict[str, Any]:
        return {"name": self.name}
