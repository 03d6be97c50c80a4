"""The token files of other projects: what their headers say, and where their ids lie.

- nanoGPT's `train.bin`: only ids, uint16 (`data/openwebtext/prepare.py`).
- llm.c's and modded-nanogpt's shards: 256 int32, of which the first three are a magic number, a version and the number
  of ids, then the ids (`dev/data/data_common.py`).
- Megatron-LM's pairs: `x_document.bin` has only ids, and `x_document.idx` says of what type they are and how long each
  sequence is (`megatron/core/datasets/indexed_dataset.py`).
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.sharded_tokens import ShardFile
from folio.data.token_file import token_dtype
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import open_regular

LLMC_HEADER_BYTES = 256 * 4
LLMC_VERSIONS = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
"""Magic number -> the version that is read, and its type of ids: GPT-2's, and Llama 3's."""

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_VERSION = 1
MEGATRON_HEADER = struct.Struct("<9sQBQQ")
"""Magic bytes, version, code of the type, number of sequences, number of documents + 1."""
MEGATRON_DTYPES = {1: "|u1", 4: "<i4", 5: "<i8", 8: "<u2"}
"""The codes of types that hold ids."""


class TokenFormatError(FolioError):
    """A token file is not of the format that it seems to have."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"data.path: {path} {fault}")


@dataclass(frozen=True)
class ForeignTokens:
    """The ids of one file, and the format that says where they lie."""

    format: str
    shard: ShardFile


def read_header(path: Path, vocab_size: int, random_access: bool) -> ForeignTokens:
    """Return where the ids of a file lie.

    Args:
        vocab_size: of the tokenizer, which decides the type of ids that have no header.

    Raises: TokenFormatError, in one line, if the file contradicts its header; OSError.
    """
    with open_regular(path) as file:
        n_bytes, header = os.fstat(file.fileno()).st_size, file.read(LLMC_HEADER_BYTES)
    if path.with_suffix(".idx").exists():
        name, dtype, offset = "Megatron", _megatron_dtype(path, n_bytes), 0
    elif len(header) >= 4 and (magic := int.from_bytes(header[:4], "little")) in LLMC_VERSIONS:
        name, dtype, offset = "llm.c", _llmc_dtype(path, header, magic, n_bytes), LLMC_HEADER_BYTES
    else:
        name, dtype, offset = "nanoGPT", token_dtype(vocab_size), 0
    itemsize = np.dtype(dtype).itemsize
    n_tokens, rest = divmod(n_bytes - offset, itemsize)
    if rest or not n_tokens:
        raise TokenFormatError(
            path,
            f"has {n_bytes} bytes, which are no whole number of {np.dtype(dtype).name} ids in {name}'s format; "
            "give a file that was not cut short",
        )
    return ForeignTokens(name, ShardFile(path, n_tokens, dtype, random_access, offset, n_bytes))


def _llmc_dtype(path: Path, header: bytes, magic: int, n_bytes: int) -> str:
    version, dtype = LLMC_VERSIONS[magic]
    if len(header) < LLMC_HEADER_BYTES:
        raise TokenFormatError(path, "ends within its header; give a file that was not cut short")
    _, found, n_tokens = struct.unpack_from("<3i", header)
    if found != version:
        raise TokenFormatError(path, f"is of version {found} of llm.c's format {magic}; only version {version} is read")
    expected = LLMC_HEADER_BYTES + n_tokens * np.dtype(dtype).itemsize
    if n_bytes != expected:
        raise TokenFormatError(
            path, f"has {n_bytes} bytes, and its header says {n_tokens} ids, which are {expected}; was it cut short?"
        )
    return dtype


def _megatron_dtype(path: Path, n_bytes: int) -> str:
    index = path.with_suffix(".idx")
    with open_regular(index) as file:
        header = file.read(MEGATRON_HEADER.size)
    if len(header) < MEGATRON_HEADER.size or not header.startswith(MEGATRON_MAGIC):
        raise TokenFormatError(index, "is no index of Megatron's; move it away, or give its .bin file another name")
    _, version, code, n_sequences, n_documents = MEGATRON_HEADER.unpack(header)
    if version != MEGATRON_VERSION:
        raise TokenFormatError(index, f"is of version {version}; only version {MEGATRON_VERSION} is read")
    if code not in MEGATRON_DTYPES:
        raise TokenFormatError(index, f"says type {code}, which holds no ids; prepare the data again")
    expected = MEGATRON_HEADER.size + 12 * n_sequences + 8 * n_documents
    if (found := index.stat().st_size) < expected or not n_sequences:
        raise TokenFormatError(index, f"has {found} bytes, and its {n_sequences} sequences need {expected}")
    dtype = MEGATRON_DTYPES[code]
    lengths = np.memmap(index, "<i4", mode="r", offset=MEGATRON_HEADER.size, shape=(n_sequences,))
    n_tokens = int(lengths.sum(dtype=np.int64))
    if lengths.min() < 0 or n_tokens * np.dtype(dtype).itemsize != n_bytes:
        raise TokenFormatError(
            path, f"has {n_bytes} bytes, and {index.name} says {n_tokens} ids of type {dtype[1:]}; they differ"
        )
    return dtype


def check_ids(shard: ShardFile, ids: np.ndarray, vocab_size: int, tokenizer: str) -> None:
    """Raises: TokenFormatError if some of these ids of a file lie outside the vocabulary."""
    smallest, largest = int(ids.min()), int(ids.max())
    if smallest < 0 or largest >= vocab_size:
        wrong = smallest if smallest < 0 else largest
        raise TokenFormatError(
            shard.path,
            f"holds the id {wrong}, and tokenizer={tokenizer} has {vocab_size} symbols; name the one that made it",
        )
