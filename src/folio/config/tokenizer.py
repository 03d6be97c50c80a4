"""The tokenizers and their keys."""

from typing import Annotated, Literal

from pydantic import Field

from folio.config.section import Section


class TokenizerConfig(Section):
    """A tokenizer without options."""

    name: Literal["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "char", "byte"]


class WordTokenizerConfig(Section):
    """The words and punctuation of the text."""

    name: Literal["word"]
    max_vocab_size: Annotated[int, Field(ge=4, le=2**31 - 1)] | None
    """Number of ids, including those for unknown words, joins and spaces; one for every word when null."""
