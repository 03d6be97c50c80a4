"""Tokenizers as Hugging Face's tokenizer.json, for `transformers.AutoTokenizer` and whatever else reads that file."""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.byte_characters import characters_of
from folio.data.tokenizers.byte_pairs import BytePairTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.huggingface import HuggingFaceTokenizer
from folio.data.tokenizers.word import APOSTROPHES, JOIN, TOUCHES_LEFT, TOUCHES_RIGHT, UNKNOWN, WordTokenizer
from folio.runtime.errors import FolioError
from folio.runtime.files import write_atomically

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
)
"""tiktoken's patterns as Oniguruma writes them: \\z for the end, and no possessive repeats, which change nothing."""

ANY_CHARACTER = r"[\s\S]"
WORD_CHARACTER = r"[\p{L}\p{N}_]"
r"""Python's \w, which Oniguruma defines otherwise."""


def export_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int | None = None) -> list[str]:
    """Write tokenizer.json and tokenizer_config.json, from which `AutoTokenizer` makes an equal tokenizer.

    It gives the same ids for every text, and the same text for every id. As in Folio, text that looks like a special
    token is ordinary text, and none is added. `context_length` becomes `model_max_length`.

    Returns: lines for the user about what the files cannot express; most often there are none.
    Raises: FolioError if the format cannot hold the tokenizer; OSError from the disk.
    """
    content, config = tokenizer_json(tokenizer), tokenizer_config(tokenizer, context_length)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TOKENIZER_JSON, content.encode("utf-8"))
    write_atomically(folder / TOKENIZER_CONFIG, (json.dumps(config, indent=2) + "\n").encode("utf-8"))
    return what_is_lost(tokenizer)


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return the content of tokenizer.json. Raises: FolioError if the format cannot hold the tokenizer."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer.library_json
    if isinstance(tokenizer, BytePairTokenizer):
        built = _build_byte_pairs(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        built = _build_bytes()
    elif isinstance(tokenizer, CharTokenizer):
        built = _build_characters(tokenizer)
    elif isinstance(tokenizer, WordTokenizer):
        built = _build_words(tokenizer)
    else:
        raise FolioError(
            f"tokenizer={tokenizer.name} cannot be written as tokenizer.json; add it to folio.export.tokenizer"
        )
    return built.to_str()


def tokenizer_config(tokenizer: Tokenizer, context_length: int | None) -> dict[str, Any]:
    """Return the content of tokenizer_config.json."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # a text cannot inject a special token
        "model_input_names": ["input_ids", "attention_mask"],  # no token types, which transformers 4 gives to GPT-2
    }
    if context_length is not None:
        config["model_max_length"] = context_length
    if tokenizer.end_of_text is not None:
        end = tokenizer.decode([tokenizer.end_of_text])
        config |= {"bos_token": end, "eos_token": end}  # it stands between documents, as in GPT-2
    return config


def what_is_lost(tokenizer: Tokenizer) -> list[str]:
    """Return lines about what tokenizer.json cannot express."""
    if isinstance(tokenizer, WordTokenizer):
        join, mark = (f"U+{ord(character):04X}" for character in _noncharacters(tokenizer))
        return [
            f"tokenizer.json uses {join} and {mark} as marks, and the Unicode of its reader: a text with one of them, "
            f"or with letters that are newer than Unicode {unicodedata.unidata_version}, may get other ids"
        ]
    if isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.adds_tokens:
        return ["tokenizer.json adds no special tokens around a text, since the model was trained without them"]
    return []


def _build_byte_pairs(tokenizer: BytePairTokenizer) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    ranks = tokenizer.ranks
    merges, unreachable = merges_of(ranks)
    special = {name: tokenizer.encoding.encode_single_token(name) for name in tokenizer.encoding.special_tokens_set}
    vocabulary = {characters_of(token): rank for token, rank in ranks.items()} | special
    pairs = [(characters_of(left), characters_of(right)) for left, right in merges]
    built = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=unreachable))
    pattern = CL100K_PATTERN if tokenizer.name == "cl100k_base" else GPT2_PATTERN
    if pattern == GPT2_PATTERN:
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    built.decoder = decoders.ByteLevel()
    by_id = sorted(special, key=special.__getitem__)
    built.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in by_id])
    return built


def merges_of(ranks: Mapping[bytes, int]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the pair that each token is made of, in the order of ranks, and whether there are tokens without one.

    tiktoken joins whichever neighbours make the token with the lowest rank. Before two of them become a token, nothing
    has crossed its ends, so everything between them has been joined as if it stood alone. So the pair is always the
    one that is left of the token alone, and the list of these pairs, which Hugging Face's library works with, gives the
    same ids. A token without a pair is only found as a whole match of the pattern (`ignore_merges`).
    """
    pairs, has_unreachable = [], False
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            parts = _join_parts(token, ranks)
            if len(parts) == 2:
                pairs.append((parts[0], parts[1]))
            else:
                has_unreachable = True
    return pairs, has_unreachable


def _join_parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Join the bytes of a token as tiktoken does, except to the token itself."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [(ranks.get(parts[i] + parts[i + 1], len(ranks) + 2**32), i) for i in range(len(parts) - 1)]
        rank, i = min(joined)
        if rank >= 2**32:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _build_bytes() -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    built = Tokenizer(models.BPE({characters_of(bytes([byte])): byte for byte in range(256)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    return built


def _build_characters(tokenizer: CharTokenizer) -> "tokenizers.Tokenizer":
    """An unknown character is an error as in Folio, because the unknown token is not in the vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    characters = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    vocabulary = {character: token for token, character in enumerate(characters)}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    built.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
    built.decoder = decoders.Fuse()
    return built


def _build_words(tokenizer: WordTokenizer) -> "tokenizers.Tokenizer":
    """The rules of the word tokenizer as regular expressions.

    Encoding writes a mark for JOIN where two units touch against the rule, and replaces each space that the rule
    gives by a second mark, at which the text is then split. Decoding writes the second mark before each token, and
    replaces it by a space where the rule gives one.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    join, mark = _noncharacters(tokenizer)
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    texts[JOIN] = join
    # As in the tokenizer itself, the rule is for units that it knows; an unknown one takes spaces like a word.
    no_space_after, no_space_before = (
        _character_class([join, mark, *(text for text in texts if text in touching or text.isspace())])
        for touching in (TOUCHES_RIGHT, TOUCHES_LEFT)
    )
    apostrophe = _character_class(APOSTROPHES)
    before, behind = f"(?<=[^{no_space_after}])", f"(?=[^{no_space_before}])"
    word = WORD_CHARACTER
    between_units = f"(?!(?<={word})[{apostrophe}]?{word})(?!(?<={word}[{apostrophe}]){word})"
    # What lies between these is a word. An apostrophe inside a word has a letter on both sides.
    other_unit = f"[^{word[1:-1]}{apostrophe}]|(?<!{word})[{apostrophe}]|[{apostrophe}](?!{word})"

    vocabulary = {text: token for token, text in enumerate(texts)}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token=texts[UNKNOWN]))
    built.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(before + behind + between_units), join),
            normalizers.Replace(Regex(f"{before} {behind}"), mark),
        ]
    )
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(mark, "removed"), pre_tokenizers.Split(Regex(other_unit), "isolated")]
    )
    built.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"\A"), mark),
            decoders.Fuse(),
            decoders.Replace(Regex(before + mark + behind), " "),
            decoders.Replace(Regex(f"[{mark}{join}]"), ""),
        ]
    )
    return built


def _noncharacters(tokenizer: WordTokenizer) -> tuple[str, str]:
    """Return two code points that Unicode reserves for uses like this, and that the vocabulary does not have."""
    free = [chr(code) for code in range(0xFDD0, 0xFDF0) if tokenizer.encode(chr(code)).tolist() == [UNKNOWN]]
    return free[0], free[1]


def _character_class(characters: Iterable[str]) -> str:
    return "".join(f"\\x{{{ord(character):X}}}" for character in characters)
