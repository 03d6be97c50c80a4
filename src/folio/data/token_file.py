"""Token files: a flat array of token ids (`.bin`) and a sidecar (`.json`) that describes it.

The ids are little-endian, uint16 if the vocabulary allows and otherwise uint32. The array is mapped into memory, so a
corpus can be larger than RAM.
"""

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin

import numpy as np

from folio.data.tokenizers.base import UnknownTokens
from folio.runtime.errors import FolioError
from folio.runtime.files import atomic_writer, sha256_of, write_atomically
from folio.runtime.untrusted import UntrustedFileError, check_regular, read_json

T = TypeVar("T")

FORMAT = 2
LARGEST_UINT16_VOCABULARY = 2**16

LARGEST_HASHED_BYTES = 256 * 2**20
"""Size of the largest file whose hash is checked.

Hashing reads the whole file. Up to this size that takes a fraction of a second. Far above, it would delay every start
and push other files out of the page cache, so only the size is checked, which notices the common accident: a file that
was cut short.
"""


class TokenFileError(FolioError):
    """A token file is missing or contradicts its sidecar. `fault` is the reason without the remedy."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"token file {path} {fault}; prepare the data again")
        self.fault = f"token file {path} {fault}"


@dataclass(frozen=True)
class TokenFileInfo:
    """The content of a sidecar. `n_bytes` is the size of the text in UTF-8.

    `n_unknown` tokens stand for text that the vocabulary lacks, and spelling it out takes `spelling_bits` bits. Both
    are 0 unless the tokenizer has a token for unknown text. The bits are infinite if they say too little to spell it.

        >>> from folio.data.tokenizers.base import UnknownTokens
        >>> info = write_token_file(
        ...     Path("val.bin"), [(np.array([1, 2, 3]), UnknownTokens())], vocab_size=65, tokenizer="char",
        ...     tokenizer_fingerprint="", split="val", n_bytes=3, source_sha256="",
        ... )
        >>> info.n_tokens, round(info.bits_per_byte(loss_nats=0.6931), 3)
        (3, 1.0)
    """

    format: int
    dtype: str
    vocab_size: int
    tokenizer: str
    tokenizer_fingerprint: str
    split: str
    n_tokens: int
    n_unknown: int
    n_bytes: int
    spelling_bits: float
    source_sha256: str
    tokens_sha256: str

    @property
    def share_unknown(self) -> float:
        return self.n_unknown / self.n_tokens

    @property
    def reproduces_text(self) -> bool:
        """Whether the ids, with the spelling of unknown tokens, say what the text is, so that bits per byte exist."""
        return self.spelling_bits < math.inf

    def bits_per_byte(self, loss_nats: float) -> float:
        """Return how many bits a model with this mean loss per token needs for each byte of the text.

        This makes tokenizers comparable: a token that spans more text may cost more, and an unknown token costs its
        spelling in addition.
        """
        return bits_per_byte(loss_nats, self.n_tokens, self.n_bytes, self.spelling_bits)


def bits_per_byte(loss_nats: float, n_tokens: int, n_bytes: int, spelling_bits: float) -> float:
    """Return the bits for each byte of a text of n_tokens, whose unknown tokens take spelling_bits to spell out."""
    return (loss_nats / math.log(2) * n_tokens + spelling_bits) / n_bytes


class MappedTokens(np.memmap):
    """A token array on disk that is pickled as its path.

    numpy pickles a memmap by copying the data, so a spawned worker process would receive the whole corpus.

        >>> from folio.data.tokenizers.base import UnknownTokens
        >>> info = write_token_file(
        ...     Path("val.bin"), [(np.array([1, 2, 3]), UnknownTokens())], vocab_size=65, tokenizer="char",
        ...     tokenizer_fingerprint="", split="val", n_bytes=3, source_sha256="",
        ... )
        >>> map_tokens(Path("val.bin"), info.dtype).tolist()
        [1, 2, 3]
    """

    def __reduce__(self) -> Any:
        if isinstance(cast(object, self.base), mmap.mmap):  # not a slice
            return map_tokens, (self.filename, self.dtype.str, False, self.offset, len(self))
        return np.asarray(self).__reduce__()


def map_tokens(
    path: Path, dtype: str, random_access: bool = False, offset: int = 0, n_tokens: int | None = None
) -> MappedTokens:
    """Map the ids of a file, by default all of them.

    Args:
        random_access: whether it is one of many shards that together may be larger than memory.
        offset: number of bytes before the first id.
    """
    check_regular(path)
    shape = None if n_tokens is None else (n_tokens,)
    tokens = MappedTokens(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    # Windows can be anywhere. The kernel would read megabytes around each, which only helps if the whole file stays.
    if (random_access or tokens.nbytes > LARGEST_HASHED_BYTES) and hasattr(mmap, "MADV_RANDOM"):
        cast(mmap.mmap, tokens.base).madvise(mmap.MADV_RANDOM)
    return tokens


def check_whole(tokens: np.ndarray) -> None:
    """Raises: TokenFileError if the file of mapped tokens was cut short, since reading it would end in SIGBUS.

    This is one call of fstat, before each batch.
    """
    mapping = cast(object, tokens.base)
    if isinstance(tokens, MappedTokens) and isinstance(mapping, mmap.mmap) and mapping.size() < tokens.nbytes:
        raise TokenFileError(Path(str(tokens.filename)), "was cut short while it was in use")


@dataclass(frozen=True)
class TokenFile:
    """A verified token file; `tokens` has shape (n_tokens,) and is read-only.

    Example:

        >>> from folio.data.tokenizers.base import UnknownTokens
        >>> info = write_token_file(
        ...     Path("val.bin"), [(np.array([1, 2, 3]), UnknownTokens())], vocab_size=65, tokenizer="char",
        ...     tokenizer_fingerprint="", split="val", n_bytes=3, source_sha256="",
        ... )
        >>> TokenFile.open(Path("val.bin")).tokens.tolist()
        [1, 2, 3]
    """

    path: Path
    info: TokenFileInfo
    tokens: np.memmap
    _opened: os.stat_result | None = None

    @property
    def documents(self) -> None:
        """A single text is not divided into documents."""

    @property
    def completions_info(self) -> None:
        """See `documents`."""

    def check_unchanged(self) -> None:
        """Raises: TokenFileError if the file was written to since it was opened.

        A file that was removed or replaced is still whole in our mapping.
        """
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return
        before = self._opened
        if before is None or now.st_ino != before.st_ino:
            return
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            is_same = now.st_size <= LARGEST_HASHED_BYTES and sha256_of(self.path) == self.info.tokens_sha256
            if not is_same:
                raise TokenFileError(self.path, "was altered while it was in use")

    @classmethod
    def open(cls, path: Path) -> "TokenFile":
        """Map the file after checking it against its sidecar.

        Raises: TokenFileError if either file is missing, or they do not belong together.
        """
        info = _read_sidecar(path)
        if not path.is_file():
            raise TokenFileError(path, "is missing")
        opened = path.stat()
        expected = info.n_tokens * np.dtype(info.dtype).itemsize
        n_bytes = opened.st_size
        if n_bytes != expected:
            raise TokenFileError(path, f"has {n_bytes} bytes, but its sidecar says {expected}")
        if n_bytes <= LARGEST_HASHED_BYTES and sha256_of(path) != info.tokens_sha256:
            raise TokenFileError(path, "was altered: its sha256 is not the one in its sidecar")
        tokens = map_tokens(path, info.dtype)
        if n_bytes <= LARGEST_HASHED_BYTES and tokens.max() >= info.vocab_size:
            raise TokenFileError(path, f"holds the id {tokens.max()}, and its vocabulary ends at {info.vocab_size}")
        return cls(path, info, tokens, opened)


def token_dtype(vocab_size: int) -> str:
    """Return the smaller of the two types if it holds every id."""
    return "<u2" if vocab_size <= LARGEST_UINT16_VOCABULARY else "<u4"


def sidecar_path(path: Path) -> Path:
    return path.with_suffix(".json")


def write_token_file(
    path: Path,
    pieces: Iterable[tuple[np.ndarray, UnknownTokens]],
    *,
    vocab_size: int,
    tokenizer: str,
    tokenizer_fingerprint: str,
    split: str,
    n_bytes: int,
    source_sha256: str,
) -> TokenFileInfo:
    """Write tokens as they arrive, and then the sidecar, which makes the pair valid.

    Each piece is an array of tokens, (N,) integers, and what is unknown in them.

    Raises: FolioError if there are no tokens or an id lies outside the vocabulary; OSError from the disk.
    """
    dtype = token_dtype(vocab_size)
    n_tokens, unknown, digest = 0, UnknownTokens(), hashlib.sha256()
    with atomic_writer(path) as file:
        for tokens, unknown_in_piece in pieces:
            if tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size):
                raise FolioError(
                    f"token ids {tokens.min()} to {tokens.max()} of the {split} split do not fit "
                    f"vocab_size={vocab_size}; give the vocabulary size of the tokenizer that made them ({tokenizer})"
                )
            data = np.ascontiguousarray(tokens, dtype=dtype).tobytes()
            file.write(data)
            digest.update(data)
            n_tokens += tokens.size
            unknown += unknown_in_piece
        if n_tokens == 0:
            raise FolioError(f"the {split} split holds no tokens; the text is too short, use a longer one")
    info = TokenFileInfo(
        format=FORMAT,
        dtype=dtype,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        tokenizer_fingerprint=tokenizer_fingerprint,
        split=split,
        n_tokens=n_tokens,
        n_unknown=unknown.n_tokens,
        n_bytes=n_bytes,
        spelling_bits=unknown.spelling_bits,
        source_sha256=source_sha256,
        tokens_sha256=digest.hexdigest(),
    )
    write_atomically(sidecar_path(path), (json.dumps(asdict(info), indent=2) + "\n").encode())
    return info


def _read_sidecar(path: Path) -> TokenFileInfo:
    sidecar = sidecar_path(path)
    try:
        info = dataclass_from_json(TokenFileInfo, read_json(sidecar))
    except FileNotFoundError:
        raise TokenFileError(path, f"has no sidecar {sidecar.name}") from None
    except UntrustedFileError as error:
        raise TokenFileError(path, f"has a sidecar {sidecar.name} that {error.problem}") from None
    except TypeError:
        info = None
    if info is None or not _is_consistent(info):
        raise TokenFileError(path, f"has a sidecar {sidecar.name} that is not of format {FORMAT}")
    return info


def _is_consistent(info: TokenFileInfo) -> bool:
    return (
        info.format == FORMAT
        and info.dtype == token_dtype(info.vocab_size)
        and 0 <= info.n_unknown <= info.n_tokens
        and info.n_tokens > 0
        and info.n_bytes > 0
        and info.spelling_bits >= 0.0
    )


def dataclass_from_json(kind: type[T], fields: Any) -> T:
    """Return the dataclass with these fields.

    Raises: TypeError if one is missing, unknown, of another type, or a whole number below 0 or beyond 64 bits.
    """
    annotations: dict[str, Any] = kind.__annotations__
    if not isinstance(fields, dict) or fields.keys() != annotations.keys():
        raise TypeError
    if not all(type(fields[name]) in _types_of(expected) for name, expected in annotations.items()):
        raise TypeError
    if any(isinstance(value, int) and not 0 <= value < 2**63 for value in fields.values()):
        raise TypeError
    return kind(**fields)


def _types_of(annotation: Any) -> list[Any]:
    """Return the classes that an annotation such as `str`, `list[str]` or `str | None` allows."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return [get_origin(member) or member for member in members]
