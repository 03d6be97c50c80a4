"""Tokenizers in GGUF: byte-level byte-pair encodings, from their tokenizer.json."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.huggingface import SAFE_PATTERNS
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    from gguf import GGUFWriter

IMPOSSIBLE = {
    "char": "knows byte-level byte pairs, not characters as symbols",
    "word": "knows byte-level byte pairs, not words as symbols",
    "cl100k_base": "does not have its rule for splitting a text",
}
"""Tokenizers that llama.cpp cannot have, and why."""

WITHOUT_REGEX = "gpt-2"
"""Name of any splitting rule, for a tokenizer without merges, which never looks at it."""

PATTERNS = dict(zip(SAFE_PATTERNS, ("llama-bpe", "qwen2"), strict=True))
"""Patterns at which a text is split before it is encoded -> llama.cpp's names of them."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens, as the specification numbers them."""


@dataclass(frozen=True)
class VocabularyForLlamaCpp:
    """A vocabulary as GGUF has it."""

    tokens: list[str]
    """The text of each id, in which bytes are the characters that GPT-2 has for them. Ids without a symbol, by which a
    model's vocabulary may be padded, have a name."""
    kinds: list[int]
    merges: list[str]
    pattern: str
    """llama.cpp's name for the pattern at which a text is split."""
    end_of_text: int

    def add_to(self, writer: "GGUFWriter") -> None:
        """Add the keys of the tokenizer to a file."""
        writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-level byte-pair encodings
        writer.add_tokenizer_pre(self.pattern)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        # llama.cpp requires merges, and an empty list cannot be written: this one joins what no vocabulary has.
        writer.add_token_merges(self.merges or ["[unused] [unused]"])
        writer.add_bos_token_id(self.end_of_text)
        writer.add_eos_token_id(self.end_of_text)
        writer.add_add_bos_token(False)


def check_tokenizer(name: str) -> None:
    """Raises: FolioError if llama.cpp cannot have such a tokenizer."""
    if name in IMPOSSIBLE:
        raise _refusal(name, IMPOSSIBLE[name])


def _refusal(name: str, reason: str) -> FolioError:
    return FolioError(
        f"tokenizer={name} stands in the way: llama.cpp {reason}; train with tokenizer=bpe, byte or gpt2, or export "
        "for transformers"
    )


def vocabulary(tokenizer: Tokenizer, vocab_size: int) -> VocabularyForLlamaCpp:
    """Return the vocabulary of a tokenizer, padded to the model's. Raises: FolioError if GGUF has none like it."""
    from folio.export.tokenizer import tokenizer_json

    check_tokenizer(tokenizer.name)
    content = json.loads(tokenizer_json(tokenizer))
    model = content["model"]
    pattern = _pattern(content, tokenizer.name)
    added = {token["id"]: token for token in content.get("added_tokens") or ()}
    texts = {token: text for text, token in model["vocab"].items()} | {
        token: value["content"] for token, value in added.items()
    }
    kinds = {token: CONTROL if value["special"] else USER_DEFINED for token, value in added.items()}
    return VocabularyForLlamaCpp(
        tokens=[texts.get(token, f"[unused{token}]") for token in range(vocab_size)],
        kinds=[kinds.get(token, NORMAL if token in texts else UNUSED) for token in range(vocab_size)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        pattern=pattern,
        end_of_text=_end_of_text(tokenizer, texts),
    )


def _pattern(content: dict[str, Any], name: str) -> str:
    """Return llama.cpp's name for the pattern of a tokenizer.json. Raises: FolioError if it has none."""
    model, splitter = content["model"], content.get("pre_tokenizer") or {}
    is_byte_level = model["type"] == "BPE" and not model.get("byte_fallback")
    # llama.cpp composes no characters; it reads Qwen's files, which do, all the same.
    is_byte_level = is_byte_level and (content.get("normalizer") or {"type": "NFC"})["type"] == "NFC"
    parts = splitter.get("pretokenizers", [splitter])
    if is_byte_level and parts[-1].get("type") == "ByteLevel" and not parts[-1].get("add_prefix_space"):
        if not model["merges"]:
            return WITHOUT_REGEX
        if len(parts) == 1 and parts[0]["use_regex"] and not model.get("ignore_merges"):
            return "gpt-2"
        if len(parts) == 2 and parts[0].get("type") == "Split" and not parts[1]["use_regex"]:
            found = PATTERNS.get(parts[0]["pattern"].get("Regex"))
            if found is not None and parts[0]["behavior"] == "Isolated":
                return found
    raise _refusal(name, "does not have its rule for splitting a text")


def _end_of_text(tokenizer: Tokenizer, texts: dict[int, str]) -> int:
    """Return the id at which generation ends.

    llama.cpp must have one: without the key, it takes id 11. A tokenizer without an end of text gets the NUL byte,
    which no text that Folio trains on has.
    """
    from folio.data.tokenizers.byte_characters import characters_of

    if tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    nul = next((token for token, text in texts.items() if text == characters_of(b"\0")), None)
    if nul is None:
        raise _refusal(tokenizer.name, "needs an end of text, and this one has none")
    return nul
