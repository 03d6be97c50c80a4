"""The labels of an attention figure are the tokens that the model reads."""

from dataclasses import replace
from typing import Any

import pytest

from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.word import WordTokenizer
from folio.figures.labeled_prompt import MAX_TOKENS, label_prompt, token_labels
from folio.models import TransformerConfig
from folio.runtime.errors import FolioError

LETTERS = CharTokenizer(" abcdefghijklmnopqrstuvwxyz")
DECODER = TransformerConfig(vocab_size=300, context_length=64, n_layers=1, n_heads=1, d_model=4)


def other(**changes: Any) -> TransformerConfig:
    return replace(DECODER, **changes)


ENCODER = other(family="encoder")
CROSSED = other(family="encoder_decoder", conditioning="cross_attention")
CACHED = other(family="encoder_decoder", conditioning="hidden_cache")


def test_a_decoder_attends_from_each_token_to_all() -> None:
    prompt = label_prompt(DECODER, LETTERS, "ab c")
    assert prompt.tokens == LETTERS.encode("ab c").tolist()
    assert prompt.row_labels == prompt.column_labels == ["a", "b", " ", "c"]
    assert (prompt.prefix, prompt.divider, prompt.note) == ([], 0, "")


def test_an_encoder_reads_text_with_and_without_blanks() -> None:
    assert label_prompt(ENCODER, LETTERS, "a[MASK]c").row_labels == ["a", "[MASK]", "c"]
    assert label_prompt(ENCODER, LETTERS, "a[MASK]c").tokens[1] == LETTERS.vocab_size
    assert label_prompt(ENCODER, LETTERS, "abc").row_labels == ["a", "b", "c"]


def test_the_rows_of_an_encoder_decoder_start_with_the_last_token_of_the_prefix() -> None:
    crossed = label_prompt(CROSSED, LETTERS, "de", "abc")
    assert (crossed.prefix, crossed.tokens) == (LETTERS.encode("abc").tolist(), LETTERS.encode("cde").tolist())
    assert crossed.row_labels == ["c", "d", "e"]
    assert (crossed.column_labels, crossed.divider) == (["a", "b", "c"], 0)
    assert label_prompt(CROSSED, LETTERS, "", "abc").row_labels == ["c"]


def test_with_a_hidden_cache_prefix_and_text_are_attended_to() -> None:
    cached = label_prompt(CACHED, LETTERS, "de", "abc")
    assert (cached.column_labels, cached.divider) == (["a", "b", "c", "c", "d", "e"], 3)


def test_a_long_text_is_cut_before_labels_become_illegible_with_a_note() -> None:
    prompt = label_prompt(DECODER, LETTERS, "abcde" * 8)
    assert (len(prompt.tokens), prompt.note) == (MAX_TOKENS, f"the first {MAX_TOKENS} of 40 tokens")
    assert prompt.row_labels[:5] == list("abcde")
    crossed = label_prompt(CROSSED, LETTERS, "xyz", "abcde" * 8)
    assert (len(crossed.prefix), crossed.note) == (MAX_TOKENS, f"the last {MAX_TOKENS} of 40 tokens of the prefix")
    assert crossed.column_labels[-5:] == list("abcde")


def test_a_short_context_cuts_the_text_too() -> None:
    assert label_prompt(other(context_length=4), LETTERS, "abcdef").note == "the first 4 of 6 tokens"


@pytest.mark.parametrize(
    ("config", "prompt", "prefix", "message"),
    [
        (DECODER, "", None, "prompt='' gives no tokens"),
        (ENCODER, "", None, "prompt='' gives no tokens"),
        (DECODER, "a", "b", "prefix='b' is for an encoder-decoder"),
        (ENCODER, "a", "b", "prefix='b' is for an encoder-decoder"),
        (CROSSED, "a", None, "the model is an encoder-decoder, which continues a prefix, and there is none"),
        (CROSSED, "a", "", "prefix='' gives no tokens"),
        (DECODER, "A", None, "the char tokenizer has no id for 'A'"),
    ],
)
def test_a_text_that_the_model_cannot_read_is_refused(
    config: TransformerConfig, prompt: str, prefix: str | None, message: str
) -> None:
    with pytest.raises(FolioError, match=message):
        label_prompt(config, LETTERS, prompt, prefix)


def test_bytes_that_are_part_of_a_character_are_labeled_with_their_value() -> None:
    tokenizer = ByteTokenizer()
    assert token_labels(tokenizer, tokenizer.encode("aé\n").tolist()) == ["a", "\\xc3", "\\xa9", "\n"]


def test_words_are_labeled_without_their_implied_spaces() -> None:
    tokenizer = WordTokenizer.from_text("To be, or not to be", None)
    assert token_labels(tokenizer, tokenizer.encode("be, not To").tolist()) == ["be", ",", "not", "To"]
