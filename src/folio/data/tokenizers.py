"""Text to token ids and back: tiktoken's byte-pair encodings, and characters.

A tokenizer gives its whole state as plain data, so that a checkpoint that holds the state can write text
without network, data folder or cache.
"""

import base64
import difflib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from folio.data.assets import fetch
from folio.data.rank_files import ENCODINGS
from folio.errors import FolioError

if TYPE_CHECKING:
    import tiktoken

CHAR = "char"

# Known before any file is read, so that a model can be sized and checked first. `char` is absent: its
# vocabulary depends on the text.
VOCAB_SIZES: dict[str, int] = {name: encoding.vocab_size for name, encoding in ENCODINGS.items()}
TOKENIZERS: tuple[str, ...] = (*VOCAB_SIZES, CHAR)


class Tokenizer(Protocol):
    """What the rest of Folio asks of a tokenizer. Ids run from 0 to vocab_size - 1."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray:
        """Token ids, shape (N,), integers. Every character counts as ordinary text.

        Raises: FolioError naming the characters that this tokenizer cannot encode and where they stand.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text; where the ids cut a UTF-8 sequence, U+FFFD. Raises FolioError as `decode_bytes`."""
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The UTF-8 bytes, exactly those that were encoded. Raises FolioError for an id out of range."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain strings and bytes from which `load_tokenizer` makes an equal tokenizer."""
        ...


def build_tokenizer(name: str, text: str, assets_dir: Path) -> Tokenizer:
    """The tokenizer `name`; `char` takes the characters of `text`, which is the whole corpus as in nanoGPT.

    Raises: FolioError for an unknown name, an empty `text` with `char`, or a rank file that cannot be had.
    """
    check_tokenizer_name(name)
    if name == CHAR:
        return CharTokenizer("".join(sorted(set(text))))
    return TiktokenTokenizer(name, fetch(ENCODINGS[name].rank_file, assets_dir).read_bytes())


def load_tokenizer(state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `state()` this is. Raises FolioError if the state is unknown or damaged."""
    match dict(state):
        case {"name": "char", "characters": str(characters), **rest} if not rest:
            return CharTokenizer(characters)
        case {"name": str(name), "rank_file": bytes(rank_file), **rest} if name in ENCODINGS and not rest:
            return TiktokenTokenizer(name, rank_file)
    raise FolioError(
        f"tokenizer state with name={state.get('name')!r} and keys {sorted(map(str, state))} is not one that "
        f"this version of Folio writes (tokenizers: {', '.join(TOKENIZERS)}); prepare the data or train again"
    )


def check_tokenizer_name(name: str) -> None:
    """Raises FolioError with the nearest known name."""
    if name not in TOKENIZERS:
        near = difflib.get_close_matches(name, TOKENIZERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(TOKENIZERS)}"
        raise FolioError(f"tokenizer={name} is unknown; {hint}")


def state_to_json(state: Mapping[str, Any]) -> bytes:
    """The same state, the same bytes: this is what a fingerprint is taken of. Bytes values become base64."""
    plain = {
        key: {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
        for key, value in state.items()
    }
    return json.dumps(plain, sort_keys=True).encode("ascii")


def state_from_json(data: bytes) -> dict[str, Any]:
    """Inverse of `state_to_json`. Raises ValueError if `data` is not such a JSON object."""
    try:
        return {
            key: base64.b64decode(value["base64"], validate=True) if isinstance(value, dict) else value
            for key, value in json.loads(data).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a tokenizer state: {error}") from error


class CharTokenizer:
    """One id for each character (Unicode code point), in the order of their code points.

    Raises: FolioError unless `characters` is a non-empty ascending string without repetition.
    """

    name = CHAR

    def __init__(self, characters: str) -> None:
        if not characters or any(a >= b for a, b in pairwise(characters)):
            raise FolioError(
                "the characters of a char tokenizer must be at least one, ascending, each once, "
                f"got {characters[:20]!a}; prepare the data or train again"
            )
        self._characters = characters
        self._code_points = _code_points(characters)
        # From code point to id; -1 where there is none. One slot more than the highest character needs.
        self._ids = np.full(int(self._code_points[-1]) + 2, -1, dtype=np.int32)
        self._ids[self._code_points] = np.arange(len(characters), dtype=np.int32)

    @property
    def vocab_size(self) -> int:
        return len(self._characters)

    def encode(self, text: str) -> np.ndarray:
        ids: np.ndarray = self._ids.take(_code_points(text), mode="clip")
        if ids.size and ids.min() < 0:
            raise FolioError(self._describe_missing(text, np.flatnonzero(ids < 0)))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        checked = _checked_ids(ids, self.vocab_size, self.name)
        code_points: bytes = self._code_points[checked].tobytes()
        return code_points.decode("utf-32-le")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "characters": self._characters}

    def _describe_missing(self, text: str, positions: np.ndarray) -> str:
        first: dict[str, int] = {}
        for position in positions.tolist():
            first.setdefault(text[position], position)
            if len(first) == 5:
                break
        shown = ", ".join(f"{char!r} (U+{ord(char):04X}) at position {at}" for char, at in first.items())
        return (
            f"the char tokenizer has no id for {shown}; it knows the {self.vocab_size} characters of its "
            "training text; leave those out, or train with another tokenizer"
        )


def _code_points(text: str) -> np.ndarray:
    """(N,) uint32. A lone surrogate, from a command line of broken UTF-8, passes and is found missing."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _checked_ids(ids: Sequence[int], vocab_size: int, name: str) -> np.ndarray:
    array = np.asarray(ids, dtype=np.int64)
    outside = array[(array < 0) | (array >= vocab_size)]
    if outside.size:
        raise FolioError(
            f"token id {outside[0]} is outside the vocabulary of {name}, 0 to {vocab_size - 1}; "
            "use the tokenizer that the ids were made with"
        )
    return array


class TiktokenTokenizer:
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
        return VOCAB_SIZES[self.name]

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        # Made at first use: a run on prepared data sizes its model and saves this state without encoding.
        return _load_encoding(self.name, self._rank_file)

    def encode(self, text: str) -> np.ndarray:
        try:
            # Same ids as encode_ordinary, without a Python list, and an exception where that one panics.
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError as error:
            raise FolioError(
                f"the text holds {text[error.start]!r} at position {error.start}, half of a surrogate pair, "
                "which has no UTF-8 form; was it read with the wrong encoding?"
            ) from error
        except ValueError as error:
            raise FolioError(
                f"tokenizer {self.name} cannot split the text ({error}); look for a run of hundreds of "
                "thousands of spaces and shorten it, or use tokenizer=char"
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        checked: list[int] = _checked_ids(ids, self.vocab_size, self.name).tolist()
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
