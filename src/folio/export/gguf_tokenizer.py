"""Tokenizers in GGUF: byte-level byte-pair encodings, from their tokenizer.json."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from folio.data.tokenizers.base import Tokenizer
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    from gguf import GGUFWriter

NOT_BYTE_LEVEL = ("char", "word")
"""Tokenizers that llama.cpp cannot express: its vocabularies are made of bytes."""

WITHOUT_REGEX = "gpt-2"
"""Name of any splitting rule, for a tokenizer without merges, which never looks at it."""

PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "qwen2",
}
"""Patterns at which a text is split before it is encoded -> llama.cpp's names of them."""


@dataclass(frozen=True)
class VocabularyForLlamaCpp:
    """A vocabulary as GGUF has it."""

    tokens: list[str]
    """Bytes are written as the characters that GPT-2 has for them."""
    is_special: list[bool]
    n_unused: int
    """Number of ids at the end without a symbol, by which the model's vocabulary is padded."""
    merges: list[str]
    pattern: str
    """llama.cpp's name for the pattern at which a text is split."""
    end_of_text: int

    def add_to(self, writer: "GGUFWriter") -> None:
        """Add the keys of the tokenizer to a file."""
        from gguf import TokenType

        kinds = [TokenType.CONTROL if special else TokenType.NORMAL for special in self.is_special]
        unused = [f"[unused{index}]" for index in range(self.n_unused)]
        writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-level byte-pair encodings
        writer.add_tokenizer_pre(self.pattern)
        writer.add_token_list(self.tokens + unused)
        writer.add_token_types(kinds + self.n_unused * [TokenType.UNUSED])
        # llama.cpp requires merges, and an empty list cannot be written: this one joins what no vocabulary has.
        writer.add_token_merges(self.merges or ["[unused] [unused]"])
        writer.add_bos_token_id(self.end_of_text)
        writer.add_eos_token_id(self.end_of_text)
        writer.add_add_bos_token(False)


def check_tokenizer(name: str) -> None:
    """Raises: FolioError if llama.cpp cannot have such a tokenizer."""
    if name in NOT_BYTE_LEVEL:
        raise FolioError(
            f"tokenizer={name} stands in the way: llama.cpp knows byte-level byte pairs, not {name}s as symbols; "
            "train with tokenizer=bpe, byte or gpt2, or export for transformers"
        )


def vocabulary(tokenizer: Tokenizer, vocab_size: int) -> VocabularyForLlamaCpp:
    """Return the vocabulary of a tokenizer, padded to the model's. Raises: FolioError if GGUF has none like it."""
    from folio.export.tokenizer import tokenizer_json

    check_tokenizer(tokenizer.name)
    content = json.loads(tokenizer_json(tokenizer))
    model = content["model"]
    by_id = {token: text for text, token in model["vocab"].items()}
    special = {added["id"]: added["content"] for added in content.get("added_tokens") or () if added["special"]}
    tokens = [(by_id | special)[token] for token in range(tokenizer.vocab_size)]
    return VocabularyForLlamaCpp(
        tokens=tokens,
        is_special=[token in special for token in range(len(tokens))],
        n_unused=vocab_size - len(tokens),
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        pattern=_pattern(content, tokenizer.name),
        end_of_text=_end_of_text(tokenizer, by_id),
    )


def _pattern(content: dict[str, Any], name: str) -> str:
    """Return llama.cpp's name for the pattern of a tokenizer.json. Raises: FolioError if it has none."""
    model, splitter = content["model"], content.get("pre_tokenizer") or {}
    is_byte_level = model["type"] == "BPE" and not model.get("byte_fallback")
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
    raise FolioError(
        f"tokenizer={name} stands in the way: llama.cpp does not have its rule for splitting a text; "
        "train with tokenizer=bpe, byte or gpt2, or export for transformers"
    )


def _end_of_text(tokenizer: Tokenizer, by_id: dict[int, str]) -> int:
    """Return the id at which generation ends.

    llama.cpp must have one: without the key, it takes id 11. A tokenizer without an end of text gets the NUL byte,
    which no text that Folio trains on has.
    """
    from folio.data.tokenizers.byte_characters import characters_of

    if tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    return next(token for token, text in by_id.items() if text == characters_of(b"\0"))
