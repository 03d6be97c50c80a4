"""Any tokenizer.json of Hugging Face's library `tokenizers`, as data."""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from folio.data.tokenizers.base import LosslessTokenizer, Tokenizer, UnknownTokens, check_ids, encode_utf8
from folio.data.tokenizers.byte_characters import bytes_of
from folio.data.tokenizers.byte_pairs import last_safe_cut
from folio.data.tokenizers.state import check_state
from folio.data.tokenizers.tokenizer_json import (
    MAX_JSON_BYTES,
    TokenizerJSON,
    TokenizerJSONError,
    check_tokenizer_json,
)
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import UntrustedFileError, read_bytes, read_json_object, shown

if TYPE_CHECKING:
    import tokenizers

FILE = "tokenizer.json"

ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")
"""Names of the token that stands between documents, for a file without a tokenizer_config.json that names it."""

_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SAFE_PATTERNS = (rf"{_WORD}|\p{{N}}{{1,3}}|{_REST}", rf"{_WORD}|\p{{N}}|{_REST}")
"""The patterns of GPT-4 and Llama 3, and of Qwen, for which `last_safe_cut` holds as it does for GPT-2's."""

PIECE_CHARACTERS = 1 << 18
"""Length of the pieces in which a long text is encoded; the library needs some 250 bytes for each character."""

CONTEXT_IDS = 8
"""Number of earlier ids with which a new one is decoded, because they can decide on a space between them."""
MAX_PENDING_IDS = 8
"""Number of ids after which text that ends in an incomplete character is shown anyway."""


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a tokenizer.json. No special tokens are added, and those in a text are ordinary text.

    A tokenizer that changes the text, to lower case for instance, or has a token for what is unknown, leaves out part
    of it. `encode_with_unknown` decodes what it encodes, so that this is noticed.

    `library_json` is the file without what would add to a text or cut it; `adds_tokens` says whether it had tokens to
    add, such as [CLS].

    Raises: FolioError if the file is damaged, or could exhaust the machine.

        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "be": 1, "to": 2}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = HuggingFaceTokenizer(words.to_str().encode())
        >>> tokenizer.encode("to be").tolist(), tokenizer.unknown("to be"), tokenizer.unknown("not to be")
        ([2, 1], UnknownTokens(n_tokens=0, spelling_bits=0.0), UnknownTokens(n_tokens=1, spelling_bits=inf))
    """

    name = "huggingface"

    def __init__(self, tokenizer_json: bytes, end_of_text: str = "", checked: TokenizerJSON | None = None) -> None:
        self._file = tokenizer_json
        with _in_one_line("the tokenizer cannot be used"):
            checked = checked or check_tokenizer_json(tokenizer_json)
            self.library_json = checked.for_library()
            self._library = _load(checked, self.library_json)
        ids, self.adds_tokens = checked.ids, checked.adds_tokens
        self._vocab_size = max(ids.values()) + 1
        self._name_of_end = next((name for name in (end_of_text, *ENDS_OF_TEXT) if name in ids), "")
        self._end_of_text = ids.get(self._name_of_end)
        model = checked.value["model"]
        self._unknown_id = model.get("unk_id") if model["type"] == "Unigram" else ids.get(model.get("unk_token") or "")
        self._can_be_cut = _has_safe_cuts(checked.value)
        self.spaces_of_words = self._find_spaces_of_words()

    @classmethod
    def of(cls, tokenizer_json: bytes, end_of_text: str = "") -> "HuggingFaceTokenizer":
        """Return the tokenizer of the content of a file: a `ByteLevelTokenizer` if its ids stand for bytes."""
        with _in_one_line("the tokenizer cannot be used"):
            checked = check_tokenizer_json(tokenizer_json)
        decoder = checked.value.get("decoder")
        is_byte_level = isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"
        return (ByteLevelTokenizer if is_byte_level else HuggingFaceTokenizer)(tokenizer_json, end_of_text, checked)

    @classmethod
    def read(cls, path: Path) -> "HuggingFaceTokenizer":
        """Return the tokenizer of a file, or of the file tokenizer.json in a folder. Raises: FolioError."""
        file = path / FILE if path.is_dir() else path
        try:
            return cls.of(read_bytes(file, MAX_JSON_BYTES), _end_of_text_beside(file))
        except FileNotFoundError:
            raise FolioError(f"tokenizer.path={path} {_describe_missing(path)}") from None
        except OSError as error:
            raise FolioError(f"tokenizer.path={path} cannot be read: {error.strerror}; give another file") from None
        except FolioError as error:
            raise FolioError(f"tokenizer.path={path}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._file, self._name_of_end)  # for the processes that prepare a corpus

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def end_of_text(self) -> int | None:
        return self._end_of_text

    @property
    def source_sha256(self) -> str:
        return hashlib.sha256(self._file).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        encode_utf8(text)  # for the error message that every tokenizer gives for half of a surrogate pair
        with _in_one_line("tokenizer huggingface cannot encode the text", "use another text or tokenizer"):
            pieces = [
                self._library.encode_batch_fast([piece], add_special_tokens=False)[0].ids
                for piece in self._cut_long(text)
            ]
        return np.concatenate([np.array(ids, dtype=np.int64) for ids in pieces])

    def _cut_long(self, text: str) -> Iterator[str]:
        first = 0
        while len(text) - first > PIECE_CHARACTERS:
            cut = self.last_cut(text[first : first + PIECE_CHARACTERS])
            if not cut:
                break
            yield text[first : first + cut]
            first += cut
        yield text[first:]

    def decode(self, ids: Sequence[int]) -> str:
        checked: list[int] = check_ids(ids, self.vocab_size, self.name).tolist()
        with _in_one_line("tokenizer huggingface cannot decode these ids", "use another tokenizer"):
            return self._library.decode(checked, skip_special_tokens=False)

    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """A character whose bytes are spread over several ids appears with the last of them."""
        window, n_pending = list(after[-CONTEXT_IDS:]), 0
        shown = self.decode(window)
        for token in ids:
            window.append(token)
            n_pending += 1
            text = self.decode(window)
            if text.endswith("\N{REPLACEMENT CHARACTER}") and n_pending < MAX_PENDING_IDS:
                yield ""
                continue
            yield text[len(shown) :]
            window, n_pending = window[-CONTEXT_IDS:], 0
            shown = self.decode(window)
        if rest := self.decode(window)[len(shown) :]:
            yield rest

    def unknown(self, text: str) -> UnknownTokens:
        return self.encode_with_unknown(text)[1]

    def encode_with_unknown(self, text: str) -> tuple[np.ndarray, UnknownTokens]:
        """The spelling of what the ids leave out is not known, so its bits are infinite."""
        ids = self.encode(text)
        if self.decode(ids.tolist()) == text:
            return ids, UnknownTokens()
        n_unknown = 0 if self._unknown_id is None else int((ids == self._unknown_id).sum())
        return ids, UnknownTokens(n_unknown, math.inf)

    def last_cut(self, text: str) -> int:
        """There is none unless the file has a pattern that is known to have some."""
        return last_safe_cut(text) if self._can_be_cut else 0

    def newline_ids(self) -> np.ndarray:
        return self._newline_ids

    @cached_property
    def _newline_ids(self) -> np.ndarray:
        texts = self._library.decode_batch([[token] for token in range(self.vocab_size)], skip_special_tokens=False)
        return np.array([token for token, text in enumerate(texts) if "\n" in text], dtype=np.int64)

    def _find_spaces_of_words(self) -> Literal["none", "before", "around"]:
        words = "be be"
        try:
            tokens = self._library.encode(words, add_special_tokens=False).tokens
        except Exception:  # it lacks these letters
            return "none"
        if any(len(token) > 1 and token[0] in "Ġ▁ " for token in tokens):
            return "before"
        return "around" if len(tokens) == 2 else "none"

    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sha256": self.source_sha256,
            "end_of_text": self._name_of_end,
            "tokenizer_json": self._file,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "HuggingFaceTokenizer":
        check_state(state, sha256=str, end_of_text=str, tokenizer_json=bytes)
        tokenizer = cls.of(state["tokenizer_json"], state["end_of_text"])
        if tokenizer.source_sha256 != state["sha256"]:
            raise FolioError("the tokenizer.json of tokenizer huggingface is damaged; prepare the data or train again")
        return tokenizer


class ByteLevelTokenizer(HuggingFaceTokenizer, LosslessTokenizer):
    """A tokenizer.json whose ids stand for bytes, such as GPT-2's and Llama 3's.

    >>> from folio.data.tokenizers.byte_characters import characters_of
    >>> from tokenizers import Tokenizer, decoders, models
    >>> letters = Tokenizer(models.BPE({characters_of(bytes([byte])): byte for byte in range(256)}, []))
    >>> letters.decoder = decoders.ByteLevel()
    >>> HuggingFaceTokenizer.of(letters.to_str().encode()).decode_bytes([0xC3, 0xA9])
    b'\\xc3\\xa9'
    """

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[token] for token in check_ids(ids, self.vocab_size, self.name).tolist())

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of each id. An added token is plain text, and an id in a gap is U+FFFD, as with tiktoken."""
        tokens = [self._library.id_to_token(token) or "\N{REPLACEMENT CHARACTER}" for token in range(self.vocab_size)]
        return [token.encode() if (data := bytes_of(token)) is None else data for token in tokens]


def _load(checked: TokenizerJSON, library_json: str) -> "tokenizers.Tokenizer":
    """Raises: TokenizerJSONError; whatever the library raises."""
    import tokenizers

    library = tokenizers.Tokenizer.from_str(library_json)
    library.encode_special_tokens = True  # as ordinary text: neither a corpus nor a prompt can inject a special token
    for token in checked.value.get("added_tokens") or []:
        if library.token_to_id(token["content"]) != token["id"]:
            raise TokenizerJSONError(f"the id {token['id']} of {shown(repr(token['content']))} does not fit the others")
    return library


@contextmanager
def _in_one_line(problem: str, remedy: str = "give another file") -> Iterator[None]:
    """Turn all that the library raises into a FolioError, its panics included, which are no `Exception`."""
    try:
        yield
    except FolioError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise FolioError(f"{problem}: {shown(error)}; {remedy}") from error
        raise


def _has_safe_cuts(value: dict[str, Any]) -> bool:
    """Return whether `last_safe_cut` holds: the pattern is one of those for which it does, and nothing else interferes.

    NFC does not reach over white space, nor does an added token without it.
    """
    normalizer, pre_tokenizer = value.get("normalizer"), value.get("pre_tokenizer") or {}
    if normalizer is not None and normalizer.get("type") != "NFC":
        return False
    for token in value.get("added_tokens") or []:
        flags = (token.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
        if not token.get("special") and (any(flags) or re.search(r"\s", token["content"])):
            return False
    *others, last = pre_tokenizer.get("pretokenizers") or [pre_tokenizer]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return False
    if last.get("use_regex", True):
        return all(step.get("type") == "Digits" for step in others)
    return len(others) == 1 and any(others[0] == _split_isolated(pattern) for pattern in SAFE_PATTERNS)


def _split_isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _end_of_text_beside(file: Path) -> str:
    """Return the eos_token of the tokenizer_config.json beside a file; empty if there is none."""
    try:
        token = read_json_object(file.with_name("tokenizer_config.json")).get("eos_token")
    except (OSError, UntrustedFileError):
        return ""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _describe_missing(path: Path) -> str:
    if not path.exists():
        return "does not exist; give a tokenizer.json, or a folder that has one"
    return (
        f"has no {FILE}; make one with transformers: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), or give another folder"
    )
